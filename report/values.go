package report

import (
	"math"
	"slices"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/study"
)

// mainMetrics are the metrics of a kind of task that stand in the headline table, the one
// that quality is made of first. Perplexity per word can be compared between tokenizers,
// per token it cannot.
func mainMetrics(kind eval.Kind) []string {
	switch kind {
	case eval.MultipleChoice:
		return []string{eval.Acc}
	case eval.Cloze:
		return []string{eval.Acc, eval.Perplexity}
	}
	return []string{eval.WordPerplexity}
}

// addColumns lists the metrics that any variant has, in the order of the records' tasks, a
// group before its parts.
func (s *Set) addColumns() {
	for i := range s.Variants {
		rec := s.Variants[i].record
		for j := range rec.Tasks {
			t := &rec.Tasks[j].TaskResult
			var in *eval.GroupResult
			for k := range rec.Groups {
				if slices.Contains(rec.Groups[k].Tasks, t.Name) {
					in = &rec.Groups[k]
				}
			}
			if in != nil {
				s.addTask(Column{Task: in.Name, Chance: &in.Chance, Majority: &in.Majority}, in.Metrics, eval.MultipleChoice)
			}
			c := Column{Task: t.Name}
			if in != nil {
				c.Group = in.Name
			}
			if t.Guessing != nil {
				c.Chance, c.Majority = &t.Guessing.Chance, &t.Guessing.Majority
			}
			s.addTask(c, t.Metrics, t.Kind)
		}
	}
}

// addTask adds a column for each of the metrics, the main ones marked. A task without any
// of its kind's main metrics has its first for one. Where an earlier variant was asked the
// task, metrics that it lacks follow, none of them main.
func (s *Set) addTask(c Column, metrics []eval.Metric, kind eval.Kind) {
	if i := slices.IndexFunc(s.Columns, func(o Column) bool { return o.Task == c.Task }); i >= 0 {
		s.addMetrics(i, metrics)
		return
	}
	main := mainMetrics(kind)
	has := func(name string) bool {
		return slices.ContainsFunc(metrics, func(m eval.Metric) bool { return m.Name == name })
	}
	if !slices.ContainsFunc(main, has) && len(metrics) > 0 {
		main = []string{metrics[0].Name}
	}
	add := func(name string, isMain bool) {
		c.Metric, c.Main = name, isMain && c.Group == ""
		if !eval.HigherIsBetter(name) {
			c.Chance, c.Majority = nil, nil
		}
		s.Columns = append(s.Columns, c)
	}
	guess := c
	for _, name := range main {
		if has(name) {
			add(name, true)
			c = guess
		}
	}
	for _, m := range metrics {
		if !slices.Contains(main, m.Name) {
			add(m.Name, false)
			c = guess
		}
	}
}

// addMetrics adds metrics to the task whose first column is at i, where it does not have
// them.
func (s *Set) addMetrics(i int, metrics []eval.Metric) {
	end := i
	for end < len(s.Columns) && s.Columns[end].Task == s.Columns[i].Task {
		end++
	}
	for _, m := range metrics {
		if slices.ContainsFunc(s.Columns[i:end], func(c Column) bool { return c.Metric == m.Name }) {
			continue
		}
		c := Column{Task: s.Columns[i].Task, Metric: m.Name, Group: s.Columns[i].Group}
		for _, o := range s.Columns[i:end] {
			if o.accuracy() && c.accuracy() {
				c.Chance, c.Majority = o.Chance, o.Majority
			}
		}
		s.Columns = slices.Insert(s.Columns, end, c)
		end++
	}
}

// accuracy reports whether the column holds an accuracy, for which more is better.
func (c Column) accuracy() bool { return eval.HigherIsBetter(c.Metric) }

// guess is what one reaches without reading: the larger of chance and majority, 0 where a
// task has no choices.
func (c Column) guess() float64 {
	g := 0.0
	for _, p := range []*float64{c.Chance, c.Majority} {
		if p != nil && *p > g {
			g = *p
		}
	}
	return g
}

// measured returns what a record has for a column.
func measured(rec *study.Record, c Column) (*eval.Metric, int) {
	for i := range rec.Groups {
		if g := &rec.Groups[i]; g.Name == c.Task {
			for j := range g.Metrics {
				if g.Metrics[j].Name == c.Metric {
					return &g.Metrics[j], g.Records
				}
			}
		}
	}
	for i := range rec.Tasks {
		if t := &rec.Tasks[i]; t.Name == c.Task {
			if m := t.Metric(c.Metric); m != nil {
				return m, t.Evaluated
			}
		}
	}
	return nil, 0
}

// addValues fills in what each variant reached, and how that differs from the dense model
// and from maxabs at the same size.
func (s *Set) addValues(comparisons []study.Comparison) {
	byID := map[string]*Variant{}
	for i := range s.Variants {
		v := &s.Variants[i]
		byID[v.ID] = v
		for _, c := range s.Columns {
			m, n := measured(v.record, c)
			if m != nil && math.IsNaN(m.Value) {
				m = nil // no number was reached
			}
			v.Values = append(v.Values, Value{Metric: m, Records: n})
		}
	}
	dense := s.dense()
	for i := range s.Variants {
		if v := &s.Variants[i]; dense != nil && v != dense {
			for j := range v.Values {
				v.Values[j].Dense = difference(dense, v, j)
			}
		}
	}
	for _, c := range comparisons {
		v, against := byID[c.Cell], byID[c.Against]
		if v == nil || against == nil || v == against || c.Cell == c.Against {
			continue
		}
		for j, col := range s.Columns {
			k := slices.IndexFunc(c.Rows, func(r eval.Row) bool { return r.Task == col.Task && r.Metric == col.Metric })
			if k < 0 || len(c.Rows[k].Cells) != 2 {
				continue
			}
			change := difference(against, v, j)
			if change == nil {
				continue
			}
			change.Test = c.Rows[k].Cells[1].Test
			if t := change.Test; t != nil && (finite(t.P) == nil || finite(t.Low) == nil || finite(t.High) == nil) {
				change.Test = nil // of perplexities that overflow
			}
			switch {
			case against == dense:
				v.Values[j].Dense = change
			case against.Cell.Method == maxAbs && against.Size == v.Size:
				v.Values[j].MaxAbs = change
			}
		}
	}
	for i := range s.Variants {
		for j := range s.Columns {
			s.Variants[i].Values[j].addMarks(s.Columns[j])
		}
	}
}

// difference is the change of column j from one variant to another, nil where either was
// not measured. A perplexity that overflows has no difference as a number.
func difference(from, to *Variant, j int) *Change {
	a, b := from.Values[j].Metric, to.Values[j].Metric
	if a == nil || b == nil {
		return nil
	}
	c := &Change{Against: from.ID, Change: finite(b.Value - a.Value)}
	if c.Change != nil && a.Value != 0 {
		c.Relative = finite(*c.Change / a.Value)
	}
	return c
}

// addMarks says what the number alone does not.
func (v *Value) addMarks(c Column) {
	if v.Metric == nil {
		return
	}
	if m := v.mark(c, v.Dense); m != "" {
		v.Marks = append(v.Marks, m)
	}
	if c.accuracy() && c.Majority != nil && v.Metric.Value < *c.Majority {
		v.Marks = append(v.Marks, BelowMajority)
	} else if c.accuracy() && c.guess() > 0 && !aboveGuess(v.Metric, c) {
		v.Marks = append(v.Marks, NotAboveGuess)
	}
}

// aboveGuess reports whether an accuracy is above guessing by more than two standard
// errors, which is about 97.5 % certainty on one side.
func aboveGuess(m *eval.Metric, c Column) bool {
	se := m.StdErr
	if math.IsNaN(se) {
		se = 0
	}
	return m.Value-2*se > c.guess()
}

// significant reports whether there is a difference that a test has found.
func (c *Change) significant() bool {
	return c != nil && c.Test != nil && c.Test.Significant()
}

// mark says whether a test finds a value better or worse than another. What is no better
// than guessing is never better: a model that fell from wrong answers to a constant one has
// gained nothing.
func (v *Value) mark(col Column, c *Change) Mark {
	switch {
	case !c.significant():
		return ""
	case !c.better(col):
		return Worse
	case col.guess() > 0 && !aboveGuess(v.Metric, col):
		return ""
	}
	return Better
}

// better reports the direction of a change. A perplexity that overflows is worse.
func (c *Change) better(col Column) bool {
	if c.Change == nil {
		return false
	}
	return (*c.Change > 0) == col.accuracy()
}

func finite(x float64) *float64 {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return nil
	}
	return &x
}
