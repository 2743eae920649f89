package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/coppice-lm/coppice/engine/cpu/kernel/internal/param"
)

// prefetchAhead is how far in front of its loads a decoding kernel prefetches weights,
// in bytes. The loads of one panel are one stream that goes on in the next panel.
const prefetchAhead = 8192

// few emits the kernels for few rows, which read a panel of weights once and convert
// it on the way to the registers.
func few(g *gen) {
	const doc = "computes 1..%d rows x 32 columns of a product over k > 0 steps with %s weights; row distances are in 32-bit elements."
	kernel := func(name, elem, what string, max int, body func()) {
		sig := fmt.Sprintf("func(dst *float32, ldd int, x *float32, ldx int, w *%s, k, rows int)", elem)
		g.function(name+g.suffix(), sig, fmt.Sprintf(doc, max, what), body)
	}
	for _, g.wide = range []bool{false, true} {
		regs, max := ymm, param.Few256
		if g.wide {
			regs, max = zmm, param.Few512
		}
		fma := func(dst, w, x int) { g.VFMADD231PS(regs[x], regs[w], regs[dst]) }
		size := int(regs[0].Size())
		kernel("fewF32", "float32", "float32", max, func() {
			g.few(regs, max, 4*param.NR, 4, func(r *fewRegs, u int) {
				r.each(func(i, w int) { g.VMOVUPS(mem(reg.RCX, u*4*param.NR+i*size), regs[w]) })
				r.mulAdd(u*4, fma)
			})
		})
		kernel("fewF16", "uint16", "half-precision", max, func() {
			g.few(regs, max, 2*param.NR, 4, func(r *fewRegs, u int) {
				r.each(func(i, w int) { g.VCVTPH2PS(mem(reg.RCX, u*2*param.NR+i*size/2), regs[w]) })
				r.mulAdd(u*4, fma)
			})
		})
		kernel("fewPairs", "uint32", "pairs of bfloat16", max, func() {
			mask := regs[len(regs)-1]
			g.VBROADCASTSS(g.datumBits(0xffff0000), mask)
			g.few(regs, max, 4*param.NR, 8, func(r *fewRegs, u int) {
				r.each(func(i, w int) { g.VANDPS(mem(reg.RCX, u*4*param.NR+i*size), mask, regs[w]) })
				r.mulAdd(u*8, fma)
				r.each(func(i, w int) { g.evenOf(mem(reg.RCX, u*4*param.NR+i*size), regs[w]) })
				r.mulAdd(u*8+4, fma)
			})
		})
	}
	sig := "func(dst *float32, ldd int, x *uint32, ldx int, w *uint32, k, rows int)"
	g.function("fewBF16AVX512", sig, fmt.Sprintf(doc, param.Few512, "pairs of bfloat16"), func() {
		g.few(zmm, param.Few512, 4*param.NR, 4, func(r *fewRegs, u int) {
			r.each(func(i, w int) { g.VMOVUPS(mem(reg.RCX, u*4*param.NR+i*64), zmm[w]) })
			r.mulAdd(u*4, g.vdpbf16ps)
		})
	})
}

// prefetch asks for the cache lines that size bytes of weights at w will be followed by.
func (g *gen) prefetch(w reg.Register, size int) {
	for off := 0; off < size; off += 64 {
		g.PREFETCHT0(mem(w, prefetchAhead+off))
	}
}

// fewRegs is the use of registers for a number of rows: sums first, a panel's width of
// vectors a row; then one panel's width of weights; then one activation.
type fewRegs struct {
	g       *gen
	regs    []reg.VecPhysical
	vectors int // a panel's width
	rows    int
	x       []reg.Register // pointer to each row of activations
}

// each calls f with the register number of each vector of weights.
func (r *fewRegs) each(f func(i, w int)) {
	for i := range r.vectors {
		f(i, r.rows*r.vectors+i)
	}
}

// mulAdd adds the products of the weights and each row's activation at offset off.
func (r *fewRegs) mulAdd(off int, f func(dst, w, x int)) {
	for row := range r.rows {
		x := (r.rows+1)*r.vectors + row%2
		r.g.VBROADCASTSS(mem(r.x[row], off), r.regs[x])
		r.each(func(i, w int) { f(row*r.vectors+i, w, x) })
	}
}

// few emits a function's body: for each number of rows a loop over k. A step takes
// wBytes of weights and xBytes of each row.
func (g *gen) few(regs []reg.VecPhysical, maxRows, wBytes, xBytes int, step func(r *fewRegs, u int)) {
	const unroll = 4
	size := int(regs[0].Size())
	dst, ldd := g.Load(g.Param("dst"), reg.RDI), g.Load(g.Param("ldd"), reg.RSI)
	ldx, w := g.Load(g.Param("ldx"), reg.RBX), g.Load(g.Param("w"), reg.RCX)
	k, rows := g.Load(g.Param("k"), reg.R8), g.Load(g.Param("rows"), reg.R9)
	x := []reg.Register{g.Load(g.Param("x"), reg.RDX), reg.R10, reg.R11, reg.R12}
	g.SHLQ(operand.U8(2), ldd)
	g.SHLQ(operand.U8(2), ldx)
	for h := maxRows; h > 1; h-- {
		g.CMPQ(rows, operand.U8(uint8(h)))
		g.JEQ(operand.LabelRef(fmt.Sprintf("rows%d", h)))
	}
	for h := 1; h <= maxRows; h++ {
		label := func(s string) string { return fmt.Sprintf("rows%d%s", h, s) }
		r := &fewRegs{g, regs, param.NR * 4 / size, h, x}
		g.Label(label(""))
		for i := range h * r.vectors {
			if size == 64 {
				g.VPXORD(regs[i], regs[i], regs[i])
			} else {
				g.VXORPS(regs[i], regs[i], regs[i])
			}
		}
		for i := 1; i < h; i++ {
			g.MOVQ(x[i-1], x[i])
			g.ADDQ(ldx, x[i])
		}
		advance := func(steps int) {
			for i := range h {
				g.ADDQ(operand.I32(steps*xBytes), x[i])
			}
			g.ADDQ(operand.I32(steps*wBytes), w)
		}
		g.SUBQ(operand.U8(unroll), k)
		g.JLT(operand.LabelRef(label("rest")))
		g.Label(label("loop"))
		g.prefetch(w, unroll*wBytes)
		for u := range unroll {
			step(r, u)
		}
		advance(unroll)
		g.SUBQ(operand.U8(unroll), k)
		g.JGE(operand.LabelRef(label("loop")))
		g.Label(label("rest"))
		g.ADDQ(operand.U8(unroll), k)
		g.JEQ(operand.LabelRef(label("store")))
		g.Label(label("one"))
		step(r, 0)
		advance(1)
		g.DECQ(k)
		g.JNE(operand.LabelRef(label("one")))
		g.Label(label("store"))
		for row := range h {
			for i := range r.vectors {
				g.VMOVUPS(regs[row*r.vectors+i], mem(dst, i*size))
			}
			if row+1 < h {
				g.ADDQ(ldd, dst)
			}
		}
		if h < maxRows {
			g.VZEROUPPER()
			g.RET()
		}
	}
}
