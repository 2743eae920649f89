package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// convert emits the kernels of convert.go.
func convert(g *gen) {
	g.both("roundBF16", "func(dst *uint16, src *float32, n int)",
		"rounds float32 to bfloat16; n is a positive multiple of 16.", func() {
			dst, src, n := g.arg("dst"), g.arg("src"), g.arg("n")
			r := g.rounding()
			g.Label("loop")
			r.sixteen(g, dst, src)
			g.SUBQ(operand.I32(16), n)
			g.JG(operand.LabelRef("loop"))
		})
	const rows = "func(dst *uint32, ldd int, src *float32, lds, rows, n int)"
	const doc = "rounds rows of n float32 (a positive multiple of 16) to pairs of bfloat16"
	g.both("roundRows", rows, doc+".", func() {
		r := g.rounding()
		g.roundRows(func(to, from reg.Register) { r.sixteen(g, to, from) })
	})
	g.wide = true
	g.function("roundRowsAVX512BF16", rows, doc+", subnormal ones to zero.", func() {
		g.roundRows(func(to, from reg.Register) {
			g.VMOVUPS(mem(from, 0), zmm[0])
			g.vcvtneps2bf16(0, 0)
			g.VMOVUPS(ymm[0], mem(to, 0))
			g.ADDQ(operand.I32(32), to)
			g.ADDQ(operand.I32(64), from)
		})
	})
	g.both("pairRows", "func(dst, a, b *uint32)",
		"pairs each of 32 bfloat16 at a with the one at b.", func() {
			dst, a, b := g.arg("dst"), g.arg("a"), g.arg("b")
			for i := range 32 / g.elems() {
				lo, hi := g.vec(), g.vec()
				g.VPMOVZXWD(mem(a, i*g.elems()*2), lo)
				g.VPMOVZXWD(mem(b, i*g.elems()*2), hi)
				g.VPSLLD(operand.U8(16), hi, hi)
				g.VORPS(lo, hi, hi)
				g.VMOVUPS(hi, mem(dst, i*g.elems()*4))
			}
		})
	widen := func(name, doc string, step func(m operand.Mem) operand.Op) {
		g.both(name, "func(dst *float32, src *uint16, n int)", doc+" to float32; n is a positive multiple of 16.", func() {
			dst, src, n := g.arg("dst"), g.arg("src"), g.arg("n")
			g.Label("loop")
			for i := range 16 / g.elems() {
				g.VMOVUPS(step(mem(src, i*g.elems()*2)), mem(dst, i*g.elems()*4))
			}
			g.ADDQ(operand.I32(32), src)
			g.ADDQ(operand.I32(64), dst)
			g.SUBQ(operand.I32(16), n)
			g.JG(operand.LabelRef("loop"))
		})
	}
	widen("widenBF16", "widens bfloat16", func(m operand.Mem) operand.Op {
		v := g.vec()
		g.VPMOVZXWD(m, v)
		g.VPSLLD(operand.U8(16), v, v)
		return v
	})
	widen("widenF16", "widens half precision", func(m operand.Mem) operand.Op {
		v := g.vec()
		g.VCVTPH2PS(m, v)
		return v
	})
	g.both("splitPairs", "func(odd, even *float32, src *uint16, n int)",
		"widens the odd and the even elements of n pairs of bfloat16, a positive multiple of 16.", func() {
			odd, even, src, n := g.arg("odd"), g.arg("even"), g.arg("src"), g.arg("n")
			mask := g.konstBits(0xffff0000)
			g.each(n, 16/g.elems(), func() {
				for off := 0; off < 64; off += g.elems() * 4 {
					v, low := g.copyOf(mem(src, off)), g.vec()
					g.VPSLLD(operand.U8(16), v, low)
					g.VANDPS(mask, v, v)
					g.VMOVUPS(v, mem(odd, off))
					g.VMOVUPS(low, mem(even, off))
				}
			}, odd, even, src)
		})
}

// roundRows loops over rows and calls step for each 16 elements, to move the pointers
// on.
func (g *gen) roundRows(step func(to, from reg.Register)) {
	dst, ldd, src, lds := g.arg("dst"), g.arg("ldd"), g.arg("src"), g.arg("lds")
	rows, n := g.arg("rows"), g.arg("n")
	to, from, left := g.GP64(), g.GP64(), g.GP64()
	g.SHLQ(operand.U8(2), ldd)
	g.SHLQ(operand.U8(2), lds)
	g.Label("row")
	g.MOVQ(dst, to)
	g.MOVQ(src, from)
	g.MOVQ(n, left)
	g.Label("loop")
	step(to, from)
	g.SUBQ(operand.I32(16), left)
	g.JG(operand.LabelRef("loop"))
	g.ADDQ(ldd, dst)
	g.ADDQ(lds, src)
	g.DECQ(rows)
	g.JNE(operand.LabelRef("row"))
}

// rounding holds the constants that rounding to bfloat16 takes.
type rounding struct{ one, bias, quiet operand.Op }

func (g *gen) rounding() rounding {
	return rounding{g.konstBits(1), g.konstBits(0x7fff), g.konstBits(0x40)}
}

// sixteen rounds 16 float32 and moves the pointers on.
func (r rounding) sixteen(g *gen, dst, src reg.Register) {
	if g.wide {
		g.VPMOVDW(r.vec(g, mem(src, 0)), mem(dst, 0))
	} else {
		// Packing works on 128-bit halves; the permutation puts them in order.
		a, b := r.vec(g, mem(src, 0)), r.vec(g, mem(src, 32))
		t := g.vec()
		g.VPACKUSDW(b, a, t)
		g.VPERMQ(operand.U8(0xd8), t, t)
		g.VMOVUPS(t, mem(dst, 0))
	}
	g.ADDQ(operand.I32(32), dst)
	g.ADDQ(operand.I32(64), src)
}

// vec rounds a vector to bfloat16 in the low half of each element: by adding just less
// than half of the last kept bit, or just half if that bit is set. A NaN is cut and
// made quiet instead.
func (r rounding) vec(g *gen, m operand.Mem) reg.VecVirtual {
	v, t, q := g.copyOf(m), g.vec(), g.vec()
	g.VPSRLD(operand.U8(16), v, q)
	if g.wide {
		g.VPANDD(r.one, q, t)
		g.VPADDD(v, t, t)
		g.VPADDD(r.bias, t, t)
		g.VPSRLD(operand.U8(16), t, t)
		nan := g.K()
		g.VCMPPS(operand.U8(3), v, v, nan)
		g.VPORD(r.quiet, q, nan, t)
		return t
	}
	nan := g.vec()
	g.VPAND(r.one, q, t)
	g.VPADDD(v, t, t)
	g.VPADDD(r.bias, t, t)
	g.VPSRLD(operand.U8(16), t, t)
	g.VPOR(r.quiet, q, q)
	g.VCMPPS(operand.U8(3), v, v, nan)
	g.VBLENDVPS(nan, q, t, t)
	return t
}
