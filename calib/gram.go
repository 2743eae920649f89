package calib

import (
	"iter"
	"slices"
	"sync"

	"github.com/coppice-lm/coppice/engine/cpu/kernel"
	"github.com/coppice-lm/coppice/linalg"
	"github.com/coppice-lm/coppice/score"
)

const (
	// chunkRows is how many tokens are multiplied in float32 before their products are
	// added in float64: the error of a sum is that of this many additions.
	chunkRows = 512
	// orderOfSums numbers in what else the order of additions has differed from version to
	// version: since 2, all rows of a batch are added up together.
	orderOfSums = 2
	// unitRows is how many rows of the triangle are a unit of work.
	unitRows = 64
)

// adder adds activations to sums. It keeps the buffers.
type adder struct {
	threads int
	half    bool          // whether products are of bfloat16, which is twice as fast and has the error of that
	x, t    turned        // the activations of a chunk, and targets
	memory  kernel.Memory // of activations packed
	scratch sync.Pool     // of *[]float32, unitRows rows of products
}

// turned is values of a chunk's tokens neuron by neuron, [d, n], with those in bfloat16 where products
// are of them.
type turned struct {
	values  []float32
	rounded []uint16
}

// add adds the given rows of x (rows of d values) to m. It reports whether all sums of
// products are finite.
func (a *adder) add(m *score.Moments, x []float32, rows []int) (finite bool) {
	finite = true
	for part := range slices.Chunk(rows, chunkRows) {
		finite = a.gram(m, a.load(x, len(m.Sum), part)) && finite
	}
	return finite
}

// chunk is n rows of d values, turned round, and packed so that they can be multiplied.
type chunk struct {
	n, d int
	x    *turned
	full *kernel.F32  // one of the two
	half *kernel.BF16 // is packed
}

// load makes a chunk of the given rows of x, valid until the next.
func (a *adder) load(x []float32, d int, rows []int) chunk {
	c := chunk{n: len(rows), d: d, x: &a.x}
	a.turn(c.x, x, d, rows)
	a.memory.Reset()
	a.packed(&c) // for its size
	a.memory.Allocate()
	packed := a.packed(&c)
	linalg.Parallel(a.threads, packed.Panels(), func(p int) {
		// The rows are in memory: nothing can fail.
		_ = packed.Pack(p, p+1, func(o int, dst []float32) error { copy(dst, c.x.values[o*c.n:][:c.n]); return nil })
	})
	return c
}

// packer is what a chunk is packed in, in either precision.
type packer interface {
	Panels() int
	Pack(p0, p1 int, row func(o int, dst []float32) error) error
}

// packed makes room for a chunk, and returns what fills it.
func (a *adder) packed(c *chunk) (p packer) {
	var err error
	if a.half {
		c.half, err = kernel.NewBF16(&a.memory, c.d, c.n)
		p = c.half
	} else {
		c.full, err = kernel.NewF32(&a.memory, c.d, c.n)
		p = c.full
	}
	if err != nil {
		panic(err) // both sizes are positive
	}
	return p
}

// mul multiplies rows of turned values with a chunk's first cols neurons: to is [rows, d].
func (c *chunk) mul(to []float32, x *turned, first, rows, cols int) {
	panels := (cols + kernel.PanelCols - 1) / kernel.PanelCols
	if c.half != nil {
		c.half.Mul(to, c.d, x.rounded[first*c.n:], c.n, rows, 0, panels)
		return
	}
	c.full.Mul(to, c.d, x.values[first*c.n:], c.n, rows, 0, panels)
}

// turn stores the given rows of x, of d values, in the columns of [d, len(rows)].
func (a *adder) turn(to *turned, x []float32, d int, rows []int) {
	n := len(rows)
	to.values = grow(to.values, d*n)
	if a.half {
		to.rounded = grow(to.rounded, d*n)
	}
	buf := to.values
	linalg.Parallel(a.threads, units(d), func(u int) {
		j0, j1 := u*unitRows, min((u+1)*unitRows, d)
		i := 0
		for ; i+8 <= n; i += 8 { // eight rows are written side by side
			var from [8][]float32
			for k := range from {
				from[k] = x[rows[i+k]*d:][j0:j1]
			}
			for j := range j1 - j0 {
				eight := buf[(j0+j)*n+i:][:8]
				for k := range eight {
					eight[k] = from[k][j]
				}
			}
		}
		for ; i < n; i++ {
			for j, v := range x[rows[i]*d:][j0:j1] {
				buf[(j0+j)*n+i] = v
			}
		}
		if a.half {
			kernel.RoundBF16(to.rounded[j0*n:j1*n], buf[j0*n:j1*n])
		}
	})
}

func units(d int) int { return (d + unitRows - 1) / unitRows }

// gram adds the products of a chunk's neurons with one another.
func (a *adder) gram(m *score.Moments, c chunk) (finite bool) {
	n := units(c.d)
	bad := make([]bool, n)
	linalg.Parallel(a.threads, n, func(unit int) {
		u := n - 1 - unit // the longest first
		bad[u] = !a.unit(m, c, u*unitRows, min((u+1)*unitRows, c.d))
	})
	m.N += int64(c.n)
	return !slices.Contains(bad, true)
}

// buffer returns room for unitRows rows of d products; what it returned is given back.
func (a *adder) buffer(d int) *[]float32 {
	buf, _ := a.scratch.Get().(*[]float32)
	if buf == nil || len(*buf) < unitRows*d {
		b := make([]float32, unitRows*d)
		buf = &b
	}
	return buf
}

// unit adds rows r0 to r1 of the triangle, and their sums.
func (a *adder) unit(m *score.Moments, c chunk, r0, r1 int) (finite bool) {
	buf := a.buffer(c.d)
	defer a.scratch.Put(buf)
	c.mul(*buf, c.x, r0, r1-r0, r1)
	finite = true
	for i := r0; i < r1; i++ {
		products := (*buf)[(i-r0)*c.d:][:i+1]
		linalg.AddFloat32(m.Gram[i*(i+1)/2:], products)
		// No product is larger than the larger of the two on the diagonal, and what is not a
		// number makes its own square none.
		finite = finite && products[i]-products[i] == 0
		sum := 0.0
		for _, v := range c.x.values[i*c.n:][:c.n] {
			sum += float64(v)
		}
		m.Sum[i] += sum
	}
	return finite
}

// addExact adds rows of x in float64: what few rows need.
func (a *adder) addExact(m *score.Moments, x []float32, rows []int) (finite bool) {
	d := len(m.Sum)
	n := units(d)
	bad := make([]bool, n)
	for part, wide := range inFloat64(x, d, rows) {
		linalg.Parallel(a.threads, n, func(unit int) {
			u := n - 1 - unit // the longest first
			by := make([]float64, len(part))
			for i := u * unitRows; i < min((u+1)*unitRows, d); i++ {
				for r := range by {
					v := wide.At(r, i)
					by[r] = v
					m.Sum[i] += v
					bad[u] = bad[u] || v-v != 0
				}
				linalg.AddRows(m.Gram[i*(i+1)/2:][:i+1], wide.View(0, len(part), 0, i+1), by)
			}
		})
		m.N += int64(len(part))
	}
	return !slices.Contains(bad, true)
}

// inFloat64 yields some of the given rows of x, of d values, at a time, with their values.
func inFloat64(x []float32, d int, rows []int) iter.Seq2[[]int, *linalg.Matrix] {
	const most = 32
	return func(yield func([]int, *linalg.Matrix) bool) {
		for part := range slices.Chunk(rows, most) {
			wide := linalg.New(len(part), d)
			for i, r := range part {
				for j, v := range x[r*d:][:d] {
					wide.Data[i*d+j] = float64(v)
				}
			}
			if !yield(part, wide) {
				return
			}
		}
	}
}
