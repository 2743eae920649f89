package report

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Limits of the charts over layers: more is no picture any more.
const (
	maxHeatRows = 40
	maxCurves   = 6
)

// widthRow is one way to share neurons out over the layers, and the variants that have it.
type widthRow struct {
	labels []string
	widths []int
	dense  int
}

// widthRows lists the distinct widths of a set's pruned variants, and how many more there
// are than charts show.
func (s *Set) widthRows() (rows []widthRow, more int) {
	for i := range s.Variants {
		v := &s.Variants[i]
		sh := v.record.Shape
		if v == s.dense() || sh == nil || len(sh.Widths) == 0 || sh.DenseWidth < 1 {
			continue
		}
		k := slices.IndexFunc(rows, func(r widthRow) bool { return slices.Equal(r.widths, sh.Widths) })
		if k < 0 {
			k, rows = len(rows), append(rows, widthRow{widths: sh.Widths, dense: sh.DenseWidth})
		}
		rows[k].labels = append(rows[k].labels, v.Label)
	}
	if len(rows) > maxHeatRows {
		rows, more = rows[:maxHeatRows], len(rows)-maxHeatRows
	}
	return rows, more
}

// uniform reports whether all layers are equally wide.
func (r widthRow) uniform() bool { return slices.Min(r.widths) == slices.Max(r.widths) }

// words say what a row is of.
func (r widthRow) words() string {
	if len(r.labels) > 3 {
		return fmt.Sprintf("%s and %d more", r.labels[0], len(r.labels)-1)
	}
	return list(r.labels)
}

// widthChart is a map of the neurons that stay: a row for each way to share them out, a
// column for each layer, the deeper the colour the more.
func widthChart(s *Set, rows []widthRow) template.HTML {
	if len(rows) == 0 {
		return ""
	}
	layers := 0
	for _, r := range rows {
		layers = max(layers, len(r.widths))
	}
	const w, left, rowHeight, top = 440.0, 4.0, 34.0, 6.0
	cell := (w - 2*left) / float64(layers)
	p := &plot{w: w, h: top + rowHeight*float64(len(rows)) + 34}
	p.open("Neurons kept by layer, "+s.name(), plural(len(rows), "row")+", "+plural(layers, "layer")+"; the table below has the numbers")
	for i, r := range rows {
		y := top + rowHeight*float64(i)
		lo, hi := slices.Min(r.widths), slices.Max(r.widths)
		span := fmt.Sprintf("%s\u2013%s of %s", thousands(float64(lo), 0), thousands(float64(hi), 0), thousands(float64(r.dense), 0))
		if lo == hi {
			span = fmt.Sprintf("%s of %s", thousands(float64(lo), 0), thousands(float64(r.dense), 0))
		}
		label := []rune(r.words())
		if len(label) > 46 {
			label = append(label[:45], '\u2026')
		}
		p.text(left, y+10, "start", "row", string(label))
		p.text(w-left, y+10, "end", "tick", span)
		if lo == hi && r.dense > 0 { // one cell says it
			fmt.Fprintf(&p.b, `<rect class="heat" x="%s" y="%s" width="%s" height="14" fill-opacity="%s"/>`,
				px(left), px(y+14), px(w-2*left), opacity(float64(lo)/float64(r.dense)))
			continue
		}
		for l, n := range r.widths {
			fmt.Fprintf(&p.b, `<rect class="heat" x="%s" y="%s" width="%s" height="14" fill-opacity="%s"><title>layer %d: %d</title></rect>`,
				px(left+cell*float64(l)), px(y+14), px(max(cell-1, 0.5)), opacity(float64(n)/float64(r.dense)), l, n)
		}
	}
	y := p.h - 18
	p.text(left, y, "start", "tick", "layer 0")
	p.text(w-left, y, "end", "tick", "layer "+strconv.Itoa(layers-1))
	return template.HTML(p.close())
}

// opacity is a share as an attribute.
func opacity(x float64) string {
	return strconv.FormatFloat(math.Round(100*min(1, max(0, x)))/100, 'f', -1, 64)
}

// curveChart draws the layer errors of a variant, a line for each layer, the first ones pale
// and the last ones deep.
func curveChart(s *Set, v *Variant) template.HTML {
	rec := v.record
	xhi, ylo, yhi := 0.0, math.Inf(1), math.Inf(-1)
	for _, l := range rec.Curves.Layers {
		for i := range min(len(l.Kept), len(l.Error)) {
			if e := l.Error[i]; e > 0 && !math.IsInf(e, 0) {
				ylo, yhi, xhi = min(ylo, e), max(yhi, e), max(xhi, float64(l.Kept[i]))
			}
		}
	}
	if xhi == 0 {
		return ""
	}
	ylo = max(ylo, yhi*1e-6) // where nearly nothing is lost, nothing is to be seen
	n := len(rec.Curves.Layers)
	p := newPlot(440, 300, "Layer errors of "+v.Cell.Method+", "+s.name(),
		fmt.Sprintf("%s; error falls as more neurons stay", plural(n, "layer")),
		newAxis("neurons kept", 0, xhi, false, 5), newAxis("error / energy of the residual stream", ylo, yhi, true, 5))
	for i, l := range rec.Curves.Layers {
		var xs, ys []float64
		for k := range min(len(l.Kept), len(l.Error)) {
			if e := l.Error[k]; e >= ylo && !math.IsInf(e, 0) {
				xs, ys = append(xs, float64(l.Kept[k])), append(ys, e)
			}
		}
		fmt.Fprintf(&p.b, `<g stroke-opacity="%s"><title>layer %d</title>`, opacity(0.2+0.8*float64(i)/float64(max(n-1, 1))), i)
		p.line("curve", xs, ys)
		p.b.WriteString(`</g>`)
		if (i == 0 || i == n-1) && len(xs) > 0 {
			x, y, name := p.px(xs[0])+4, p.py(ys[0])-4, "layer "+strconv.Itoa(i)
			if !p.free(textBox(x, y, "start", name)) {
				x += 70 // where the other one ends
			}
			p.text(x, y, "start", "size", name)
		}
	}
	return template.HTML(p.close())
}

// curveVariants are the variants whose layer errors are drawn: the first of each series
// that has any, and unlike those before it.
func (s *Set) curveVariants() []*Variant {
	var out []*Variant
	for i := range s.Variants {
		v := &s.Variants[i]
		if v.record.Curves == nil || len(v.record.Curves.Layers) == 0 || len(out) == maxCurves ||
			slices.ContainsFunc(out, func(o *Variant) bool { return o.Cell.Method == v.Cell.Method }) {
			continue
		}
		out = append(out, v)
	}
	return out
}

// overlapTable is a matrix for one size: of what the row's method keeps, the share that the
// column's method keeps too.
type overlapTable struct {
	Size   string
	Names  []string
	Cells  [][]overlapCell
	Chance string
	Chart  template.HTML
}

type overlapCell struct {
	Text, Jaccard string
	Opacity       string
}

func (s *Set) overlapTables() []overlapTable {
	var out []overlapTable
	for _, size := range s.overlapSizes() {
		t := overlapTable{Size: size}
		var of []Overlap
		for _, o := range s.Overlaps {
			if o.Size != size {
				continue
			}
			of = append(of, o)
			if !slices.Contains(t.Names, o.A) {
				t.Names = append(t.Names, o.A)
			}
		}
		if len(t.Names) > 12 {
			t.Names = t.Names[:12]
		}
		lo, hi := math.Inf(1), math.Inf(-1)
		for _, a := range t.Names {
			var row []overlapCell
			for _, b := range t.Names {
				k := slices.IndexFunc(of, func(o Overlap) bool { return o.A == a && o.B == b })
				if k < 0 {
					row = append(row, overlapCell{})
					continue
				}
				o := of[k]
				lo, hi = min(lo, o.Chance), max(hi, o.Chance)
				// Colour says how far beyond chance, and no more.
				beyond := max(0, (o.Shared-o.Chance)/max(1-o.Chance, 1e-9))
				row = append(row, overlapCell{fmt.Sprintf("%.1f", 100*o.Shared), fmt.Sprintf("%.2f", o.Jaccard), opacity(0.06 + 0.5*beyond)})
			}
			t.Cells = append(t.Cells, row)
		}
		if t.Chance = percent(lo); hi-lo > 0.001 {
			t.Chance = percent(lo) + " to " + percent(hi)
		}
		t.Chart = s.overlapChart(size, t.Names, of)
		out = append(out, t)
	}
	return out
}

func (s *Set) overlapSizes() []string {
	var out []string
	for _, o := range s.Overlaps {
		if !slices.Contains(out, o.Size) {
			out = append(out, o.Size)
		}
	}
	return out
}

// overlapChart draws by layer how much of what the first method keeps the others keep.
func (s *Set) overlapChart(size string, names []string, of []Overlap) template.HTML {
	lo, layers, chance := 1.0, 0, 0.0
	var lines []Overlap
	for _, o := range of {
		if o.A == names[0] && slices.Contains(names, o.B) {
			lines = append(lines, o)
			lo, layers, chance = min(lo, slices.Min(o.Layers)), max(layers, len(o.Layers)), o.Chance
		}
	}
	if layers < 2 {
		return ""
	}
	p := newPlot(360, 240, fmt.Sprintf("Of what %s keeps at %s, what others keep, by layer", names[0], size),
		plural(layers, "layer"), newAxis("layer", 0, float64(layers-1), false, 6), newAxis("shared with "+names[0]+", %", 100*min(lo, chance), 100, false, 5))
	p.level(level{100 * chance, "chance", "chance", true})
	for _, o := range lines {
		i := s.seriesIndex(o.B)
		var xs, ys []float64
		for l, x := range o.Layers {
			xs, ys = append(xs, float64(l)), append(ys, 100*x)
		}
		fmt.Fprintf(&p.b, `<g class="%s"><title>%s</title>`, colour(i), html.EscapeString(o.B))
		p.line("join", xs, ys)
		var d strings.Builder
		for l := range xs {
			d.WriteString(mark(i, p.px(xs[l]), p.py(ys[l]), 2.6))
		}
		fmt.Fprintf(&p.b, `<path class="mark" d="%s"/></g>`, d.String())
	}
	return template.HTML(p.close())
}

// seriesIndex is the number of a series by which it is drawn.
func (s *Set) seriesIndex(name string) int {
	for i := range s.Variants {
		if s.Variants[i].Series == name {
			return s.Variants[i].series
		}
	}
	return 0
}
