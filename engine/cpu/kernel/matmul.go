package kernel

import (
	"fmt"
	"sync"
	"unsafe"

	"github.com/coppice-lm/coppice/engine/cpu/kernel/internal/tile"
)

// PanelCols is the number of output columns in a panel of packed weights.
const PanelCols = tile.NR

// maxPacked bounds the packed activations that wait in the second-level cache:
// 528 rows of one K block, 561 KiB.
const maxPacked = 528

// dword is one step along the inner dimension: a float32, or a pair of bfloat16 with
// the even element in the low half.
type dword interface{ float32 | uint32 }

// product is a matrix product as the blocked driver sees it.
type product[E dword] struct {
	out  int // output columns
	k    int // inner dimension in dwords
	rows int // rows of activations
	mr   int // greatest tile height of the kernel

	// pack copies dwords k0..k1 of activation row r into buf.
	pack func(buf []E, r, k0, k1 int)
	// panel returns dwords k0..k1 of panel p, NR columns each; it may use scratch
	// (KC x NR) to build them.
	panel func(scratch []E, p, k0, k1 int) []E
	// tile computes c[r*ldc+j] (+)= sum over i<k of x[r*XStride+i]*w[i*NR+j] for
	// r<rows, j<NR, in ascending order of i, onto c if load is set, else onto 0.
	tile func(c []float32, ldc int, x, w []E, k, rows int, load bool)
}

// run computes panels p0..p1 of the product into dst.
//
// K is cut at multiples of KC. If all activations fit the cache, panels are the outer
// loop, so that weights are read in one stream (decoding); else K blocks are, and a
// block of activations is packed once for all panels. Partial sums are stored and
// reloaded exactly, so the order of the loops does not change a bit.
func (m *product[E]) run(dst []float32, ldd, p0, p1 int) {
	s := scratchPool.Get().(*scratch)
	defer scratchPool.Put(s)
	blocks := (m.k + tile.KC - 1) / tile.KC
	if blocks*m.rows <= maxPacked {
		buf := dwords[E](&s.x, blocks*m.rows*tile.XStride)
		for b := range blocks {
			m.packRows(buf[b*m.rows*tile.XStride:], 0, m.rows, b)
		}
		for p := p0; p < p1; p++ {
			for b := range blocks {
				m.block(s, dst, ldd, buf[b*m.rows*tile.XStride:], 0, m.rows, p, b)
			}
		}
		return
	}
	parts := (m.rows + maxPacked - 1) / maxPacked
	for i := range parts {
		r0, r1 := i*m.rows/parts, (i+1)*m.rows/parts
		buf := dwords[E](&s.x, (r1-r0)*tile.XStride)
		for b := range blocks {
			m.packRows(buf, r0, r1, b)
			for p := p0; p < p1; p++ {
				m.block(s, dst, ldd, buf, r0, r1, p, b)
			}
		}
	}
}

func (m *product[E]) packRows(buf []E, r0, r1, b int) {
	k0 := b * tile.KC
	k1 := min(k0+tile.KC, m.k)
	for r := r0; r < r1; r++ {
		m.pack(buf[(r-r0)*tile.XStride:][:k1-k0], r, k0, k1)
	}
}

// block adds K block b of panel p to rows r0..r1 of dst, whose activations are in x.
// Rows are cut into tiles of nearly equal height.
func (m *product[E]) block(s *scratch, dst []float32, ldd int, x []E, r0, r1, p, b int) {
	k0 := b * tile.KC
	k := min(tile.KC, m.k-k0)
	w := m.panel(dwords[E](&s.w, tile.KC*tile.NR), p, k0, k0+k)
	cols := min(tile.NR, m.out-p*tile.NR)
	rows := r1 - r0
	tiles := (rows + m.mr - 1) / m.mr
	for t := range tiles {
		t0, t1 := t*rows/tiles, (t+1)*rows/tiles
		c := dst[(r0+t0)*ldd+p*tile.NR:]
		xt := x[t0*tile.XStride:]
		if cols == tile.NR {
			m.tile(c, ldd, xt, w, k, t1-t0, b > 0)
			continue
		}
		// The last panel is not full: its tile is computed beside dst.
		tmp := s.c[:]
		for r := range t1 - t0 {
			copy(tmp[r*tile.NR:], c[r*ldd:][:cols])
		}
		m.tile(tmp, tile.NR, xt, w, k, t1-t0, b > 0)
		for r := range t1 - t0 {
			copy(c[r*ldd:][:cols], tmp[r*tile.NR:])
		}
	}
}

// scratch is one call's working memory.
type scratch struct {
	x []float32 // packed activations
	w []float32 // an unpacked share of a panel
	c [tile.MR512 * tile.NR]float32
}

var scratchPool = sync.Pool{New: func() any { return new(scratch) }}

// dwords returns n elements of *buf as E, growing it if needed. Both element types
// have the size and alignment of a float32.
func dwords[E dword](buf *[]float32, n int) []E {
	if cap(*buf) < n {
		*buf = make([]float32, n)
	}
	return unsafe.Slice((*E)(unsafe.Pointer(unsafe.SliceData(*buf))), n)
}

// checkProduct panics if the operands of a product are too short for it.
func checkProduct(name string, dst, ldd, x, ldx, out, in, rows, p0, p1 int) {
	panels := (out + tile.NR - 1) / tile.NR
	switch {
	case rows < 0 || p0 < 0 || p0 > p1 || p1 > panels:
		panic(fmt.Sprintf("kernel: %s.Mul: rows %d, panels [%d,%d) of %d", name, rows, p0, p1, panels))
	case rows > 0 && (ldd < out || ldx < in || dst < (rows-1)*ldd+out || x < (rows-1)*ldx+in):
		panic(fmt.Sprintf("kernel: %s.Mul of %d rows by %d x %d: dst has %d (row distance %d), x has %d (row distance %d)",
			name, rows, out, in, dst, ldd, x, ldx))
	}
}

// panels is the number of panels that hold out columns.
func panels(out int) int { return (out + tile.NR - 1) / tile.NR }

// checkWeights refuses sizes that no weight matrix has.
func checkWeights(name string, out, in int) error {
	const limit = 1 << 31
	if out < 1 || in < 1 || out > limit || in > limit {
		return fmt.Errorf("packing %s weights of %d x %d: both sizes must be in 1..2^31", name, out, in)
	}
	return nil
}
