package report

import (
	"fmt"
	"html/template"
	"math"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/study"
)

// qualityChart sets the quality of a set's variants against a cost. Dense models of other
// sets that cost less than the set's own stand there too, as one may take a smaller model
// instead of a pruned one.
func (r *Report) qualityChart(s *Set, c cost) template.HTML {
	sc := &scatter{
		w: 440, h: 300, title: "Quality against " + c.name + " of " + s.name(),
		x: c.axis, y: "quality, % of dense", xMore: c.more, yMore: true, yFrom: 0, yTo: 100,
		levels: []level{{y: 100, class: "level"}},
	}
	var vs []*Variant
	r.each(func(of *Set, v *Variant) {
		cost := c.get(v)
		if v.Quality == nil || cost == nil || of != s && !(v.Cell.Method == study.Dense && c.less(v, s.dense())) {
			return
		}
		q := newPoint(v, cost, 100*v.Quality.Value, v.Quality.StdErr, 100)
		q.ylo = max(0, q.ylo)
		q.open = of != s
		q.words = fmt.Sprintf("%s: quality %s, %s %s", r.fullName(of, v), percent(v.Quality.Value), digits(cost.Value), c.name)
		sc.points = append(sc.points, q)
		vs = append(vs, v)
	})
	if len(vs) == 0 || !slices.ContainsFunc(sc.points, func(q point) bool { return !q.open }) {
		return ""
	}
	sc.markFront(front(vs, func(v *Variant) float64 { return v.Quality.Value }, c))
	return sc.draw()
}

// taskChart sets a metric against a cost, a perplexity on a logarithmic axis.
func (r *Report) taskChart(s *Set, j int, c cost) template.HTML {
	col := s.Columns[j]
	unit, scale := ", lower is better", 1.0
	if col.accuracy() {
		unit, scale = " "+strings.ReplaceAll(col.Metric, "_", " ")+", %", 100
	}
	sc := &scatter{
		w: 360, h: 240, title: columnName(col) + " against " + c.name + " of " + s.name(),
		x: c.axis, y: columnName(col) + unit, xMore: c.more, yMore: col.accuracy(), yLog: !col.accuracy(),
		yFrom: math.Inf(1), yTo: math.Inf(-1),
	}
	var vs []*Variant
	for i := range s.Variants {
		v := &s.Variants[i]
		m, cost := v.Values[j].Metric, c.get(v)
		if m == nil || cost == nil || m.Overflow() || sc.yLog && m.Value <= 0 {
			continue
		}
		q := newPoint(v, cost, scale*m.Value, finite(m.StdErr), scale)
		if se := finite(m.StdErr); sc.yLog && se != nil { // of the logarithm, which is what one sees
			q.ylo, q.yhi = q.y*math.Exp(-*se/q.y), q.y*math.Exp(*se/q.y)
		}
		q.words = fmt.Sprintf("%s: %s %s", v.Label, columnName(col), withError(col, m))
		sc.points = append(sc.points, q)
		vs = append(vs, v)
	}
	if len(vs) == 0 {
		return ""
	}
	sc.addLevels(col, s.dense(), j, scale)
	sc.markFront(front(vs, func(v *Variant) float64 {
		if x := v.Values[j].Metric.Value; col.accuracy() {
			return x
		} else {
			return -x
		}
	}, c))
	return sc.draw()
}

// addLevels draws what the dense model reaches, and what guessing does.
func (s *scatter) addLevels(col Column, dense *Variant, j int, scale float64) {
	if dense != nil {
		if m := dense.Values[j].Metric; m != nil && !m.Overflow() {
			s.levels = append(s.levels, level{y: scale * m.Value, class: "level"})
		}
	}
	add := func(p *float64, class, name string) {
		if p != nil && *p > 0 {
			s.levels = append(s.levels, level{scale * *p, class, fmt.Sprintf("%s %.1f", name, scale**p), class == "chance"})
			s.yFrom, s.yTo = min(s.yFrom, scale**p), max(s.yTo, scale**p)
		}
	}
	if col.Chance != nil && col.Majority != nil && math.Abs(*col.Chance-*col.Majority) < 1e-3 {
		add(col.Majority, "majority", "chance, majority")
		return
	}
	add(col.Chance, "chance", "chance")
	add(col.Majority, "majority", "majority")
}

// newPoint places a variant; the error is in units of 1/scale of y.
func newPoint(v *Variant, x *Amount, y float64, stderr *float64, scale float64) point {
	q := point{v: v, x: x.Value, y: y, xlo: x.Value, xhi: x.Value, ylo: y, yhi: y}
	if stderr != nil {
		q.ylo, q.yhi = y-scale**stderr, y+scale**stderr
	}
	if x.Low != nil && x.High != nil {
		q.xlo, q.xhi = min(x.Value, *x.Low), max(x.Value, *x.High)
	}
	return q
}

func (s *scatter) markFront(front []*Variant) {
	for i := range s.points {
		s.points[i].onFront = slices.Contains(front, s.points[i].v)
	}
}

// withError is a value with its standard error.
func withError(c Column, m *eval.Metric) string {
	text := metricValue(c.Metric, m)
	if e := metricError(c.Metric, m); e != "" {
		text += " ± " + e
	}
	return text
}

// legendMark is a series' mark alone, for the words of a legend.
func legendMark(i int) template.HTML {
	return template.HTML(fmt.Sprintf(`<svg class="key" viewBox="0 0 16 16" aria-hidden="true"><path class="mark %s" d="%s"/></svg>`,
		colour(i), mark(i, 8, 8, 5)))
}
