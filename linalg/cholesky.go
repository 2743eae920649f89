package linalg

import (
	"fmt"
	"math"
)

// choleskyBlock is the width of the columns that are factorised at a time: what is done
// outside the blocked product is a small share of n^3 then.
const choleskyBlock = 64

// NotPositiveError says that a matrix is not positive definite: it is singular, or was
// made so by rounding.
type NotPositiveError struct {
	Index int     // the first row whose pivot is not positive
	Pivot float64 // what the rows before it leave of its diagonal
}

func (e *NotPositiveError) Error() string {
	return fmt.Sprintf("the matrix is not positive definite: row %d leaves a pivot of %g", e.Index, e.Pivot)
}

// Cholesky is a factorisation A = L L'.
type Cholesky struct {
	l       *Matrix // the lower triangle
	lt      *Matrix // L', the upper triangle
	threads int
}

// Factor factorises a symmetric positive definite matrix, of which it reads the lower
// triangle and which it overwrites. The error is a *NotPositiveError.
func Factor(a *Matrix, threads int) (*Cholesky, error) {
	a.mustBeSquare()
	n := a.Rows
	for j := 0; j < n; j += choleskyBlock {
		e := min(j+choleskyBlock, n)
		// Columns j to e, less what the columns before them explain.
		AddMulT(a.View(j, n, j, e), -1, a.View(j, n, 0, j), a.View(j, e, 0, j), threads)
		diagonal := a.View(j, e, j, e)
		if i, pivot := factorSmall(diagonal); i >= 0 {
			return nil, &NotPositiveError{j + i, pivot}
		}
		below := a.View(e, n, j, e)
		Parallel(threads, (below.Rows+31)/32, func(unit int) {
			for r := unit * 32; r < min(unit*32+32, below.Rows); r++ {
				solveRow(below.Row(r), diagonal)
			}
		})
	}
	return &Cholesky{l: a, threads: threads}, nil
}

// factorSmall factorises a block in place; it returns the row whose pivot is not
// positive, or -1.
func factorSmall(a *Matrix) (int, float64) {
	for i := range a.Rows {
		row := a.Row(i)
		solveRow(row[:i], a.View(0, i, 0, i))
		pivot := row[i] - dot(row[:i], row[:i])
		if !(pivot > 0) || math.IsInf(pivot, 0) {
			return i, pivot
		}
		row[i] = math.Sqrt(pivot)
	}
	return -1, 0
}

// solveRow solves x L' = b for one row, in place.
func solveRow(x []float64, l *Matrix) {
	for j := range x {
		row := l.Row(j)
		x[j] = (x[j] - dot(x[:j], row[:j])) / row[j]
	}
}

// solveRowBack solves x L = b for one row, in place; lt is L'.
func solveRowBack(x []float64, lt *Matrix) {
	for j := len(x) - 1; j >= 0; j-- {
		row := lt.Row(j)
		x[j] = (x[j] - dot(x[j+1:], row[j+1:])) / row[j]
	}
}

// dot adds in four chains, which a processor works on side by side, and always in the
// same order.
func dot(a, b []float64) float64 {
	var s [4]float64
	n := len(a) &^ 3
	b = b[:len(a)]
	for i := 0; i < n; i += 4 {
		s[0] = math.FMA(a[i], b[i], s[0])
		s[1] = math.FMA(a[i+1], b[i+1], s[1])
		s[2] = math.FMA(a[i+2], b[i+2], s[2])
		s[3] = math.FMA(a[i+3], b[i+3], s[3])
	}
	sum := (s[0] + s[1]) + (s[2] + s[3])
	for i := n; i < len(a); i++ {
		sum = math.FMA(a[i], b[i], sum)
	}
	return sum
}

// transposed returns L', made on first use.
func (c *Cholesky) transposed() *Matrix {
	if c.lt == nil {
		n := c.l.Rows
		c.lt = New(n, n)
		for i := range n {
			for j := 0; j <= i; j++ {
				c.lt.Data[j*n+i] = c.l.At(i, j)
			}
		}
	}
	return c.lt
}

// SolveRight replaces B (rows x n) by B A^-1.
func (c *Cholesky) SolveRight(b *Matrix) {
	c.SolveFactor(b)
	n, lt := c.l.Rows, c.transposed()
	for j := (n - 1) / choleskyBlock * choleskyBlock; j >= 0; j -= choleskyBlock { // X L = Y
		e := min(j+choleskyBlock, n)
		AddMulT(b.View(0, b.Rows, j, e), -1, b.View(0, b.Rows, e, n), lt.View(j, e, e, n), c.threads)
		part, l := b.View(0, b.Rows, j, e), lt.View(j, e, j, e)
		c.eachRow(b.Rows, func(r int) { solveRowBack(part.Row(r), l) })
	}
}

// SolveFactor replaces B (rows x n) by B L'^-1: half of SolveRight.
func (c *Cholesky) SolveFactor(b *Matrix) {
	if b.Cols != c.l.Rows {
		panic(fmt.Sprintf("linalg: %d columns against a factor of %d", b.Cols, c.l.Rows))
	}
	n := c.l.Rows
	for j := 0; j < n; j += choleskyBlock { // Y L' = B
		e := min(j+choleskyBlock, n)
		AddMulT(b.View(0, b.Rows, j, e), -1, b.View(0, b.Rows, 0, j), c.l.View(j, e, 0, j), c.threads)
		part, l := b.View(0, b.Rows, j, e), c.l.View(j, e, j, e)
		c.eachRow(b.Rows, func(r int) { solveRow(part.Row(r), l) })
	}
}

// MulFactor returns B L (rows x n).
func (c *Cholesky) MulFactor(b *Matrix) *Matrix {
	product := New(b.Rows, c.l.Rows)
	AddMulT(product, 1, b, c.transposed(), c.threads)
	return product
}

func (c *Cholesky) eachRow(rows int, f func(r int)) {
	Parallel(c.threads, (rows+15)/16, func(unit int) {
		for r := unit * 16; r < min(unit*16+16, rows); r++ {
			f(r)
		}
	})
}

// Inverse returns A^-1, both triangles. It costs about twice the factorisation.
func (c *Cholesky) Inverse() *Matrix {
	n := c.l.Rows
	// y = L^-T, upper triangular: the rows of the identity solved against L', whose rows
	// below a block of columns stay zero.
	y := New(n, n)
	y.AddDiagonal(1)
	for j := 0; j < n; j += choleskyBlock {
		e := min(j+choleskyBlock, n)
		AddMulT(y.View(0, j, j, e), -1, y.View(0, j, 0, j), c.l.View(j, e, 0, j), c.threads)
		part, l := y.View(0, e, j, e), c.l.View(j, e, j, e)
		Parallel(c.threads, (e+15)/16, func(unit int) {
			for r := unit * 16; r < min(unit*16+16, e); r++ {
				solveRow(part.Row(r), l)
			}
		})
	}
	inverse := New(n, n)
	for i := 0; i < n; i += choleskyBlock {
		e := min(i+choleskyBlock, n)
		AddMulT(inverse.View(i, e, 0, e), 1, y.View(i, e, i, n), y.View(0, e, i, n), c.threads)
	}
	inverse.MirrorLower()
	return inverse
}
