package report

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/coppice-lm/coppice/study"
)

// JSON returns the report as strict JSON: what the page says, with numbers in full.
func (r *Report) JSON() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// csvHead names the columns of CSV. Numbers are in full and in base units: bytes, seconds,
// joules, accuracies between 0 and 1. What was not measured is empty.
var csvHead = []string{
	"cell", "model", "base_model", "method", "allocation", "ratio", "width", "expansion", "align", "seed", "dtype", "status", "error",
	"parameters", "mlp_parameters", "bytes", "stored_dtype",
	"task", "group", "metric", "records", "value", "stderr", "log", "chance", "majority",
	"dense_value", "change", "relative_change", "test", "test_records", "p", "only_dense", "only_variant", "low", "high",
	"maxabs_change", "maxabs_p",
	"quality", "quality_stderr", "load_seconds", "peak_memory_bytes", "tokens_per_second", "tokens_per_second_of",
	"joules", "net_joules", "joules_tokens", "joules_per_token", "energy_meter", "energy_is_estimate", "data_fingerprint",
}

// CSV returns a row for each cell, task and metric. A cell that failed has one row, without
// a task.
func (r *Report) CSV() ([]byte, error) {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	rows := [][]string{csvHead}
	for _, s := range r.Sets {
		dense := s.dense()
		for i := range s.Variants {
			v := &s.Variants[i]
			for j, c := range s.Columns {
				if v.Values[j].Metric == nil {
					continue
				}
				row := r.csvCell(v)
				row.addValue(c, &v.Values[j])
				if dense != nil && dense.Values[j].Metric != nil {
					row["dense_value"] = full(finite(dense.Values[j].Metric.Value))
				}
				row["data_fingerprint"] = v.Cell.Data[c.Task]
				rows = append(rows, row.list())
			}
		}
	}
	for i := range r.failed {
		rows = append(rows, csvFailure(&r.failed[i]).list())
	}
	if err := w.WriteAll(rows); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// csvRow is a row by the names of its columns.
type csvRow map[string]string

func (row csvRow) list() []string {
	out := make([]string, len(csvHead))
	for i, name := range csvHead {
		out[i] = row[name]
	}
	return out
}

// full writes a number so that it reads back as it is, "" for nil.
func full(x *float64) string {
	if x == nil {
		return ""
	}
	return strconv.FormatFloat(*x, 'g', -1, 64)
}

// nonZero writes a number, "" where zero means that there is none.
func nonZero[T int | int64 | float64](x T) string {
	if x == 0 {
		return ""
	}
	return fmt.Sprint(x)
}

func csvIdentity(c *study.Cell, status study.Status) csvRow {
	return csvRow{
		"cell": c.ID, "model": c.Model, "base_model": c.BaseModel, "method": c.Method, "allocation": c.Allocation,
		"ratio": nonZero(c.Ratio), "width": nonZero(c.Width), "expansion": nonZero(c.Expansion), "align": nonZero(c.Align),
		"seed": strconv.FormatUint(c.Seed, 10), "dtype": c.DType, "status": string(status),
	}
}

func csvFailure(r *study.Record) csvRow {
	row := csvIdentity(&r.Cell, r.Status)
	row["error"] = r.Error
	return row
}

// csvCell has what all rows of a variant have.
func (r *Report) csvCell(v *Variant) csvRow {
	row := csvIdentity(&v.Cell, v.record.Status)
	if s := v.record.Shape; s != nil {
		row["parameters"], row["mlp_parameters"], row["bytes"], row["stored_dtype"] = nonZero(s.Parameters), nonZero(s.MLPParameters), nonZero(s.Bytes), s.StoredDType
	}
	if q := v.Quality; q != nil {
		row["quality"], row["quality_stderr"] = full(&q.Value), full(q.StdErr)
	}
	if v.TokensPS != nil {
		row["tokens_per_second"], row["tokens_per_second_of"] = full(&v.TokensPS.Value), fmt.Sprintf("%s, context %d, batch %d", r.speed.kind, r.speed.context, r.speed.batch)
	}
	if run := v.record.Run; run != nil {
		row["load_seconds"], row["peak_memory_bytes"] = nonZero(run.LoadSeconds), nonZero(run.PeakMemory)
		if e := run.Energy; e != nil {
			row["energy_meter"] = e.Meter
			row["joules"], row["net_joules"], row["joules_tokens"] = full(e.Joules), full(e.NetJoules), nonZero(e.Tokens)
			row["joules_per_token"] = full(v.JoulesPerToken)
			if e.Joules != nil {
				row["energy_is_estimate"] = strconv.FormatBool(e.Estimate)
			}
		}
	}
	return row
}

// addValue has what the row's metric says.
func (row csvRow) addValue(c Column, v *Value) {
	row["task"], row["group"], row["metric"], row["records"] = c.Task, c.Group, c.Metric, nonZero(v.Records)
	row["value"], row["stderr"], row["log"] = full(finite(v.Metric.Value)), full(finite(v.Metric.StdErr)), full(finite(v.Metric.Log))
	if v.Metric.Overflow() {
		row["value"] = "inf"
	}
	row["chance"], row["majority"] = full(c.Chance), full(c.Majority)
	if d := v.Dense; d != nil {
		row["change"], row["relative_change"] = full(d.Change), full(d.Relative)
		if t := d.Test; t != nil {
			row["test"], row["test_records"], row["p"] = t.Name, strconv.Itoa(t.Records), full(&t.P)
			if c.accuracy() {
				row["only_dense"], row["only_variant"] = strconv.Itoa(t.OnlyBaseline), strconv.Itoa(t.OnlyOther)
			} else {
				row["low"], row["high"] = full(&t.Low), full(&t.High)
			}
		}
	}
	if m := v.MaxAbs; m != nil {
		row["maxabs_change"] = full(m.Change)
		if m.Test != nil {
			row["maxabs_p"] = full(&m.Test.P)
		}
	}
}

// Markdown returns findings, recommendation and the headline table as GitHub's Markdown.
func (r *Report) Markdown() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n%s\n\n## Findings\n\n", markdownText(r.Title), markdownText(r.lead()))
	for _, f := range r.Findings {
		text := f.Text
		if f.Set != "" {
			text = f.Set + ": " + text
		}
		fmt.Fprintf(&b, "- %s\n", markdownText(text))
	}
	b.WriteString("\n## Recommendation\n\n")
	for _, reason := range r.Recommendation.Reasons {
		fmt.Fprintf(&b, "- %s\n", markdownText(reason))
	}
	for _, s := range r.Sets {
		vs, _ := r.headline(s)
		t := r.valueTable(s, s.name(), vs, s.mainColumns())
		fmt.Fprintf(&b, "\n## %s\n\n", markdownText(t.Caption))
		t.markdown(&b)
	}
	if len(r.Sets) > 0 {
		fmt.Fprintf(&b, "\nValue ± standard error (change against dense: points for accuracies, a factor for perplexities; * where a paired test finds a difference, p < 0.05). %s\n", markdownText(r.Quality.words()))
	}
	for _, list := range []struct {
		head  string
		lines []string
	}{{"Failed", failures(r.Failed)}, {"Not measured", r.Missing}, {"Notes", r.Notes}} {
		if len(list.lines) > 0 {
			fmt.Fprintf(&b, "\n## %s\n\n", list.head)
		}
		for _, l := range list.lines {
			fmt.Fprintf(&b, "- %s\n", markdownText(l))
		}
	}
	return []byte(b.String())
}

func failures(failed []Failure) []string {
	var out []string
	for _, f := range failed {
		out = append(out, f.Label+": "+f.Error)
	}
	return out
}

// markdown writes the table.
func (t *table) markdown(b *strings.Builder) {
	b.WriteString("| variant |")
	for _, h := range t.Head {
		fmt.Fprintf(b, " %s |", markdownText(strings.TrimSpace(h.Text+" "+h.Note)))
	}
	b.WriteString("\n|---|" + strings.Repeat("--:|", len(t.Head)) + "\n")
	rows := t.Rows
	if t.Guess != nil {
		rows = slices.Concat([]tableRow{*t.Guess}, rows)
	}
	for _, row := range rows {
		label := markdownText(row.Label)
		if row.Class == "chosen" {
			label = "**" + label + "**"
		}
		fmt.Fprintf(b, "| %s |", label)
		for _, c := range row.Cells {
			text := c.Text
			if c.Error != "" {
				text += " ± " + c.Error
			}
			if c.Below != "" {
				text += " (" + c.Below
				if c.Mark != "" {
					text += "*"
				}
				text += ")"
			}
			for _, tag := range c.Tags {
				text += ", " + tag
			}
			fmt.Fprintf(b, " %s |", markdownText(text))
		}
		b.WriteByte('\n')
	}
}

// markdownText writes a text so that none of it is markup.
func markdownText(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n' || r == '\r' || r == '\t':
			r = ' '
		case strings.ContainsRune("\\`*_[]<>|#~&", r):
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}
