package kernel

import (
	"fmt"
	"math"
	"sync"
	"unsafe"

	"github.com/coppice-lm/coppice/engine/cpu/kernel/internal/param"
)

// PanelCols is the number of output columns in a panel of packed weights.
const PanelCols = param.NR

// maxRows and maxGroup bound the rows and panels that one pass takes, so that a K block
// of its activations (693 KiB) and its partial sums (264 KiB) fit a second-level cache
// of 1 MiB; below AVX-512 half as many rows, and caches of 512 KiB. Fewer rows would read
// the weights more often. In a pass of fewer than fewTiles tiles the reading of weights is
// what takes time.
const (
	maxRows  = 528
	maxGroup = 4
	fewTiles = 8
)

// dword is one step along the inner dimension: a float32, or a pair of bfloat16 with
// the even element in the low half.
type dword interface{ float32 | uint32 }

// product is a matrix product as the blocked driver sees it, with activations packed as X
// and weights as W.
type product[X dword, W dword | uint16] struct {
	out   int // output columns
	k     int // inner dimension in steps
	steps int // the most of them that a block may have: a row of packed activations has XStride dwords
	rows  int // rows of activations
	mr    int // greatest tile height of the kernel

	// pack writes steps k0..k1 of activation row r to buf.
	pack func(buf []X, r, k0, k1 int)
	// panel is steps k0..k1 of panel p, NR columns each.
	panel func(p, k0, k1 int) []W
	// tile computes dst[r*ldd+j] = from[r*ldf+j] + sum over i<k of
	// x[r*XStride+i]*w[i*NR+j] for r<rows, j<NR, in ascending order of i; from is 0
	// where it is nil. It may prefetch 16*k bytes from next on, or, if next is nil,
	// what follows w at the rate at which it reads.
	tile func(dst []float32, ldd int, from []float32, ldf int, x []X, w, next []W, k, rows int)
}

// run computes panels p0..p1 of the product into dst.
//
// It takes blocks of rows, packs all their activations, and for a group of panels at a
// time walks over K in blocks. Partial sums of the group wait in scratch, not in dst,
// whose rows are far apart and compete for cache sets. They are stored and reloaded
// exactly, so no block size changes a bit of the result.
func (m *product[X, W]) run(dst []float32, ldd, p0, p1 int) {
	s := scratchPool.Get().(*scratch)
	defer scratchPool.Put(s)
	blocks := (m.k + m.steps - 1) / m.steps
	// Equal blocks, a multiple of 4 steps each.
	kc := ((m.k+blocks-1)/blocks + 3) &^ 3
	blocks = (m.k + kc - 1) / kc
	most := maxRows
	if active < AVX512 {
		most /= 2
	}
	parts := (m.rows + most - 1) / most
	for i := range parts {
		c := pass[X, W]{product: m, s: s, dst: dst, ldd: ldd, kc: kc, blocks: blocks, r0: i * m.rows / parts, r1: (i + 1) * m.rows / parts}
		c.pack()
		group := maxGroup
		if c.r1-c.r0 <= m.mr {
			group = 1 // weights are read once, in one stream
		}
		for p := p0; p < p1; p += group {
			c.group(p, min(p+group, p1))
		}
	}
}

// pass is the product of one block of rows.
type pass[X dword, W dword | uint16] struct {
	*product[X, W]
	s          *scratch
	dst        []float32
	ldd        int
	kc, blocks int
	r0, r1     int
	x          []X // packed activations: blocks x rows x XStride
}

func (c *pass[X, W]) pack() {
	rows := c.r1 - c.r0
	c.x = dwords[X](&c.s.x, c.blocks*rows*param.XStride)
	for b := range c.blocks {
		k0, k1 := b*c.kc, min((b+1)*c.kc, c.k)
		for r := range rows {
			c.product.pack(c.x[(b*rows+r)*param.XStride:][:param.XStride], c.r0+r, k0, k1)
		}
	}
}

// group computes panels p0..p1.
func (c *pass[X, W]) group(p0, p1 int) {
	rows := c.r1 - c.r0
	sums := dwords[float32](&c.s.c, maxGroup*maxRows*param.NR)
	tiles := (rows + c.mr - 1) / c.mr
	for b := range c.blocks {
		k0, k1 := b*c.kc, min((b+1)*c.kc, c.k)
		for p := p0; p < p1; p++ {
			w := c.panel(p, k0, k1)
			next := c.next(w, p, p0, p1, b)
			cols := min(param.NR, c.out-p*param.NR)
			// Tiles have nearly equal heights.
			for t := range tiles {
				t0, t1 := t*rows/tiles, (t+1)*rows/tiles
				part := sums[((p-p0)*rows+t0)*param.NR:]
				from, to, ldd := part, part, param.NR
				if b == 0 {
					from = nil
				}
				last := b == c.blocks-1
				out := c.dst[(c.r0+t0)*c.ldd+p*param.NR:]
				if last && cols == param.NR {
					to, ldd = out, c.ldd
				}
				c.tile(to, ldd, from, param.NR, c.x[(b*rows+t0)*param.XStride:], w, next, k1-k0, t1-t0)
				if done := (k1 - k0) * 16 / int(unsafe.Sizeof(*new(W))); done < len(next) {
					next = next[done:]
				} else {
					next = w
				}
				if last && cols < param.NR {
					for r := range t1 - t0 {
						copy(out[r*c.ldd:][:cols], part[r*param.NR:])
					}
				}
			}
		}
	}
}

// next is the share of a panel that comes after panel p and K block b, for tiles to
// prefetch a part each; w itself where there is none. If there are few
// tiles it is nil for the first, which then reads ahead in the stream of weights.
func (c *pass[X, W]) next(w []W, p, p0, p1, b int) []W {
	if c.r1-c.r0 < fewTiles*c.mr {
		return nil
	}
	p++
	if p == p1 {
		p, b = p0, b+1
	}
	if b == c.blocks {
		return w
	}
	return c.panel(p, b*c.kc, min((b+1)*c.kc, c.k))
}

// scratch is one call's working memory.
type scratch struct {
	x []float32 // packed activations
	c []float32 // partial sums: panels of the group x rows x NR
}

var scratchPool = sync.Pool{New: func() any { return new(scratch) }}

// checkProduct panics if the operands of a product are too short for it.
func checkProduct(name string, dst, ldd, x, ldx, out, in, rows, p0, p1 int) {
	panels := (out + param.NR - 1) / param.NR
	switch {
	case rows < 0 || p0 < 0 || p0 > p1 || p1 > panels:
		panic(fmt.Sprintf("kernel: %s.Mul: rows %d, panels [%d,%d) of %d", name, rows, p0, p1, panels))
	case rows > 0 && (ldd < out || ldx < in || dst < (rows-1)*ldd+out || x < (rows-1)*ldx+in):
		panic(fmt.Sprintf("kernel: %s.Mul of %d rows by %d x %d: dst has %d (row distance %d), x has %d (row distance %d)",
			name, rows, out, in, dst, ldd, x, ldx))
	}
}

// panels is the number of panels that hold out columns.
func panels(out int) int { return (out + param.NR - 1) / param.NR }

// checkWeights refuses sizes that no weight matrix has.
func checkWeights(name string, out, in int) error {
	if out < 1 || in < 1 || out > math.MaxInt32 || in > math.MaxInt32 {
		return fmt.Errorf("packing %s weights of %d x %d: both sizes must be in 1..2^31-1", name, out, in)
	}
	return nil
}
