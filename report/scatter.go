package report

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/study"
)

// manyPoints is the number of points from which a chart has smaller marks without error
// bars and words of their own.
const manyPoints = 80

// point is a variant in a chart.
type point struct {
	v        *Variant
	x, y     float64
	xlo, xhi float64 // extremes of repetitions, or x
	ylo, yhi float64 // a standard error to both sides, or y
	words    string
	open     bool // of another set than the chart's
	onFront  bool
}

// scatter is a chart of something good or bad against a cost.
type scatter struct {
	w, h         float64
	title        string
	x, y         string // labels of the axes
	xMore, yMore bool   // more is better
	yLog         bool
	points       []point
	levels       []level
	yFrom, yTo   float64 // values that the y axis has beside those of points
}

// level is a horizontal line.
type level struct {
	y           float64
	class, name string
	below       bool // the name stands below the line
}

// draw returns the chart, or "" where there are no points.
func (s *scatter) draw() template.HTML {
	if len(s.points) == 0 {
		return ""
	}
	xlo, xhi, ylo, yhi := math.Inf(1), math.Inf(-1), s.yFrom, s.yTo
	for _, p := range s.points {
		xlo, xhi = min(xlo, p.xlo), max(xhi, p.xhi)
		ylo, yhi = min(ylo, p.ylo), max(yhi, p.yhi)
	}
	p := newPlot(s.w, s.h, s.title, s.describe(), newAxis(s.x, xlo, xhi, false, 5), newAxis(s.y, ylo, yhi, s.yLog, 5))
	for _, l := range s.levels {
		p.level(l)
	}
	s.drawFront(p)
	s.drawSeries(p)
	return template.HTML(p.close())
}

// describe says in words what a chart shows.
func (s *scatter) describe() string {
	var front []string
	for _, p := range s.points {
		if p.onFront {
			front = append(front, p.v.Label)
		}
	}
	if len(front) == 0 || len(front) > 12 {
		return plural(len(s.points), "variant")
	}
	return fmt.Sprintf("%s; on the Pareto front: %s", plural(len(s.points), "variant"), strings.Join(front, ", "))
}

// drawFront draws the steps along the Pareto front: what can be had at each cost.
func (s *scatter) drawFront(p *plot) {
	var on []point
	for _, pt := range s.points {
		if pt.onFront {
			on = append(on, pt)
		}
	}
	slices.SortStableFunc(on, func(a, b point) int { return compareFloat(a.x, b.x) })
	if len(on) > 1 {
		fmt.Fprintf(&p.b, `<path class="front" d="M%s %s`, px(p.px(on[0].x)), px(p.py(on[0].y)))
		for _, q := range on[1:] {
			if s.xMore {
				fmt.Fprintf(&p.b, "V%sH%s", px(p.py(q.y)), px(p.px(q.x)))
			} else {
				fmt.Fprintf(&p.b, "H%sV%s", px(p.px(q.x)), px(p.py(q.y)))
			}
		}
		p.b.WriteString(`"/>`)
	}
	for _, q := range on {
		fmt.Fprintf(&p.b, `<circle class="ring" cx="%s" cy="%s" r="8"/>`, px(p.px(q.x)), px(p.py(q.y)))
	}
	if len(on) > 12 {
		return
	}
	for _, q := range on {
		s.nameFront(p, q)
	}
}

// nameFront writes a point's size beside it, on the side where no variant can be if there
// is room, and nowhere if there is none.
func (s *scatter) nameFront(p *plot, q point) {
	name := q.v.Size
	if q.v.Cell.Method == study.Dense {
		if name = study.Dense; q.open {
			name += " " + q.v.Cell.Model
		}
		if len(name) > 24 {
			name = study.Dense
		}
	}
	x, y := p.px(q.x), p.py(q.y)
	side, anchor := -10.0, "end"
	if s.xMore {
		side, anchor = 10, "start"
	}
	up, down := y-8, y+16
	if !s.yMore {
		up, down = down, up
	}
	for _, at := range []struct {
		x, y   float64
		anchor string
	}{{x + side, up, anchor}, {x, 2*up - y + 3, "middle"}, {x + side, y + 4, anchor}, {x, 2*down - y, "middle"}} {
		if p.free(textBox(at.x, at.y, at.anchor, name)) {
			p.text(at.x, at.y, at.anchor, "size", name)
			return
		}
	}
}

// drawSeries draws lines through the means of each size, error bars, and marks.
func (s *scatter) drawSeries(p *plot) {
	by := map[int][]point{}
	var order []int
	for _, pt := range s.points {
		i := pt.v.series
		if by[i] == nil {
			order = append(order, i)
		}
		by[i] = append(by[i], pt)
	}
	slices.Sort(order)
	few := len(s.points) < manyPoints
	r := 4.6
	if !few {
		r = 3
	}
	for _, i := range order {
		fmt.Fprintf(&p.b, `<g class="%s">`, colour(i))
		if i >= 0 {
			xs, ys := s.means(by[i])
			p.line("join", xs, ys)
		}
		if few {
			drawBars(p, by[i])
		}
		var all strings.Builder
		for _, q := range by[i] {
			d := mark(i, p.px(q.x), p.py(q.y), r)
			switch {
			case few:
				class := "mark"
				if q.open {
					class = "mark open"
				}
				fmt.Fprintf(&p.b, `<path class="%s" d="%s"><title>%s</title></path>`, class, d, html.EscapeString(q.words))
			default:
				all.WriteString(d)
			}
		}
		if all.Len() > 0 {
			fmt.Fprintf(&p.b, `<g class="many"><path class="mark" d="%s"/></g>`, all.String())
		}
		p.b.WriteString(`</g>`)
	}
}

// drawBars draws error bars of all points as one path.
func drawBars(p *plot, points []point) {
	var bars strings.Builder
	for _, q := range points {
		if q.yhi > q.ylo {
			fmt.Fprintf(&bars, "M%s %sV%s", px(p.px(q.x)), px(p.py(q.ylo)), px(p.py(q.yhi)))
		}
		if q.xhi > q.xlo {
			fmt.Fprintf(&bars, "M%s %sH%s", px(p.px(q.xlo)), px(p.py(q.y)), px(p.px(q.xhi)))
		}
	}
	if bars.Len() > 0 {
		fmt.Fprintf(&p.b, `<path class="bar" d="%s"/>`, bars.String())
	}
}

// means are the mean points of each model and size of a series, in the order of the set.
func (s *scatter) means(points []point) (xs, ys []float64) {
	last, n := "", 0.0
	for _, q := range points {
		if q.open {
			continue
		}
		if key := q.v.Size; key != last || n == 0 {
			last, n = key, 0
			xs, ys = append(xs, 0), append(ys, 0)
		}
		n++
		k := len(xs) - 1
		y := q.y
		if s.yLog {
			y = math.Log(y)
		}
		xs[k] += (q.x - xs[k]) / n
		ys[k] += (y - ys[k]) / n
	}
	if s.yLog {
		for k := range ys {
			ys[k] = math.Exp(ys[k])
		}
	}
	return xs, ys
}
