package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/coppice-lm/coppice/engine/cpu/kernel/internal/param"
)

const tileSig = "func(dst *float32, ldd int, from *float32, ldf int, x, w, next *%s, k, rows int)"

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
	f32 := fmt.Sprintf(tileSig, "float32")
	doc := "computes dst = from + k steps of a product for 1..%d rows of %d columns; from may be nil for zero, row distances are in elements. On the way it prefetches 16*k bytes from next on, or, if that is nil, what follows w."
	g.function("tileF32AVX512", f32, fmt.Sprintf(doc, param.MR512, 32), func() {
		g.tiles(param.MR512, zmm, func(dst, w, x int) { g.VFMADD231PS(zmm[x], zmm[w], zmm[dst]) })
	})
	g.function("tileBF16AVX512", fmt.Sprintf(tileSig, "uint32"), fmt.Sprintf(doc, param.MR512, 32), func() {
		g.tiles(param.MR512, zmm, g.vdpbf16ps)
	})
	g.function("tileF32AVX2", f32, fmt.Sprintf(doc, param.MR256, 16), func() {
		g.tiles(param.MR256, ymm, func(dst, w, x int) { g.VFMADD231PS(ymm[x], ymm[w], ymm[dst]) })
	})
}

// tiles emits a function's body: for each height a loop over k with all sums in
// registers. Registers are numbered: two sums a row, then two vectors of weights, the
// rest for broadcast activations.
func (g *gen) tiles(maxRows int, regs []reg.VecPhysical, mulAdd func(dst, w, x int)) {
	const unroll = 4
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
		w0, x0 := 2*maxRows, 2*maxRows+2
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

		step := func(u int) {
			g.VMOVUPS(mem(w, u*param.NR*4), regs[w0])
			g.VMOVUPS(mem(w, u*param.NR*4+size), regs[w0+1])
			for r := range h {
				xr := x0 + r%(len(regs)-x0)
				g.VBROADCASTSS(mem(x, r*param.XStride*4+u*4), regs[xr])
				mulAdd(2*r, w0, xr)
				mulAdd(2*r+1, w0+1, xr)
			}
		}
		advance := func(steps int) {
			g.ADDQ(operand.I32(steps*4), x)
			g.ADDQ(operand.I32(steps*param.NR*4), w)
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
		g.prefetch(w, unroll*param.NR*4)
		g.Label(label("steps"))
		for u := range unroll {
			step(u)
		}
		advance(unroll)
		g.SUBQ(operand.U8(unroll), k)
		g.JGE(operand.LabelRef(label("loop")))
		g.Label(label("rest"))
		g.ADDQ(operand.U8(unroll), k)
		g.JEQ(operand.LabelRef(label("store")))
		g.Label(label("one"))
		step(0)
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
