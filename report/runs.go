package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/study"
)

// speedTable has every measurement of throughput, with load time and memory.
func (s *Set) speedTable() (t table, ok bool) {
	t = table{Caption: "Speed and memory, " + s.name(), Sort: true, Head: []head{
		{"Load", "s", true}, {"Peak memory", "MB", true}, {"Time", "the whole cell", true}}}
	var keys []speedKey
	for i := range s.Variants {
		if run := s.Variants[i].record.Run; run != nil {
			ok = true
			for _, m := range run.Speed {
				if k := (speedKey{m.Kind, m.Batch, m.Context}); !slices.Contains(keys, k) {
					keys = append(keys, k)
				}
			}
		}
	}
	slices.SortFunc(keys, func(a, b speedKey) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.batch, b.batch), cmp.Compare(a.context, b.context))
	})
	for _, k := range keys {
		t.Head = append(t.Head, head{strings.ToUpper(k.kind[:min(1, len(k.kind))]) + k.kind[min(1, len(k.kind)):],
			fmt.Sprintf("tokens/s; context %d, batch %d", k.context, k.batch), true})
	}
	for i := range s.Variants {
		v := &s.Variants[i]
		run := v.record.Run
		if run == nil {
			continue
		}
		row := tableRow{Label: v.Label, Cells: []cell{missingCell(), missingCell(), number(duration(run.Seconds), run.Seconds)}}
		if run.LoadSeconds > 0 {
			row.Cells[0] = number(digits(run.LoadSeconds), run.LoadSeconds)
		}
		if run.PeakMemory > 0 {
			row.Cells[1] = number(thousands(float64(run.PeakMemory)/1e6, 0), float64(run.PeakMemory))
		}
		for _, k := range keys {
			c := missingCell()
			for _, m := range run.Speed {
				if (speedKey{m.Kind, m.Batch, m.Context}) == k {
					c = number(digits(m.TokensPS), m.TokensPS)
					if len(m.Runs) > 1 {
						c.Below = digits(slices.Min(m.Runs)) + "\u2013" + digits(slices.Max(m.Runs))
					}
				}
			}
			row.Cells = append(row.Cells, c)
		}
		t.Rows = append(t.Rows, row)
	}
	return t, ok
}

// energyTable has what the meters read; ok is false where no variant has a reading.
func (s *Set) energyTable() (t table, ok bool) {
	t = table{Caption: "Energy of the evaluations, " + s.name(), Head: []head{
		{"Meter", "", false}, {"In all", "J", true}, {"Idle", "W", true}, {"Less idle", "J", true},
		{"Tokens", "model input", true}, {"A token", "J, idle included", true}, {"CO\u2082e", "g", true}, {"Domains", "J; in brackets: not counted", false}}}
	for i := range s.Variants {
		v := &s.Variants[i]
		if v.record.Run == nil || v.record.Run.Energy == nil {
			continue
		}
		e := v.record.Run.Energy
		meter := e.Meter
		if e.Estimate {
			meter += " (estimate)"
		}
		if e.Joules == nil {
			meter = "absent"
			if e.Absent != "" {
				meter += ": " + e.Absent
			}
		} else {
			ok = true
		}
		row := tableRow{Label: v.Label, Cells: []cell{{Text: meter}}}
		tokens := missingCell()
		if e.Tokens > 0 {
			tokens = number(thousands(float64(e.Tokens), 0), float64(e.Tokens))
		}
		row.Cells = append(row.Cells, optional(e.Joules), optional(e.IdleWatts), optional(e.NetJoules), tokens,
			optional(v.JoulesPerToken), optional(e.GramsCO2e), cell{Text: domains(e)})
		t.Rows = append(t.Rows, row)
	}
	return t, ok
}

func optional(x *float64) cell {
	if x == nil {
		return missingCell()
	}
	return number(digits(*x), *x)
}

// domains writes the meters' readings, those that are part of others in brackets.
func domains(e *study.Energy) string {
	var out []string
	for _, d := range e.Domains {
		text := d.Name + " " + digits(d.Joules)
		if !d.Counted {
			text = "(" + text + ")"
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

// provenance is how a variant's numbers were made.
type provenance struct {
	Label    string
	ID       string
	Facts    []string
	Commands []string
}

func (s *Set) provenances() []provenance {
	var out []provenance
	for i := range s.Variants {
		v := &s.Variants[i]
		p := provenance{Label: v.Label, ID: v.ID, Commands: v.record.Commands}
		p.Facts = append(p.Facts, "model "+v.Cell.ModelFingerprint)
		if v.Cell.Calibration != "" {
			p.Facts = append(p.Facts, "calibration "+v.Cell.Calibration)
		}
		if c := v.record.Conditions; c != nil && c.Weights != "" {
			p.Facts = append(p.Facts, "weights "+c.Weights)
		}
		p.Facts = append(p.Facts, fmt.Sprintf("seed %d", v.Cell.Seed))
		if run := v.record.Run; run != nil {
			p.Facts = append(p.Facts, fmt.Sprintf("begun %s, took %s", run.Started, duration(run.Seconds)))
		}
		out = append(out, p)
	}
	return out
}

// dataset is what is known of a task's records.
type dataset struct {
	Task, Kind, Source, Asked, Fingerprint string
}

// datasets lists the tasks as the first variant that has them was asked.
func (r *Report) datasets() []dataset {
	var out []dataset
	r.each(func(_ *Set, v *Variant) {
		for i := range v.record.Tasks {
			t := &v.record.Tasks[i].TaskResult
			if slices.ContainsFunc(out, func(d dataset) bool { return d.Task == t.Name }) {
				continue
			}
			asked := fmt.Sprintf("%s of %s", thousands(float64(t.Evaluated), 0), thousands(float64(t.Records), 0))
			if t.Truncated > 0 {
				asked += fmt.Sprintf("; %s cut to fit", plural(t.Truncated, "request"))
			}
			out = append(out, dataset{t.Name, strings.ReplaceAll(string(t.Kind), "_", " "), t.Source, asked, t.Fingerprint})
		}
	})
	return out
}

// conditions says how the tasks were asked, a sentence for each way.
func (r *Report) conditions() []string {
	var out []string
	r.each(func(_ *Set, v *Variant) {
		c := v.record.Conditions
		if c == nil {
			return
		}
		text := fmt.Sprintf("--bos %s and at most %s tokens of input", c.BOS, thousands(float64(c.MaxLength), 0))
		if !slices.Contains(out, text) {
			out = append(out, text)
		}
	})
	return out
}
