package linalg

import (
	"fmt"
	"math"
)

// A tile is tileRows x tileCols sums, which the registers of AVX2 hold; blockRows rows
// of A by blockInner steps stay in a second-level cache while all of B passes by.
const (
	tileRows   = 4
	tileCols   = 8
	blockRows  = 96
	blockInner = 256
)

// AddMulT computes C += alpha A B', with A rows x k, B cols x k and C rows x cols. C must
// not overlap A or B.
func AddMulT(c *Matrix, alpha float64, a, b *Matrix, threads int) {
	product{c: c, a: a, b: b, alpha: alpha, threads: threads}.run()
}

// AddMulTLower is AddMulT for the lower triangle of a square C, diagonal included. What
// is above the diagonal afterwards is unspecified.
func AddMulTLower(c *Matrix, alpha float64, a, b *Matrix, threads int) {
	c.mustBeSquare()
	product{c: c, a: a, b: b, alpha: alpha, threads: threads, lower: true}.run()
}

type product struct {
	c, a, b *Matrix
	alpha   float64
	threads int
	lower   bool
}

// run walks over the inner dimension in blocks. For each, B is packed once, and blocks
// of rows of A are packed and multiplied side by side. Sums are stored and reloaded
// exactly between blocks.
func (p product) run() {
	if p.a.Rows != p.c.Rows || p.b.Rows != p.c.Cols || p.a.Cols != p.b.Cols {
		panic(fmt.Sprintf("linalg: %d x %d times the transpose of %d x %d into %d x %d", p.a.Rows, p.a.Cols, p.b.Rows, p.b.Cols, p.c.Rows, p.c.Cols))
	}
	if p.c.Rows == 0 || p.c.Cols == 0 {
		return
	}
	panels := (p.c.Cols + tileCols - 1) / tileCols
	packed := make([]float64, panels*tileCols*min(blockInner, p.a.Cols))
	// Fewer rows a unit where there would not be enough units for the threads.
	rows := blockRows
	for rows > tileRows && (p.c.Rows+rows-1)/rows < 2*p.threads {
		rows /= 2
	}
	rows = max(tileRows, rows/tileRows*tileRows)
	units := (p.c.Rows + rows - 1) / rows
	for k0 := 0; k0 < p.a.Cols; k0 += blockInner {
		k := min(blockInner, p.a.Cols-k0)
		Parallel(p.threads, (panels+15)/16, func(unit int) {
			for panel := unit * 16; panel < min(unit*16+16, panels); panel++ {
				pack(packed[panel*tileCols*k:][:tileCols*k], p.b, panel*tileCols, k0, k, tileCols, 1)
			}
		})
		Parallel(p.threads, units, func(unit int) {
			u := units - 1 - unit // of a triangle, the longest first
			r0 := u * rows
			p.block(packed, r0, min(r0+rows, p.c.Rows), k0, k)
		})
	}
}

// block adds the products of rows r0 to r1 and k steps of the inner dimension.
func (p product) block(packed []float64, r0, r1, k0, k int) {
	var buf [blockRows * blockInner]float64
	for r := r0; r < r1; r += tileRows {
		pack(buf[(r-r0)*k:][:tileRows*k], p.a, r, k0, k, tileRows, p.alpha)
	}
	for c0 := 0; c0 < p.c.Cols; c0 += tileCols {
		b := packed[c0*k:][:tileCols*k]
		for r := r0; r < r1; r += tileRows {
			if p.lower && c0 > r+tileRows-1 {
				continue
			}
			a := buf[(r-r0)*k:][:tileRows*k]
			if r+tileRows <= r1 && c0+tileCols <= p.c.Cols {
				tile(p.c.Data[r*p.c.Stride+c0:], p.c.Stride, a, b, k)
			} else {
				p.edge(r, c0, a, b, k)
			}
		}
	}
}

// edge is a tile that C holds only in part.
func (p product) edge(r, c0 int, a, b []float64, k int) {
	var part [tileRows * tileCols]float64
	rows, cols := min(tileRows, p.c.Rows-r), min(tileCols, p.c.Cols-c0)
	for i := range rows {
		copy(part[i*tileCols:][:cols], p.c.Data[(r+i)*p.c.Stride+c0:])
	}
	tile(part[:], tileCols, a, b, k)
	for i := range rows {
		copy(p.c.Data[(r+i)*p.c.Stride+c0:][:cols], part[i*tileCols:])
	}
}

// pack stores steps k0 to k0+k of n rows from r on, times alpha, step by step; rows
// beyond the matrix are zero.
func pack(dst []float64, m *Matrix, r, k0, k, n int, alpha float64) {
	for i := range n {
		if r+i >= m.Rows {
			for s := range k {
				dst[s*n+i] = 0
			}
			continue
		}
		for s, x := range m.Data[(r+i)*m.Stride+k0:][:k] {
			dst[s*n+i] = alpha * x
		}
	}
}

// tileGo is tile in plain Go: c[i*ldc+j] += sum over s<k of a[s*tileRows+i]*b[s*tileCols+j].
func tileGo(c []float64, ldc int, a, b []float64, k int) {
	for i := range tileRows {
		row := c[i*ldc:][:tileCols]
		for s := range k {
			x := a[s*tileRows+i]
			for j, y := range b[s*tileCols:][:tileCols] {
				row[j] = math.FMA(x, y, row[j])
			}
		}
	}
}
