package report

import (
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
)

// The charts are SVG made here and not by a plotting library, because they take their
// colours from the page's style sheet: light, dark and print are the same bytes.

// axis maps values to positions between 0 and 1.
type axis struct {
	label  string
	lo, hi float64
	log    bool
	ticks  []float64
	format func(float64) string
}

// newAxis makes an axis for values between lo and hi, with some room at both ends and at about n
// round ticks. A logarithmic one needs positive values.
func newAxis(label string, lo, hi float64, log bool, n int) axis {
	a := axis{label: label, log: log, format: digits}
	if log {
		lo, hi = math.Log10(lo), math.Log10(hi)
	}
	if room := 0.09 * (hi - lo); room > 0 {
		lo, hi = lo-room, hi+room
	} else {
		lo, hi = lo-0.1*max(math.Abs(lo), 1e-3), hi+0.1*max(math.Abs(hi), 1e-3)
	}
	a.lo, a.hi = lo, hi
	if log {
		a.ticks, a.format = logTicks(lo, hi, n), logTick
	} else {
		a.ticks = linearTicks(lo, hi, n)
		a.format = tickFormat(a.ticks)
	}
	return a
}

// linearTicks are multiples of 1, 2 or 5 times a power of ten.
func linearTicks(lo, hi float64, n int) []float64 {
	step := math.Pow(10, math.Floor(math.Log10((hi-lo)/float64(n))))
	for _, f := range []float64{1, 2, 5, 10} {
		if (hi-lo)/(f*step) <= float64(n) {
			step *= f
			break
		}
	}
	var out []float64
	for i := math.Ceil(lo/step - 1e-9); i*step <= hi+1e-9*step && len(out) < 50; i++ {
		out = append(out, i*step)
	}
	return out
}

// logTicks are powers of ten, with 2 and 5 between them where there is room. lo and hi are
// logarithms, the ticks are not.
func logTicks(lo, hi float64, n int) []float64 {
	every := max(1, int(math.Ceil((hi-lo)/float64(n))))
	steps := []float64{1}
	if hi-lo < float64(n)/3 {
		steps = []float64{1, 2, 5}
	}
	var out []float64
	for e := int(math.Floor(lo)); e <= int(math.Ceil(hi)); e++ {
		for _, s := range steps {
			if x := math.Log10(s) + float64(e); x >= lo && x <= hi && e%every == 0 {
				out = append(out, s*math.Pow(10, float64(e)))
			}
		}
	}
	return out
}

// logTick writes a tick of a logarithmic axis, far from 1 as a power of ten.
func logTick(x float64) string {
	switch {
	case x < 1e5 && x >= 1:
		return thousands(x, 0)
	case x < 1 && x > 1e-3:
		return strconv.FormatFloat(x, 'g', 3, 64)
	}
	e := int(math.Floor(math.Log10(x) + 1e-9))
	power := "10" + superscript(e)
	if m := x / math.Pow(10, float64(e)); math.Round(m) != 1 {
		return fmt.Sprintf("%.0f\u00b7%s", m, power)
	}
	return power
}

// tickFormat writes ticks with as many decimals as tell them apart.
func tickFormat(ticks []float64) func(float64) string {
	decimals := 0
	if len(ticks) > 1 {
		if step := ticks[1] - ticks[0]; step < 1 {
			decimals = int(math.Ceil(-math.Log10(step) - 1e-9))
		}
	}
	return func(x float64) string { return thousands(x, decimals) }
}

// at is the position of a value, between 0 and 1 where it is on the axis.
func (a *axis) at(x float64) float64 {
	if a.log {
		x = math.Log10(x)
	}
	return (x - a.lo) / (a.hi - a.lo)
}

// plot is a chart that is being drawn: a frame in a picture of w by h.
type plot struct {
	w, h, left, right, top, bottom float64
	x, y                           axis
	b                              strings.Builder
	placed                         []box // where words stand
}

// box is a rectangle.
type box struct{ left, top, right, bottom float64 }

// textBox estimates the place that a word takes: the page's fonts are not known.
func textBox(x, y float64, anchor, s string) box {
	w := 7.8 * float64(len([]rune(s)))
	switch anchor {
	case "end":
		x -= w
	case "middle":
		x -= w / 2
	}
	return box{x, y - 12, x + w, y + 4}
}

// free reports whether a word could stand there, in the picture and beside all others.
func (p *plot) free(b box) bool {
	if b.left < 2 || b.right > p.w-2 || b.top < 0 || b.bottom > p.h-p.bottom {
		return false
	}
	for _, o := range p.placed {
		if b.left < o.right && o.left < b.right && b.top < o.bottom && o.top < b.bottom {
			return false
		}
	}
	return true
}

// newPlot draws the frame: grid, ticks, labels with units.
func newPlot(w, h float64, title, description string, x, y axis) *plot {
	p := &plot{w: w, h: h, left: 48, right: 18, top: 22, bottom: 38, x: x, y: y}
	p.open(title, description)
	p.b.WriteString(`<g class="grid">`)
	for _, t := range y.ticks {
		fmt.Fprintf(&p.b, `<path d="M%s %sH%s"/>`, px(p.left), px(p.py(t)), px(w-p.right))
	}
	p.b.WriteString(`</g>`)
	for _, t := range y.ticks {
		p.text(p.left-6, p.py(t)+4, "end", "tick", y.format(t))
	}
	for _, t := range x.ticks {
		fmt.Fprintf(&p.b, `<path class="axis" d="M%s %sv4"/>`, px(p.px(t)), px(h-p.bottom))
		p.text(p.px(t), h-p.bottom+16, "middle", "tick", x.format(t))
	}
	fmt.Fprintf(&p.b, `<path class="axis" d="M%s %sH%s"/>`, px(p.left), px(h-p.bottom), px(w-p.right))
	p.text((p.left+w-p.right)/2, h-6, "middle", "label", x.label)
	p.text(2, 12, "start", "label", y.label)
	return p
}

// open begins the picture, with its words for those who do not see it.
func (p *plot) open(title, description string) {
	fmt.Fprintf(&p.b, `<svg viewBox="0 0 %s %s" role="img" aria-label="%s"><title>%s</title>`,
		px(p.w), px(p.h), html.EscapeString(title+". "+description), html.EscapeString(title))
}

func (p *plot) px(x float64) float64 { return p.left + p.x.at(x)*(p.w-p.left-p.right) }
func (p *plot) py(y float64) float64 { return p.h - p.bottom - p.y.at(y)*(p.h-p.top-p.bottom) }

// text writes a word; anchor is SVG's text-anchor.
func (p *plot) text(x, y float64, anchor, class, s string) {
	p.placed = append(p.placed, textBox(x, y, anchor, s))
	fmt.Fprintf(&p.b, `<text x="%s" y="%s" class="%s"`, px(x), px(y), class)
	if anchor != "start" {
		fmt.Fprintf(&p.b, ` text-anchor="%s"`, anchor)
	}
	fmt.Fprintf(&p.b, `>%s</text>`, html.EscapeString(s))
}

// level draws a horizontal line, if it is in the frame, with its name at the right, above
// or below it.
func (p *plot) level(l level) {
	at := p.py(l.y)
	if at < p.top-1 || at > p.h-p.bottom+1 {
		return
	}
	fmt.Fprintf(&p.b, `<path class="%s" d="M%s %sH%s"/>`, l.class, px(p.left), px(at), px(p.w-p.right))
	if l.name == "" {
		return
	}
	y := at - 4
	if l.below {
		y = at + 11
	}
	p.text(p.w-p.right-2, y, "end", "note", l.name)
}

// line joins points.
func (p *plot) line(class string, xs, ys []float64) {
	if len(xs) < 2 {
		return
	}
	fmt.Fprintf(&p.b, `<path class="%s" d="`, class)
	for i := range xs {
		c := byte('L')
		if i == 0 {
			c = 'M'
		}
		p.b.WriteByte(c)
		p.b.WriteString(px(p.px(xs[i])) + " " + px(p.py(ys[i])))
	}
	p.b.WriteString(`"/>`)
}

// close ends the picture.
func (p *plot) close() string {
	p.b.WriteString(`</svg>`)
	return p.b.String()
}

// px writes a coordinate: a tenth of a unit is enough.
func px(x float64) string {
	return strconv.FormatFloat(math.Round(x*10)/10, 'f', -1, 64)
}

// shapes and colours are how many of each the marks have. As they have no common divisor,
// shapes*colours series differ in one or the other, and the first ones in both.
const (
	shapes  = 7
	colours = 6
)

// mark returns the path of series i's mark around a point, a star for the dense model (-1).
func mark(i int, x, y, r float64) string {
	d := func(format string, args ...float64) string {
		words := make([]any, len(args))
		for i, a := range args {
			words[i] = px(a)
		}
		return fmt.Sprintf(format, words...)
	}
	if i < 0 {
		return polygon(x, y, 1.45*r, 0.6*r, 10)
	}
	switch i % shapes {
	case 0: // circle
		return d("M%s %sa%s %s 0 1 0 %s 0a%s %s 0 1 0 %s 0", x-r, y, r, r, 2*r, r, r, -2*r)
	case 1: // square
		s := 0.9 * r
		return d("M%s %sh%sv%sh%sz", x-s, y-s, 2*s, 2*s, -2*s)
	case 2: // triangle
		return d("M%s %sl%s %sh%sz", x, y-1.2*r, 1.15*r, 2*r, -2.3*r)
	case 3: // diamond
		s := 1.3 * r
		return d("M%s %sl%s %sl%s %sl%s %sz", x, y-s, s, s, -s, s, -s, -s)
	case 4: // triangle, down
		return d("M%s %sl%s %sh%sz", x, y+1.2*r, 1.15*r, -2*r, -2.3*r)
	case 5: // plus
		s, t := 1.2*r, 0.45*r
		return d("M%s %sh%sv%sh%sv%sh%sv%sh%sv%sh%sv%sh%sz", x-t, y-s, 2*t, s-t, s-t, 2*t, t-s, s-t, -2*t, t-s, t-s, -2*t, s-t)
	}
	return polygon(x, y, 1.2*r, 1.2*r, 6)
}

// polygon has n corners, in turns at two distances; one is at the top.
func polygon(x, y, r1, r2 float64, n int) string {
	var b strings.Builder
	for i := range n {
		r, c := r1, byte('L')
		if i%2 == 1 {
			r = r2
		}
		if i == 0 {
			c = 'M'
		}
		sin, cos := math.Sincos(2 * math.Pi * float64(i) / float64(n))
		b.WriteByte(c)
		b.WriteString(px(x+r*sin) + " " + px(y-r*cos))
	}
	return b.String() + "z"
}

// colour is the class that gives a series its colour.
func colour(i int) string {
	if i < 0 {
		return "dense"
	}
	return "s" + strconv.Itoa(i%colours)
}
