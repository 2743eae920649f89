// Package linalg is the dense linear algebra in float64 that pruning with statistics
// needs: products, and the Cholesky factorisation with what is solved by it.
//
// Everything is made of one product, C += a A B' (AddMulT), because in that form both
// operands are read along their rows, and because a blocked factorisation, a triangular
// solve with many right sides and an inverse are little else. Its inner loop is a tile of
// sums over packed operands: generated assembly on amd64 with AVX-512 or with AVX2 and FMA
// (internal/asm), and a twin in plain Go elsewhere.
//
// # Reproducibility
//
// Each element of a product is one chain of fused multiply-adds over the inner dimension
// in ascending order, so no result depends on the number of threads, on the sizes of
// blocks, or on whether the assembly or its twin ran.
package linalg

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
)

// Matrix is a dense matrix, row after row: element (i, j) is Data[i*Stride+j].
type Matrix struct {
	Rows, Cols, Stride int
	Data               []float64
}

// New returns a matrix of zeros.
func New(rows, cols int) *Matrix {
	return &Matrix{rows, cols, cols, make([]float64, rows*cols)}
}

// NewPadded returns a matrix of zeros with space between its rows. Where rows are a large
// power of two apart, elements below one another compete for the same places of a cache:
// the update of a triangle of 8,192 took half as long again.
func NewPadded(rows, cols int) *Matrix {
	stride := paddedStride(cols)
	return &Matrix{rows, cols, stride, make([]float64, rows*stride)}
}

// paddedStride is at least cols: whole lines of a cache, and no large power of two.
func paddedStride(cols int) int {
	const line, power = 8, 64
	stride := (cols + line - 1) / line * line
	if stride%power == 0 {
		stride += line
	}
	return stride
}

// Row returns row i, which shares the matrix's memory.
func (m *Matrix) Row(i int) []float64 { return m.Data[i*m.Stride:][:m.Cols] }

// At returns element (i, j).
func (m *Matrix) At(i, j int) float64 { return m.Data[i*m.Stride+j] }

// View returns rows r0 to r1 and columns c0 to c1 (ends excluded), which share the
// matrix's memory.
func (m *Matrix) View(r0, r1, c0, c1 int) *Matrix {
	v := &Matrix{Rows: r1 - r0, Cols: c1 - c0, Stride: m.Stride}
	if v.Rows > 0 && v.Cols > 0 {
		v.Data = m.Data[r0*m.Stride+c0 : (r1-1)*m.Stride+c1]
	}
	return v
}

// Clone returns a copy.
func (m *Matrix) Clone() *Matrix {
	c := New(m.Rows, m.Cols)
	for i := range m.Rows {
		copy(c.Row(i), m.Row(i))
	}
	return c
}

// Select returns a copy of the elements at the given rows and columns.
func (m *Matrix) Select(rows, cols []int) *Matrix {
	s := New(len(rows), len(cols))
	m.SelectInto(s, rows, cols)
	return s
}

// SelectInto copies the elements at the given rows and columns to s.
func (m *Matrix) SelectInto(s *Matrix, rows, cols []int) {
	for i, r := range rows {
		pick(s.Row(i), m.Row(r), cols)
	}
}

// Columns returns a copy of the given columns.
func (m *Matrix) Columns(cols []int) *Matrix {
	s := New(m.Rows, len(cols))
	for i := range m.Rows {
		pick(s.Row(i), m.Row(i), cols)
	}
	return s
}

func pick(to, from []float64, at []int) {
	for i, j := range at {
		to[i] = from[j]
	}
}

// ShrinkLower reduces a square matrix to the given rows and columns, ascending, in place, as
// far as its lower triangle goes. What is above the diagonal afterwards is unspecified.
func (m *Matrix) ShrinkLower(stay []int) {
	m.mustBeSquare()
	n := len(stay)
	stride := min(m.Stride, paddedStride(n))
	for i, r := range stay {
		// What is written lies before all that is still to be read.
		from, to := m.Row(r), m.Data[i*stride:][:i+1]
		for j := range to {
			to[j] = from[stay[j]]
		}
	}
	m.Rows, m.Cols, m.Stride = n, n, stride
}

// MirrorLower copies the lower triangle of a square matrix to the upper.
func (m *Matrix) MirrorLower() {
	m.mustBeSquare()
	const block = 32 // a block and its mirror stay in the cache
	for i0 := 0; i0 < m.Rows; i0 += block {
		for j0 := 0; j0 <= i0; j0 += block {
			for i := i0; i < min(i0+block, m.Rows); i++ {
				for j := j0; j < min(j0+block, i); j++ {
					m.Data[j*m.Stride+i] = m.Data[i*m.Stride+j]
				}
			}
		}
	}
}

// Transpose turns a square matrix into its transpose.
func (m *Matrix) Transpose() {
	m.mustBeSquare()
	const block = 32 // a block and its mirror stay in the cache
	for i0 := 0; i0 < m.Rows; i0 += block {
		for j0 := 0; j0 <= i0; j0 += block {
			for i := i0; i < min(i0+block, m.Rows); i++ {
				for j := j0; j < min(j0+block, i); j++ {
					x, y := &m.Data[i*m.Stride+j], &m.Data[j*m.Stride+i]
					*x, *y = *y, *x
				}
			}
		}
	}
}

// AddDiagonal adds x to each element of the diagonal of a square matrix.
func (m *Matrix) AddDiagonal(x float64) {
	m.mustBeSquare()
	for i := range m.Rows {
		m.Data[i*m.Stride+i] += x
	}
}

// Trace is the sum of the diagonal of a square matrix.
func (m *Matrix) Trace() float64 {
	m.mustBeSquare()
	sum := 0.0
	for i := range m.Rows {
		sum += m.At(i, i)
	}
	return sum
}

func (m *Matrix) mustBeSquare() {
	if m.Rows != m.Cols {
		panic(fmt.Sprintf("linalg: %d x %d is not square", m.Rows, m.Cols))
	}
}

// Parallel calls f once for each unit below n, on up to so many goroutines. Which of
// them runs which unit is left to chance.
func Parallel(threads, n int, f func(unit int)) {
	if threads <= 1 || n <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(threads, n) {
		wg.Go(func() {
			// A goroutine that gives way waits where every processor looks. Just started, it
			// waits at the caller's, and processors whose goroutines only wait for something,
			// as an engine's workers do, never look there.
			runtime.Gosched()
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				f(i)
			}
		})
	}
	wg.Wait()
}
