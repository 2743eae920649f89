package linalg

import (
	"fmt"
	"sync"
)

// blockRows rows of A by blockInner steps stay in a second-level cache while all of B passes
// by. They are whole tiles of every level.
const (
	blockRows  = 96
	blockInner = 256
)

// AddMulT computes C += alpha A B', with A rows x k, B cols x k and C rows x cols. C must
// not overlap A or B.
func AddMulT(c *Matrix, alpha float64, a, b *Matrix, threads int) {
	product{c: c, a: a, b: b, alpha: alpha, threads: threads}.run()
}

// AddTMulLower computes the lower triangle, diagonal included, of C += alpha A' B, with A
// and B k x rows and C square. What is above the diagonal afterwards is unspecified.
func AddTMulLower(c *Matrix, alpha float64, a, b *Matrix, threads int) {
	c.mustBeSquare()
	product{c: c, a: a, b: b, alpha: alpha, threads: threads, lower: true, transposed: true}.run()
}

type product struct {
	c, a, b *Matrix
	alpha   float64
	threads int
	lower   bool
	// transposed says that A is k x rows and B k x cols.
	transposed bool
	// upperA and upperB say that an operand is an upper triangle: of its row r, what is
	// before step r is zero, and not multiplied where that saves much.
	upperA, upperB bool
	level
}

// run walks over the inner dimension in blocks. For each, B is packed once, and blocks
// of rows of A are packed and multiplied side by side. Sums are stored and reloaded
// exactly between blocks.
func (p product) run() {
	rowsA, inner, rowsB, innerB := p.a.Rows, p.a.Cols, p.b.Rows, p.b.Cols
	if p.transposed {
		rowsA, inner, rowsB, innerB = inner, rowsA, innerB, rowsB
	}
	if rowsA != p.c.Rows || rowsB != p.c.Cols || inner != innerB {
		panic(fmt.Sprintf("linalg: %d x %d and %d x %d, transposed %v, into %d x %d", p.a.Rows, p.a.Cols, p.b.Rows, p.b.Cols, p.transposed, p.c.Rows, p.c.Cols))
	}
	if p.c.Rows == 0 || p.c.Cols == 0 {
		return
	}
	p.level = active
	tileRows, tileCols := p.tileRows, p.tileCols
	panels := (p.c.Cols + tileCols - 1) / tileCols
	packed := make([]float64, panels*tileCols*min(blockInner, inner))
	// Fewer rows a unit where there would not be enough units for the threads.
	rows := blockRows
	for rows > tileRows && (p.c.Rows+rows-1)/rows < 2*p.threads {
		rows /= 2
	}
	rows = max(tileRows, rows/tileRows*tileRows)
	units := (p.c.Rows + rows - 1) / rows
	for k0 := 0; k0 < inner; k0 += blockInner {
		k := min(blockInner, inner-k0)
		Parallel(p.threads, (panels+15)/16, func(unit int) {
			for panel := unit * 16; panel < min(unit*16+16, panels); panel++ {
				p.pack(packed[panel*tileCols*k:][:tileCols*k], p.b, panel*tileCols, k0, k, tileCols, 1)
			}
		})
		Parallel(p.threads, units, func(unit int) {
			u := units - 1 - unit // of a triangle, the longest first
			r0 := u * rows
			if p.upperA && k0+k <= r0 {
				return
			}
			p.block(packed, r0, min(r0+rows, p.c.Rows), k0, k)
		})
	}
}

// blocks is rows of A that are packed.
var blocks = sync.Pool{New: func() any { return new([blockRows * blockInner]float64) }}

// block adds the products of rows r0 to r1 and k steps of the inner dimension.
func (p product) block(packed []float64, r0, r1, k0, k int) {
	tileRows, tileCols := p.tileRows, p.tileCols
	room := blocks.Get().(*[blockRows * blockInner]float64)
	defer blocks.Put(room)
	buf := room[:]
	for r := r0; r < r1; r += tileRows {
		p.pack(buf[(r-r0)*k:][:tileRows*k], p.a, r, k0, k, tileRows, p.alpha)
	}
	for c0 := 0; c0 < p.c.Cols && !(p.upperB && k0+k <= c0); c0 += tileCols {
		b := packed[c0*k:][:tileCols*k]
		for r := r0; r < r1; r += tileRows {
			if p.lower && c0 > r+tileRows-1 {
				continue
			}
			a := buf[(r-r0)*k:][:tileRows*k]
			if r+tileRows <= r1 && c0+tileCols <= p.c.Cols {
				p.tile(p.c.Data[r*p.c.Stride+c0:], p.c.Stride, a, b, k)
			} else {
				p.edge(r, c0, a, b, k)
			}
		}
	}
}

// edge is a tile that C holds only in part.
func (p product) edge(r, c0 int, a, b []float64, k int) {
	tileRows, tileCols := p.tileRows, p.tileCols
	var room [8 * 24]float64
	part := room[:tileRows*tileCols]
	rows, cols := min(tileRows, p.c.Rows-r), min(tileCols, p.c.Cols-c0)
	for i := range rows {
		copy(part[i*tileCols:][:cols], p.c.Data[(r+i)*p.c.Stride+c0:])
	}
	p.tile(part, tileCols, a, b, k)
	for i := range rows {
		copy(p.c.Data[(r+i)*p.c.Stride+c0:][:cols], part[i*tileCols:])
	}
}

// pack stores steps k0 to k0+k of n rows of an operand from r on, times alpha, step by
// step; rows beyond the matrix are zero. n is a multiple of 4.
func (p product) pack(dst []float64, m *Matrix, r, k0, k, n int, alpha float64) {
	if !p.transposed {
		packRows(dst, m, r, k0, k, n, alpha)
		return
	}
	from := m.Data[k0*m.Stride+r:]
	cols := min(n, m.Cols-r)
	for s := range k {
		to := dst[s*n:][:n]
		clear(to[copy(to, from[s*m.Stride:][:cols]):])
	}
	if alpha != 1 {
		for i := range dst[:k*n] {
			dst[i] *= alpha
		}
	}
}

// packRows is pack where steps lie along rows.
func packRows(dst []float64, m *Matrix, r, k0, k, n int, alpha float64) {
	dst = dst[:k*n]
	for i := 0; i < n; i += 4 {
		if r+i+4 > m.Rows {
			packEdge(dst[i:], m, r+i, k0, k, n, alpha)
			continue
		}
		from := m.Data[(r+i)*m.Stride+k0:]
		a, b, c, d := from[:k], from[m.Stride:][:k], from[2*m.Stride:][:k], from[3*m.Stride:][:k]
		for s := range a {
			to := dst[s*n+i:][:4]
			to[0], to[1], to[2], to[3] = alpha*a[s], alpha*b[s], alpha*c[s], alpha*d[s]
		}
	}
}

// packEdge is packRows for 4 rows, not all of which the matrix has.
func packEdge(dst []float64, m *Matrix, r, k0, k, n int, alpha float64) {
	for i := range 4 {
		for s := range k {
			x := 0.0
			if r+i < m.Rows {
				x = alpha * m.Data[(r+i)*m.Stride+k0+s]
			}
			dst[s*n+i] = x
		}
	}
}
