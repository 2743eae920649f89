package cpu

import (
	"sync"

	"github.com/coppice-lm/coppice/engine/cpu/kernel"
)

// matrix is a linear layer, y = W x + b, with W (out x in) packed in one format.
type matrix struct {
	out, in int
	weights
	bias []float32 // [out], or nil
}

// weights is a packed W.
type weights interface {
	// Panels is the number of groups of columns into which products can be cut.
	Panels() int
	// Row stores row o of W in dst.
	Row(o int, dst []float32)
	// product computes the columns of panels p0 to p1 of y = x W' for n rows; ldy is
	// the distance between rows of y.
	product(y []float32, ldy int, x rows, n, p0, p1 int)
}

type (
	f32Weights   struct{ *kernel.F32 }
	bf16Weights  struct{ *kernel.BF16 }
	f16Weights   struct{ *kernel.F16 }
	quantWeights struct{ *kernel.Quant }
)

func (w f32Weights) product(y []float32, ldy int, x rows, n, p0, p1 int) {
	w.Mul(y, ldy, x.values, x.width, n, p0, p1)
}

func (w bf16Weights) product(y []float32, ldy int, x rows, n, p0, p1 int) {
	w.Mul(y, ldy, x.rounded, x.width, n, p0, p1)
}

func (w f16Weights) product(y []float32, ldy int, x rows, n, p0, p1 int) {
	w.Mul(y, ldy, x.values, x.width, n, p0, p1)
}

// quantised keeps the 8-bit forms of activations for the next product.
var quantised = sync.Pool{New: func() any { return new(kernel.Q8) }}

func (w quantWeights) product(y []float32, ldy int, x rows, n, p0, p1 int) {
	q := quantised.Get().(*kernel.Q8)
	defer quantised.Put(q)
	q.Quantise(x.values, x.width, n, x.width)
	w.Mul(y, ldy, q, p0, p1)
}

// rows are activations that enter a matrix product: n rows of width values, as float32
// and, where a product takes them so, also rounded to bfloat16.
type rows struct {
	width   int
	values  []float32
	rounded []uint16 // nil where no product takes it
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

// mul computes the columns of panels p0 to p1 of y = x W' + b for n rows.
func (m *matrix) mul(y []float32, ldy int, x rows, n, p0, p1 int) {
	m.product(y, ldy, x, n, p0, p1)
	if m.bias == nil {
		return
	}
	c0, c1 := p0*kernel.PanelCols, min(p1*kernel.PanelCols, m.out)
	for r := range n {
		kernel.Add(y[r*ldy+c0:r*ldy+c1], m.bias[c0:c1])
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
		panels := outputs[0].m.Panels()
		groups = max(1, min((unitsPerThread*p.threads+tiles-1)/tiles, panels/minUnitPanels))
	}
	p.run(tiles*groups*len(outputs), func(_, unit int) {
		o := outputs[unit%len(outputs)]
		t, g := unit/len(outputs)/groups, unit/len(outputs)%groups
		r0, r1 := t*n/tiles, (t+1)*n/tiles
		panels := o.m.Panels()
		o.m.mul(o.y[r0*o.ld:], o.ld, x.slice(r0, r1), r1-r0, g*panels/groups, (g+1)*panels/groups)
	})
}
