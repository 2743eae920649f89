package linalg

import (
	"fmt"
	"math"
)

// level is inner loops that use some of a processor's instructions. All levels give the
// same bits.
type level struct {
	name string
	// tile adds a product to tileRows x tileCols sums: c[i*ldc+j] += sum over s<k of
	// a[s*tileRows+i]*b[s*tileCols+j], with k > 0.
	tileRows, tileCols int
	tile               func(c []float64, ldc int, a, b []float64, k int)
	// solve is a step of the solution of a triangular system for that many rows side by
	// side: it replaces x, a value of each, by (x - dot) / pivot, where dot is that of l
	// and from, len(l) values like x, in the order in which dot adds.
	lanes int
	solve func(x, from, l []float64, pivot float64)
	// rows adds to so many columns the sum of len(by) > 0 rows, stride apart, times by.
	columns int
	rows    func(to, rows []float64, stride int, by []float64)
	// add adds float32 to float64; their number is a multiple of floats.
	floats int
	add    func(to []float64, x []float32)
}

// active is the level in use. Only tests write it after start-up.
var active = levels()[0]

// generic is the level in plain Go.
var generic = level{
	name: "generic", tileRows: 4, tileCols: 8, lanes: 8, columns: 1, floats: 1,
	tile: func(c []float64, ldc int, a, b []float64, k int) {
		for i := range 4 {
			row := c[i*ldc:][:8]
			for s := range k {
				x := a[s*4+i]
				for j, y := range b[s*8:][:8] {
					row[j] = math.FMA(x, y, row[j])
				}
			}
		}
	},
	solve: func(x, from, l []float64, pivot float64) {
		const lanes = 8
		for r := range lanes {
			var s [4]float64
			n := len(l) &^ 3
			for i := 0; i < n; i += 4 {
				for c := range s {
					s[c] = math.FMA(from[(i+c)*lanes+r], l[i+c], s[c])
				}
			}
			sum := (s[0] + s[1]) + (s[2] + s[3])
			for i := n; i < len(l); i++ {
				sum = math.FMA(from[i*lanes+r], l[i], sum)
			}
			x[r] = (x[r] - sum) / pivot
		}
	},
	rows: func(to, rows []float64, stride int, by []float64) {
		for i, x := range by {
			to[0] = math.FMA(rows[i*stride], x, to[0])
		}
	},
	add: func(to []float64, x []float32) {
		for i, v := range x {
			to[i] += float64(v)
		}
	},
}

// AddRows adds to a vector the sum of the rows of m, each times its value of by.
func AddRows(to []float64, m *Matrix, by []float64) {
	if len(to) != m.Cols || len(by) != m.Rows {
		panic(fmt.Sprintf("linalg: %d values by %d x %d into %d", len(by), m.Rows, m.Cols, len(to)))
	}
	if m.Rows == 0 {
		return
	}
	at, n := 0, active.columns
	for ; at+n <= m.Cols; at += n {
		active.rows(to[at:], m.Data[at:], m.Stride, by)
	}
	for ; at < m.Cols; at++ {
		generic.rows(to[at:], m.Data[at:], m.Stride, by)
	}
}

// AddFloat32 adds x to the first values of to.
func AddFloat32(to []float64, x []float32) {
	to = to[:len(x)]
	n := len(x) / active.floats * active.floats
	if n > 0 {
		active.add(to[:n], x[:n])
	}
	for i, v := range x[n:] {
		to[n+i] += float64(v)
	}
}
