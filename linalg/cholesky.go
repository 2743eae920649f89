package linalg

import (
	"fmt"
	"iter"
	"math"
)

const (
	// choleskyBlock is the width of the columns that are factorised at a time: what is done
	// outside the blocked product is a small share of n^3 then.
	choleskyBlock = 64
	// choleskyPanel is the width of the columns from which those before them are taken in
	// one product, which reads that much less often what is large.
	choleskyPanel = 3 * choleskyBlock
)

// blocksOf yields where blocks of n columns begin and end.
func blocksOf(n int) iter.Seq2[int, int] {
	return func(yield func(int, int) bool) {
		for j := 0; j < n && yield(j, min(j+choleskyBlock, n)); j += choleskyBlock {
		}
	}
}

// explain takes from a block of columns of x, j to e, what the columns before them explain
// of them: x_j -= x_i l_ji' for all i < j. At the first block of a panel it does so for the
// whole panel, as far as columns before the panel go.
//
// Where upper is set, x is an upper triangle.
func explain(x, l *Matrix, j, e int, upper bool, threads int) {
	from := j / choleskyPanel * choleskyPanel
	if j == from {
		from, e = 0, min(j+choleskyPanel, l.Rows)
	}
	product{c: x.View(0, x.Rows, j, e), alpha: -1, a: x.View(0, x.Rows, from, j), b: l.View(j, e, from, j), threads: threads, upperA: upper && from == 0}.run()
}

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
	for j, e := range blocksOf(n) {
		// Columns j to e, less what the columns before them explain.
		explain(a.View(j, n, 0, n), a, j, e, false, threads)
		diagonal := a.View(j, e, j, e)
		if i, pivot := factorSmall(diagonal); i >= 0 {
			return nil, &NotPositiveError{j + i, pivot}
		}
		solveRows(a.View(e, n, j, e), diagonal, threads)
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

// solveRows solves X L' = B for rows, in place.
func solveRows(x, l *Matrix, threads int) {
	eachLanes(x, threads, func(v []float64, lanes int) {
		for j := range l.Rows {
			row := l.Row(j)
			active.solve(v[j*lanes:][:lanes], v, row[:j], row[j])
		}
	})
}

// solveRowsBack solves X L = B for rows, in place; lt is L'.
func solveRowsBack(x, lt *Matrix, threads int) {
	eachLanes(x, threads, func(v []float64, lanes int) {
		for j := lt.Rows - 1; j >= 0; j-- {
			row := lt.Row(j)
			active.solve(v[j*lanes:][:lanes], v[(j+1)*lanes:], row[j+1:], row[j])
		}
	})
}

// eachLanes calls do for stretches of the rows of x, at most choleskyBlock wide, with their
// values side by side: value j of row r of a stretch of so many rows is v[j*lanes+r].
func eachLanes(x *Matrix, threads int, do func(v []float64, lanes int)) {
	lanes := active.lanes
	Parallel(threads, (x.Rows+lanes-1)/lanes, func(unit int) {
		var room [choleskyBlock * 16]float64
		v := room[:x.Cols*lanes]
		r0, r1 := unit*lanes, min((unit+1)*lanes, x.Rows)
		for r := r0; r < r1; r++ {
			for j, value := range x.Row(r) {
				v[j*lanes+r-r0] = value
			}
		}
		do(v, lanes)
		for r := r0; r < r1; r++ {
			row := x.Row(r)
			for j := range row {
				row[j] = v[j*lanes+r-r0]
			}
		}
	})
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
		c.lt = NewPadded(n, n)
		for i := range n {
			for j := 0; j <= i; j++ {
				c.lt.Data[j*c.lt.Stride+i] = c.l.At(i, j)
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
		solveRowsBack(b.View(0, b.Rows, j, e), lt.View(j, e, j, e), c.threads)
	}
}

// SolveFactor replaces B (rows x n) by B L'^-1: half of SolveRight.
func (c *Cholesky) SolveFactor(b *Matrix) {
	if b.Cols != c.l.Rows {
		panic(fmt.Sprintf("linalg: %d columns against a factor of %d", b.Cols, c.l.Rows))
	}
	for j, e := range blocksOf(c.l.Rows) { // Y L' = B
		explain(b, c.l, j, e, false, c.threads)
		solveRows(b.View(0, b.Rows, j, e), c.l.View(j, e, j, e), c.threads)
	}
}

// MulFactor returns B L (rows x n).
func (c *Cholesky) MulFactor(b *Matrix) *Matrix {
	p := New(b.Rows, c.l.Rows)
	product{c: p, alpha: 1, a: b, b: c.transposed(), threads: c.threads, upperB: true}.run()
	return p
}

// Inverse returns A^-1, both triangles, with space between rows as in NewPadded. It costs about twice the factorisation.
func (c *Cholesky) Inverse() *Matrix {
	n := c.l.Rows
	// y = L^-T, upper triangular: the rows of the identity solved against L', whose rows
	// below a block of columns stay zero.
	y := NewPadded(n, n)
	y.AddDiagonal(1)
	for j, e := range blocksOf(n) {
		explain(y.View(0, j, 0, n), c.l, j, e, true, c.threads)
		solveRows(y.View(0, e, j, e), c.l.View(j, e, j, e), c.threads)
	}
	// A^-1 = y y', of which the lower triangle takes the place of zeros that nothing reads
	// but the products for the same rows.
	for i, room := 0, NewPadded(min(choleskyPanel, n), n); i < n; i += choleskyPanel {
		e := min(i+choleskyPanel, n)
		rows := room.View(0, e-i, 0, e)
		clear(room.Data)
		AddMulT(rows, 1, y.View(i, e, i, n), y.View(0, e, i, n), c.threads)
		for r := range rows.Rows {
			copy(y.Row(i+r), rows.Row(r))
		}
	}
	y.MirrorLower()
	return y
}
