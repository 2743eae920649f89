package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/coppice-lm/coppice/engine/cpu/kernel/internal/param"
)

const tileSig = "func(dst *float32, ldd int, from *float32, ldf int, x *%s, w, next *%s, k, rows int)"

var (
	zmm = []reg.VecPhysical{
		reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7,
		reg.Z8, reg.Z9, reg.Z10, reg.Z11, reg.Z12, reg.Z13, reg.Z14, reg.Z15,
		reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23,
		reg.Z24, reg.Z25, reg.Z26, reg.Z27, reg.Z28, reg.Z29, reg.Z30, reg.Z31,
	}
	ymm = []reg.VecPhysical{
		reg.Y0, reg.Y1, reg.Y2, reg.Y3, reg.Y4, reg.Y5, reg.Y6, reg.Y7,
		reg.Y8, reg.Y9, reg.Y10, reg.Y11, reg.Y12, reg.Y13, reg.Y14, reg.Y15,
	}
)

// matmul emits the tiles of the blocked products: rows x 32 with AVX-512, rows x 16
// with AVX2.
func matmul(g *gen) {
	tile := func(name, x, w, weights string, body func()) {
		rows, cols := param.MR256, 16
		if g.wide {
			rows, cols = param.MR512, 32
		}
		g.function(name, fmt.Sprintf(tileSig, x, w), fmt.Sprintf("computes dst = from + k steps of a product with %s weights for 1..%d rows of %d columns; from may be nil for zero, row distances are in elements. On the way it prefetches 16*k bytes from next on, or, if that is nil, what follows w.", weights, rows, cols), body)
	}
	for _, g.wide = range []bool{false, true} {
		regs, rows := ymm, param.MR256
		if g.wide {
			regs, rows = zmm, param.MR512
		}
		size := int(regs[0].Size())
		t := tileRegs{g: g, regs: regs, rows: rows, x: 2*rows + 2, fma: func(dst, w, x int) { g.VFMADD231PS(regs[x], regs[w], regs[dst]) }}
		plain := func(t tileRegs) {
			g.tiles(t, 4*param.NR, func(h, u int) {
				t.weights(func(i, w int) { g.VMOVUPS(mem(reg.RCX, u*4*param.NR+i*size), regs[w]) })
				t.mulAdd(h, 4*u)
			})
		}
		tile("tileF32"+g.suffix(), "float32", "float32", "float32", func() { plain(t) })
		tile("tileF16"+g.suffix(), "float32", "uint16", "half-precision", func() {
			g.tiles(t, 2*param.NR, func(h, u int) {
				t.weights(func(i, w int) { g.VCVTPH2PS(mem(reg.RCX, u*2*param.NR+i*size/2), regs[w]) })
				t.mulAdd(h, 4*u)
			})
		})
		tile("tilePairs"+g.suffix(), "float32", "uint32", "pairs of bfloat16", func() {
			t := t
			mask := regs[len(regs)-1]
			t.regs = regs[:len(regs)-1]
			g.VBROADCASTSS(g.datumBits(0xffff0000), mask)
			g.tiles(t, 4*param.NR, func(h, u int) {
				t.weights(func(i, w int) { g.VANDPS(mem(reg.RCX, u*4*param.NR+i*size), mask, regs[w]) })
				t.mulAdd(h, 4*u)
				t.weights(func(i, w int) { g.evenOf(mem(reg.RCX, u*4*param.NR+i*size), regs[w]) })
				t.mulAdd(h, 4*(param.XHalf+u))
			})
		})
		if g.wide {
			t.fma = g.vdpbf16ps
			tile("tileBF16AVX512", "uint32", "uint32", "pairs of bfloat16", func() { plain(t) })
		}
	}
}

// evenOf widens the even elements of pairs of bfloat16.
func (g *gen) evenOf(m operand.Mem, to reg.Register) {
	if g.wide {
		g.VPSLLD(operand.U8(16), m, to)
		return
	}
	g.VMOVUPS(m, to)
	g.VPSLLD(operand.U8(16), to, to)
}

// tileRegs is the use of registers in a tile. They are numbered: two sums a row, two
// vectors of weights, the rest, from x on, for broadcast activations.
type tileRegs struct {
	g    *gen
	regs []reg.VecPhysical
	rows int // the greatest height
	x    int
	fma  func(dst, w, x int)
}

// weights calls f with the register number of each vector of weights.
func (t tileRegs) weights(f func(i, w int)) {
	for i := range 2 {
		f(i, 2*t.rows+i)
	}
}

// mulAdd adds the products of the weights and the activation at offset off of h rows.
func (t tileRegs) mulAdd(h, off int) {
	for r := range h {
		x := t.x + r%(len(t.regs)-t.x)
		t.g.VBROADCASTSS(mem(reg.RDX, r*param.XStride*4+off), t.regs[x])
		t.weights(func(i, w int) { t.fma(2*r+i, w, x) })
	}
}

// tiles emits a function's body: for each height h a loop over k with all sums in
// registers. Step u of an unrolled loop reads activations from reg.RDX on and weights from
// reg.RCX on, where a step has wBytes.
func (g *gen) tiles(t tileRegs, wBytes int, step func(h, u int)) {
	const unroll = 4
	regs, maxRows := t.regs, t.rows
	size := int(regs[0].Size())
	c, ldc := g.Load(g.Param("dst"), reg.RDI), g.Load(g.Param("ldd"), reg.RSI)
	from, ldf := g.Load(g.Param("from"), reg.R10), g.Load(g.Param("ldf"), reg.R11)
	x, w := g.Load(g.Param("x"), reg.RDX), g.Load(g.Param("w"), reg.RCX)
	k, rows := g.Load(g.Param("k"), reg.R8), g.Load(g.Param("rows"), reg.R9)
	next := g.Load(g.Param("next"), reg.RBX)
	g.SHLQ(operand.U8(2), ldc)
	g.SHLQ(operand.U8(2), ldf)
	for h := maxRows; h > 1; h-- {
		g.CMPQ(rows, operand.U8(uint8(h)))
		g.JEQ(operand.LabelRef(fmt.Sprintf("rows%d", h)))
	}
	for h := 1; h <= maxRows; h++ {
		label := func(s string) string { return fmt.Sprintf("rows%d%s", h, s) }
		g.Label(label(""))
		// The sums start from memory, or from zero.
		g.TESTQ(from, from)
		g.JEQ(operand.LabelRef(label("zero")))
		for r := range h {
			g.VMOVUPS(mem(from, 0), regs[2*r])
			g.VMOVUPS(mem(from, size), regs[2*r+1])
			if r+1 < h {
				g.ADDQ(ldf, from)
			}
		}
		g.JMP(operand.LabelRef(label("start")))
		g.Label(label("zero"))
		for i := range 2 * h {
			if size == 64 {
				g.VPXORD(regs[i], regs[i], regs[i])
			} else {
				g.VXORPS(regs[i], regs[i], regs[i])
			}
		}
		g.Label(label("start"))

		advance := func(steps int) {
			g.ADDQ(operand.I32(steps*4), x)
			g.ADDQ(operand.I32(steps*wBytes), w)
		}
		g.SUBQ(operand.U8(unroll), k)
		g.JLT(operand.LabelRef(label("rest")))
		g.Label(label("loop"))
		g.TESTQ(next, next)
		g.JEQ(operand.LabelRef(label("stream")))
		g.PREFETCHT1(mem(next, 0))
		g.ADDQ(operand.I32(64), next)
		g.JMP(operand.LabelRef(label("steps")))
		g.Label(label("stream"))
		g.prefetch(w, unroll*wBytes)
		g.Label(label("steps"))
		for u := range unroll {
			step(h, u)
		}
		advance(unroll)
		g.SUBQ(operand.U8(unroll), k)
		g.JGE(operand.LabelRef(label("loop")))
		g.Label(label("rest"))
		g.ADDQ(operand.U8(unroll), k)
		g.JEQ(operand.LabelRef(label("store")))
		g.Label(label("one"))
		step(h, 0)
		advance(1)
		g.DECQ(k)
		g.JNE(operand.LabelRef(label("one")))
		g.Label(label("store"))
		for r := range h {
			g.VMOVUPS(regs[2*r], mem(c, 0))
			g.VMOVUPS(regs[2*r+1], mem(c, size))
			if r+1 < h {
				g.ADDQ(ldc, c)
			}
		}
		if h < maxRows {
			g.VZEROUPPER()
			g.RET()
		}
	}
}
