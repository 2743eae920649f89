package cpu

import (
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
)

// matrix is a linear layer, y = W x + b, with W (out x in) packed in one precision.
type matrix struct {
	out, in int
	f32     *kernel.F32  // one of the two
	bf16    *kernel.BF16 //
	bias    []float32    // [out], or nil
}

// panels is the number of groups of columns into which products can be cut.
func (m *matrix) panels() int {
	if m.bf16 != nil {
		return m.bf16.Panels()
	}
	return m.f32.Panels()
}

// row stores row o of W in dst.
func (m *matrix) row(o int, dst []float32) {
	if m.bf16 != nil {
		m.bf16.Row(o, dst)
	} else {
		m.f32.Row(o, dst)
	}
}

// rows are activations that enter a matrix product: n rows of width values, as float32
// and, where the precision is bf16, also rounded.
type rows struct {
	width   int
	values  []float32
	rounded []uint16 // nil in f32
}

// slice is the rows from r0 to r1.
func (x rows) slice(r0, r1 int) rows {
	y := rows{width: x.width, values: x.values[r0*x.width : r1*x.width]}
	if x.rounded != nil {
		y.rounded = x.rounded[r0*x.width : r1*x.width]
	}
	return y
}

// round brings the rounded form of rows r0 to r1 up to date.
func (x rows) round(r0, r1 int) {
	if x.rounded != nil {
		kernel.RoundBF16(x.rounded[r0*x.width:r1*x.width], x.values[r0*x.width:r1*x.width])
	}
}

// mul computes the columns of panels p0 to p1 of y = x W' + b for n rows; ldy is the
// distance between rows of y.
func (m *matrix) mul(y []float32, ldy int, x rows, n, p0, p1 int) {
	if m.bf16 != nil {
		m.bf16.Mul(y, ldy, x.rounded, x.width, n, p0, p1)
	} else {
		m.f32.Mul(y, ldy, x.values, x.width, n, p0, p1)
	}
	if m.bias == nil {
		return
	}
	c0, c1 := p0*kernel.PanelCols, min(p1*kernel.PanelCols, m.out)
	for r := range n {
		out := y[r*ldy+c0 : r*ldy+c1]
		for i, b := range m.bias[c0:c1] {
			out[i] += b
		}
	}
}

// Work on a product is cut into units of at most unitRows rows and, as long as there
// are fewer units than unitsPerThread for each thread, into ever fewer panels.
const (
	unitRows       = 512
	unitsPerThread = 4
	minUnitPanels  = 2
)

// output is a matrix and where its product goes: rows of y, ld apart.
type output struct {
	y  []float32
	ld int
	m  *matrix
}

// product computes y = x W' + b for n rows on all threads.
func (p *pool) product(y []float32, ld int, x rows, n int, m *matrix) {
	p.products(x, n, output{y, ld, m})
}

// products is product for several matrices of the same input in one stage.
func (p *pool) products(x rows, n int, outputs ...output) {
	tiles := (n + unitRows - 1) / unitRows
	groups := 1
	if p.threads > 1 {
		panels := outputs[0].m.panels()
		groups = max(1, min((unitsPerThread*p.threads+tiles-1)/tiles, panels/minUnitPanels))
	}
	p.run(tiles*groups*len(outputs), func(_, unit int) {
		o := outputs[unit%len(outputs)]
		t, g := unit/len(outputs)/groups, unit/len(outputs)%groups
		r0, r1 := t*n/tiles, (t+1)*n/tiles
		panels := o.m.panels()
		o.m.mul(o.y[r0*o.ld:], o.ld, x.slice(r0, r1), r1-r0, g*panels/groups, (g+1)*panels/groups)
	})
}
