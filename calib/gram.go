package calib

import (
	"sync"

	"github.com/coppice-lm/coppice/engine/cpu/kernel"
	"github.com/coppice-lm/coppice/linalg"
	"github.com/coppice-lm/coppice/score"
)

const (
	// chunkRows is how many tokens are multiplied in float32 before their products are
	// added in float64: the error of a sum is that of this many additions.
	chunkRows = 512
	// unitRows is how many rows of the triangle are a unit of work.
	unitRows = 64
)

// adder adds activations to sums. It keeps the buffers.
type adder struct {
	threads int
	xt      []float32     // the activations of a chunk, neuron by neuron
	memory  kernel.Memory // of them packed
	scratch sync.Pool     // of *[]float32, unitRows rows of products
}

// add adds the given rows of x (rows of d values) to m. It reports whether all sums of
// products are finite.
func (a *adder) add(m *score.Moments, x []float32, rows []int) (finite bool) {
	finite = true
	for len(rows) > 0 {
		n := min(len(rows), chunkRows)
		finite = a.chunk(m, x, rows[:n]) && finite
		rows = rows[n:]
	}
	return finite
}

// chunk adds up to chunkRows rows.
func (a *adder) chunk(m *score.Moments, x []float32, rows []int) bool {
	d, n := len(m.Sum), len(rows)
	if cap(a.xt) < d*n {
		a.xt = make([]float32, d*n)
	}
	xt := a.xt[:d*n]
	units := (d + unitRows - 1) / unitRows
	linalg.Parallel(a.threads, units, func(u int) {
		for i, r := range rows {
			for j, v := range x[r*d:][u*unitRows : min((u+1)*unitRows, d)] {
				xt[(u*unitRows+j)*n+i] = v
			}
		}
	})
	a.memory.Reset()
	a.packed(d, n) // for its size
	a.memory.Allocate()
	packed := a.packed(d, n)
	linalg.Parallel(a.threads, packed.Panels(), func(p int) {
		// The rows are in memory: nothing can fail.
		_ = packed.Pack(p, p+1, func(o int, dst []float32) error { copy(dst, xt[o*n:][:n]); return nil })
	})
	bad := make([]bool, units)
	linalg.Parallel(a.threads, units, func(unit int) {
		u := units - 1 - unit // the longest first
		bad[u] = !a.unit(m, packed, xt, u*unitRows, min((u+1)*unitRows, d), n)
	})
	m.N += int64(n)
	for _, b := range bad {
		if b {
			return false
		}
	}
	return true
}

// packed makes room for a chunk.
func (a *adder) packed(d, n int) *kernel.F32 {
	w, err := kernel.NewF32(&a.memory, d, n)
	if err != nil {
		panic(err) // both sizes are positive
	}
	return w
}

// unit adds rows r0 to r1 of the triangle, and their sums.
func (a *adder) unit(m *score.Moments, packed *kernel.F32, xt []float32, r0, r1, n int) (finite bool) {
	d := len(m.Sum)
	buf, _ := a.scratch.Get().(*[]float32)
	if buf == nil || len(*buf) < unitRows*d {
		b := make([]float32, unitRows*d)
		buf = &b
	}
	defer a.scratch.Put(buf)
	packed.Mul(*buf, d, xt[r0*n:], n, r1-r0, 0, (r1+kernel.PanelCols-1)/kernel.PanelCols)
	finite = true
	for i := r0; i < r1; i++ {
		products := (*buf)[(i-r0)*d:][:i+1]
		to := m.Gram[i*(i+1)/2:][:i+1]
		for j, v := range products {
			to[j] += float64(v)
		}
		// No product is larger than the larger of the two on the diagonal, and what is not a
		// number makes its own square none.
		finite = finite && products[i]-products[i] == 0
		sum := 0.0
		for _, v := range xt[i*n:][:n] {
			sum += float64(v)
		}
		m.Sum[i] += sum
	}
	return finite
}

// addExact adds rows of x in float64: what few rows need.
func (a *adder) addExact(m *score.Moments, x []float32, rows []int) (finite bool) {
	d := len(m.Sum)
	units := (d + unitRows - 1) / unitRows
	wide := make([]float64, d)
	bad := make([]bool, units)
	for _, r := range rows {
		for j, v := range x[r*d:][:d] {
			wide[j] = float64(v)
		}
		linalg.Parallel(a.threads, units, func(unit int) {
			u := units - 1 - unit
			for i := u * unitRows; i < min((u+1)*unitRows, d); i++ {
				v := wide[i]
				bad[u] = bad[u] || v-v != 0
				m.Sum[i] += v
				to := m.Gram[i*(i+1)/2:][:i+1]
				for j, w := range wide[:i+1] {
					to[j] += v * w
				}
			}
		})
		m.N++
	}
	for _, b := range bad {
		if b {
			return false
		}
	}
	return true
}
