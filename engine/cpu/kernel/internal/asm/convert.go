package main

import (
	"github.com/mmcloughlin/avo/operand"

	"github.com/coppice-lm/coppice/engine/cpu/kernel/internal/tile"
)

// convert emits the kernels of convert.go.
func convert(g *gen) {
	g.both("roundBF16", "func(dst *uint16, src *float32, n int)",
		"rounds float32 to bfloat16; n is a positive multiple of 16.", func() {
			dst, src, n := g.arg("dst"), g.arg("src"), g.arg("n")
			one, bias, quiet := g.konstBits(1), g.konstBits(0x7fff), g.konstBits(0x40)
			half := func(off int) operand.Op {
				v, t := g.copyOf(mem(src, off)), g.vec()
				q := g.vec()
				g.VPSRLD(operand.U8(16), v, q)
				if g.wide {
					g.VPANDD(one, q, t)
					g.VPADDD(v, t, t)
					g.VPADDD(bias, t, t)
					g.VPSRLD(operand.U8(16), t, t)
					nan := g.K()
					g.VCMPPS(operand.U8(3), v, v, nan)
					g.VPORD(quiet, q, nan, t)
					return t
				}
				nan := g.vec()
				g.VPAND(one, q, t)
				g.VPADDD(v, t, t)
				g.VPADDD(bias, t, t)
				g.VPSRLD(operand.U8(16), t, t)
				g.VPOR(quiet, q, q)
				g.VCMPPS(operand.U8(3), v, v, nan)
				g.VBLENDVPS(nan, q, t, t)
				return t
			}
			g.Label("loop")
			if g.wide {
				g.VPMOVDW(half(0), mem(dst, 0))
			} else {
				// Packing works on 128-bit halves; the permutation puts them in order.
				a, b := half(0), half(32)
				t := g.vec()
				g.VPACKUSDW(b, a, t)
				g.VPERMQ(operand.U8(0xd8), t, t)
				g.VMOVUPS(t, mem(dst, 0))
			}
			g.ADDQ(operand.I32(32), dst)
			g.ADDQ(operand.I32(64), src)
			g.SUBQ(operand.I32(16), n)
			g.JG(operand.LabelRef("loop"))
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
	g.both("widenPairs", "func(dst *float32, src *uint32, n int)",
		"widens n > 0 steps of 32 bfloat16 pairs to the odd, then the even elements of each.", func() {
			dst, src, n := g.arg("dst"), g.arg("src"), g.arg("n")
			mask := g.konstBits(0xffff0000)
			g.Label("loop")
			for off := 0; off < tile.NR*4; off += g.elems() * 4 {
				v, even := g.copyOf(mem(src, off)), g.vec()
				g.VPSLLD(operand.U8(16), v, even)
				g.VANDPS(mask, v, v)
				g.VMOVUPS(v, mem(dst, off))
				g.VMOVUPS(even, mem(dst, tile.NR*4+off))
			}
			g.ADDQ(operand.I32(tile.NR*4), src)
			g.ADDQ(operand.I32(tile.NR*8), dst)
			g.DECQ(n)
			g.JNE(operand.LabelRef("loop"))
		})
}
