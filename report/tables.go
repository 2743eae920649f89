package report

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/study"
)

// table is a table of the page, whose first column names variants.
type table struct {
	Caption string
	Head    []head
	Guess   *tableRow // what guessing reaches, if any column has that
	Rows    []tableRow
	Sort    bool
}

type head struct {
	Text, Note string
	Number     bool
}

type tableRow struct {
	Label string
	Tags  []string
	Class string
	Cells []cell
}

// cell is a value with a second line.
type cell struct {
	Text, Error string
	Below       string   // the change
	Mark        string   // "better", "worse" or ""
	Tags        []string // what must be said beside it
	Sort        string   // the number to sort by, "" for none
	Number      bool
}

// number is the cell of a number that was written.
func number(text string, x float64) cell {
	c := cell{Text: text, Number: true}
	if finite(x) != nil {
		c.Sort = strconv.FormatFloat(x, 'g', 8, 64)
	}
	return c
}

func missingCell() cell { return cell{Text: none, Number: true} }

// maxHeadline is the number of variants up to which the headline table has all of them.
const maxHeadline = 40

// headline are the variants of the headline table: all of them, or where there are too
// many the dense one, the recommended one, those on a front, and the best of each size.
func (r *Report) headline(s *Set) (chosen []*Variant, all bool) {
	best := map[string]*Variant{}
	for i := range s.Variants {
		v := &s.Variants[i]
		if b := best[v.Size]; v.Quality != nil && (b == nil || v.Quality.Value > b.Quality.Value) {
			best[v.Size] = v
		}
	}
	for i := range s.Variants {
		v := &s.Variants[i]
		if len(s.Variants) <= maxHeadline || v == s.dense() || v.ID == r.Recommendation.ID || len(v.Front) > 0 || best[v.Size] == v {
			chosen = append(chosen, v)
		}
	}
	if len(chosen) > maxHeadline {
		chosen = chosen[:maxHeadline]
	}
	return chosen, len(chosen) == len(s.Variants)
}

// mainColumns are the indexes of the columns of the headline table.
func (s *Set) mainColumns() []int {
	var out []int
	for j, c := range s.Columns {
		if c.Main {
			out = append(out, j)
		}
	}
	return out
}

// valueTable sets variants against their values: size, quality, the columns, speed, energy.
func (r *Report) valueTable(s *Set, caption string, vs []*Variant, columns []int) table {
	t := table{Caption: caption, Sort: len(vs) > 2, Head: []head{
		{Text: "Quality", Note: "% of dense", Number: true}, {Text: "Parameters", Number: true}, {Text: "Bytes", Number: true}}}
	for _, j := range columns {
		t.Head = append(t.Head, s.columnHead(j))
	}
	speed := slices.ContainsFunc(vs, func(v *Variant) bool { return v.TokensPS != nil })
	joules := slices.ContainsFunc(vs, func(v *Variant) bool { return v.JoulesPerToken != nil })
	if speed {
		t.Head = append(t.Head, head{"Speed", r.speed.kind + " tokens/s", true})
	}
	if joules {
		note := "J a token"
		if slices.ContainsFunc(vs, func(v *Variant) bool { return v.EnergyEstimate }) {
			note += ", estimate"
		}
		t.Head = append(t.Head, head{"Energy", note, true})
	}
	t.guessRow(s, columns)
	for _, v := range vs {
		row := tableRow{Label: v.Label}
		if v.ID == r.Recommendation.ID {
			row.Class, row.Tags = "chosen", append(row.Tags, "recommended")
		}
		if len(v.Front) > 0 && v.Cell.Method != study.Dense {
			row.Tags = append(row.Tags, "front")
		}
		row.Cells = append(row.Cells, qualityCell(v))
		row.Cells = append(row.Cells, sizeCells(s.dense(), v)...)
		for _, j := range columns {
			row.Cells = append(row.Cells, valueCell(s.Columns[j], &v.Values[j]))
		}
		if speed {
			row.Cells = append(row.Cells, amountCell(v.TokensPS, func(d *Variant) *Amount { return d.TokensPS }, s.dense(), v))
		}
		if joules {
			row.Cells = append(row.Cells, amountCell(joulesOf(v), joulesOf, s.dense(), v))
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// guessRow adds what guessing reaches to the head.
func (t *table) guessRow(s *Set, columns []int) {
	if !slices.ContainsFunc(columns, func(j int) bool { return s.Columns[j].guess() > 0 }) {
		return
	}
	row := tableRow{Label: "chance / majority", Cells: make([]cell, len(t.Head))}
	for i, j := range columns {
		if c := s.Columns[j]; c.Chance != nil && c.Majority != nil {
			row.Cells[3+i] = cell{Text: fmt.Sprintf("%.1f / %.1f", 100**c.Chance, 100**c.Majority), Number: true}
		}
	}
	t.Guess = &row
}

// columnHead names a column with its unit.
func (s *Set) columnHead(j int) head {
	c := s.Columns[j]
	h := head{Text: c.Task, Note: strings.ReplaceAll(c.Metric, "_", " "), Number: true}
	if c.accuracy() {
		h.Note += ", %"
	}
	return h
}

// sizeCells are parameters and bytes, with what is left of the dense model's.
func sizeCells(d, v *Variant) []cell {
	one := func(n, of int64, text string) cell {
		if n == 0 {
			return missingCell()
		}
		c := number(text, float64(n))
		if of > 0 && v != d {
			c.Below = fmt.Sprintf("%.0f %%", 100*float64(n)/float64(of))
		}
		return c
	}
	var dp, db int64
	if d != nil {
		dp, db = d.Parameters, d.Bytes
	}
	return []cell{one(v.Parameters, dp, count(v.Parameters)), one(v.Bytes, db, byteSize(v.Bytes))}
}

func qualityCell(v *Variant) cell {
	if v.Quality == nil {
		return missingCell()
	}
	c := number(fmt.Sprintf("%.1f", 100*v.Quality.Value), v.Quality.Value)
	if v.Quality.StdErr != nil {
		c.Error = fmt.Sprintf("%.1f", 100**v.Quality.StdErr)
	}
	return c
}

// valueCell is a value with its error, its change against dense, and its marks.
func valueCell(col Column, v *Value) cell {
	if v.Metric == nil {
		return missingCell()
	}
	c := number(metricValue(col.Metric, v.Metric), v.Metric.Value)
	if v.Metric.Overflow() {
		c.Sort = "1e999"
	}
	c.Error = metricError(col.Metric, v.Metric)
	c.Below = v.Dense.text(col)
	for _, m := range v.Marks {
		switch m {
		case Better:
			c.Mark = "better"
		case Worse:
			c.Mark = "worse"
		case BelowMajority:
			c.Tags = append(c.Tags, "< majority")
		case NotAboveGuess:
			c.Tags = append(c.Tags, "\u2248 guessing")
		}
	}
	return c
}

func joulesOf(v *Variant) *Amount {
	if v.JoulesPerToken == nil {
		return nil
	}
	return &Amount{Value: *v.JoulesPerToken}
}

// amountCell is a number with its ratio to the dense model's.
func amountCell(a *Amount, get func(*Variant) *Amount, d, v *Variant) cell {
	if a == nil {
		return missingCell()
	}
	c := number(digits(a.Value), a.Value)
	if d != nil && d != v && get(d) != nil && get(d).Value > 0 {
		c.Below = "\u00d7" + factor(a.Value/get(d).Value)
	}
	return c
}

// testTable has the paired tests of all variants against the dense model, or against maxabs at
// the same size; ok is false where there are none.
func (s *Set) testTable(caption string, columns []int, get func(*Value) *Change) (t table, ok bool) {
	t = table{Caption: caption, Sort: true}
	for _, j := range columns {
		h := head{s.Columns[j].Task, strings.ReplaceAll(s.Columns[j].Metric, "_", " ") + ", factor", true}
		if s.Columns[j].accuracy() {
			h.Note = strings.ReplaceAll(s.Columns[j].Metric, "_", " ") + ", points"
		}
		t.Head = append(t.Head, h)
	}
	for i := range s.Variants {
		v := &s.Variants[i]
		row := tableRow{Label: v.Label}
		some := false
		for _, j := range columns {
			c := get(&v.Values[j])
			if c == nil || c.Test == nil {
				row.Cells = append(row.Cells, missingCell())
				continue
			}
			some = true
			row.Cells = append(row.Cells, testCell(s.Columns[j], &v.Values[j], c))
		}
		if some {
			t.Rows = append(t.Rows, row)
			ok = true
		}
	}
	return t, ok
}

// testCell is a change with its p value, and what the test counted.
func testCell(col Column, v *Value, c *Change) cell {
	out := number(c.text(col), c.Test.P)
	if out.Text == "" {
		out.Text = "overflow"
	}
	out.Below = "p " + pValue(c.Test.P)
	if c.Test.Name == "mcnemar_exact" {
		out.Below += fmt.Sprintf("; %d : %d", c.Test.OnlyBaseline, c.Test.OnlyOther)
	}
	switch v.mark(col, c) {
	case Better:
		out.Mark = "better"
	case Worse:
		out.Mark = "worse"
	}
	return out
}

// seedTable says how far seeds move quality; ok is false where no variant has several.
func (s *Set) seedTable() (t table, ok bool) {
	t = table{Caption: "Quality by seed, " + s.name(), Head: []head{
		{Text: "Seeds", Number: true}, {Text: "Mean", Note: "% of dense", Number: true}, {Text: "Least", Number: true}, {Text: "Most", Number: true}}}
	type key struct{ series, size string }
	of := map[key][]float64{}
	var order []key
	for i := range s.Variants {
		v := &s.Variants[i]
		if v.Quality == nil {
			continue
		}
		k := key{v.Series, v.Size}
		if of[k] == nil {
			order = append(order, k)
		}
		of[k] = append(of[k], v.Quality.Value)
	}
	for _, k := range order {
		q := of[k]
		if len(q) < 2 {
			continue
		}
		row := tableRow{Label: strings.TrimSpace(k.series + " " + k.size), Cells: []cell{number(strconv.Itoa(len(q)), float64(len(q)))}}
		for _, x := range []float64{eval.Mean(q), slices.Min(q), slices.Max(q)} {
			row.Cells = append(row.Cells, number(fmt.Sprintf("%.1f", 100*x), x))
		}
		t.Rows = append(t.Rows, row)
	}
	return t, len(t.Rows) > 0
}
