package cpu

import (
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
	// Panel is the memory from a panel on.
	Panel(p int) []byte
	// Row stores row o of W in dst.
	Row(o int, dst []float32)
	// product computes the columns of panels p0 to p1 of y = x W' for n rows; ldy is
	// the distance between rows of y.
	product(y []float32, ldy int, x rows, n, p0, p1 int)
}

// Of the blocks in which a file has weights, some are multiplied as they are. The others
// are decoded, and enter the product of float32 with activations that are rounded to 8
// bits in blocks as large as those of the weights: so llama.cpp multiplies them.
type (
	f32Weights   struct{ *kernel.F32 }
	bf16Weights  struct{ *kernel.BF16 }
	f16Weights   struct{ *kernel.F16 }
	quantWeights struct{ *kernel.Quant }
	by32Weights  struct{ *kernel.F32 } // decoded from blocks of 32
	by256Weights struct{ *kernel.F32 } // decoded from blocks of 256
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

func (w quantWeights) product(y []float32, ldy int, x rows, n, p0, p1 int) {
	w.Mul(y, ldy, &x.blocks, p0, p1)
}

func (w by32Weights) product(y []float32, ldy int, x rows, n, p0, p1 int) {
	w.Mul(y, ldy, x.by32, x.width, n, p0, p1)
}

func (w by256Weights) product(y []float32, ldy int, x rows, n, p0, p1 int) {
	w.Mul(y, ldy, x.by256, x.width, n, p0, p1)
}

// forms says in which forms beside float32 some products take activations.
type forms struct{ bf16, blocks, by32, by256 bool }

// decodedBlock is the size of the largest blocks that weights are decoded from.
const decodedBlock = 256

// rows are activations that enter a matrix product: n rows of width values, as float32
// and in the forms that products of other precisions take.
type rows struct {
	width       int
	values      []float32
	rounded     []uint16  // to bfloat16; nil where no product takes it
	blocks      kernel.Q8 // of 8 bits; where hasBlocks is set
	hasBlocks   bool
	by32, by256 []float32 // rounded to 8 bits in blocks of 32 and of 256; empty where no product takes them
}

// sized is x with room for n rows of width values, and for their other forms where
// products need them.
func (e *Engine) sized(x rows, n, width int) rows {
	x.width, x.values = width, grow(x.values, n*width)
	if e.takes.bf16 {
		x.rounded = grow(x.rounded, n*width)
	}
	// Rows that are no whole number of blocks only enter products of other types.
	if x.hasBlocks = e.takes.blocks && width%kernel.BlockSize == 0; x.hasBlocks {
		x.blocks.Resize(n, width)
	}
	decoded := func(b []float32, takes bool, size int) []float32 {
		if !takes || width%size != 0 {
			return b[:0]
		}
		return grow(b, n*width)
	}
	x.by32 = decoded(x.by32, e.takes.by32, kernel.BlockSize)
	x.by256 = decoded(x.by256, e.takes.by256, decodedBlock)
	return x
}

// columns is x from a column on, for products that take no more than the rest of its columns and no blocks.
func (x rows) columns(c int) rows {
	y := rows{width: x.width, values: x.values[c:]}
	if x.rounded != nil {
		y.rounded = x.rounded[c:]
	}
	return y
}

// grain is the number of columns of which roundRegion takes multiples.
func (x rows) grain() int {
	if len(x.by256) > 0 {
		return decodedBlock
	}
	return kernel.BlockSize
}

// slice is the rows from r0 to r1.
func (x rows) slice(r0, r1 int) rows {
	y := rows{width: x.width, values: x.values[r0*x.width : r1*x.width], hasBlocks: x.hasBlocks}
	if x.rounded != nil {
		y.rounded = x.rounded[r0*x.width : r1*x.width]
	}
	if x.hasBlocks {
		y.blocks = x.blocks.Slice(r0, r1)
	}
	if len(x.by32) > 0 {
		y.by32 = x.by32[r0*x.width : r1*x.width]
	}
	if len(x.by256) > 0 {
		y.by256 = x.by256[r0*x.width : r1*x.width]
	}
	return y
}

// round brings the other forms of rows r0 to r1 up to date with the values.
func (x rows) round(r0, r1 int) {
	part := x.slice(r0, r1)
	if part.rounded != nil {
		kernel.RoundBF16(part.rounded, part.values)
	}
	if part.hasBlocks {
		part.blocks.Quantise(part.values, x.width)
	}
	if len(part.by32) > 0 {
		kernel.RoundQ8(part.by32, part.values, kernel.BlockSize)
	}
	if len(part.by256) > 0 {
		kernel.RoundQ8(part.by256, part.values, decodedBlock)
	}
}

// roundRegion is round for some columns of rows, from one multiple of x.grain() to
// another or to the end.
func (x rows) roundRegion(g region) {
	for r := g.r0; r < g.r1; r++ {
		part := x.values[r*x.width+g.c0 : r*x.width+g.c1]
		if x.rounded != nil {
			kernel.RoundBF16(x.rounded[r*x.width+g.c0:], part)
		}
		if x.hasBlocks {
			blocks := x.blocks.Part(r, g.c0, g.c1)
			blocks.Quantise(part, len(part))
		}
		if len(x.by32) > 0 {
			kernel.RoundQ8(x.by32[r*x.width+g.c0:], part, kernel.BlockSize)
		}
		if len(x.by256) > 0 {
			kernel.RoundQ8(x.by256[r*x.width+g.c0:], part, decodedBlock)
		}
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

// Work on a product is cut into units of at most as many rows as the kernel takes in a pass and, as long as
// there are fewer units than productUnits for each thread, into ever fewer panels. More units would share the
// work out more evenly, but each packs its activations again: with 4 for each thread that
// took 8 % of a pass over 1,024 tokens (Zen 3).
//
// Up to fewRows rows, reading the weights is what takes the time. Then each thread has a
// share of its own, in unitsPerThread units that are long streams at first, and short at the end, so
// that no thread waits long for another's last one: each is half of what is left.
const (
	unitRows       = 512
	productUnits   = 2
	minUnitPanels  = 2
	unitsPerThread = 4
	fewRows        = 4
)

// region is rows and columns of a product's result: what a unit of work has computed.
type region struct{ r0, r1, c0, c1 int }

// region computes a part of y = x W' + b.
func (m *matrix) region(y []float32, ld int, x rows, g region) {
	p0, p1 := g.c0/kernel.PanelCols, (g.c1+kernel.PanelCols-1)/kernel.PanelCols
	m.mul(y[g.r0*ld:], ld, x.slice(g.r0, g.r1), g.r1-g.r0, p0, p1)
}

// regions cuts the product of n rows with m, or with another matrix of its shape, into
// parts of whole panels and calls f for each of them on all threads.
func (t *member) regions(n int, m *matrix, f func(region)) {
	threads := len(t.crew.lanes)
	if n <= fewRows && threads > 1 {
		t.run(unitsPerThread*threads, func(_, unit int) {
			g := m.columns(halving(unit, m.Panels(), threads), halving(unit+1, m.Panels(), threads))
			g.r1 = n
			if g.c0 < g.c1 {
				f(g)
			}
		})
		return
	}
	units, at := m.cut(n, threads)
	t.run(units, func(_, unit int) { f(at(unit)) })
}

// cut cuts the product of n rows with m into units for so many threads.
func (m *matrix) cut(n, threads int) (units int, at func(unit int) region) {
	size, panels, groups := unitRows, m.Panels(), 1
	if kernel.Active() < kernel.AVX512 {
		size /= 2 // as passes are
	}
	tiles := (n + size - 1) / size
	if threads > 1 {
		groups = max(1, min((productUnits*threads+tiles-1)/tiles, panels/minUnitPanels))
	}
	return tiles * groups, func(unit int) region {
		// Successive units are neighbours in the weights.
		tile, i := unit%tiles, unit/tiles
		g := m.columns(i*panels/groups, (i+1)*panels/groups)
		g.r0, g.r1 = tile*n/tiles, (tile+1)*n/tiles
		return g
	}
}

// columns are those of the panels from p0 to p1.
func (m *matrix) columns(p0, p1 int) region {
	return region{c0: p0 * kernel.PanelCols, c1: min(p1*kernel.PanelCols, m.out)}
}

// halving is where a unit of a product of few rows begins: unitsPerThread units make up
// a thread's share of the panels, each but the last half of what the ones before left.
func halving(unit, panels, threads int) int {
	t, i := unit/unitsPerThread, unit%unitsPerThread
	first, end := t*panels/threads, (t+1)*panels/threads
	return end - (end-first)>>i
}

// aheadBytes is how much of a matrix a thread prefetches: what it can read while another
// normalises a row or attends to a head, and far less than a second-level cache holds.
const aheadBytes = 64 << 10

// firstBytes is the first n bytes of b, or all of it.
func firstBytes(b []byte, n int) []byte { return b[:min(len(b), n)] }
