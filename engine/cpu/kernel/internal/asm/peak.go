package main

import (
	"github.com/mmcloughlin/avo/operand"
)

// peak emits the loops that measure what the machine can do at most: multiply-adds
// on registers, and loads.
func peak(g *gen) {
	loop := func(name, doc string, step func(i int)) {
		g.function(name, "func(n int)", doc, func() {
			n := g.arg("n")
			for i := range zmm {
				g.VPXORD(zmm[i], zmm[i], zmm[i])
			}
			g.Label("loop")
			for range 4 {
				for i := range 24 {
					step(i)
				}
			}
			g.DECQ(n)
			g.JNE(operand.LabelRef("loop"))
		})
	}
	loop("F32AVX512", "runs n x 96 512-bit multiply-adds of float32 on 24 independent sums.", func(i int) {
		g.VFMADD231PS(zmm[30], zmm[31], zmm[i])
	})
	loop("BF16AVX512", "runs n x 96 VDPBF16PS on 24 independent sums.", func(i int) {
		g.vdpbf16ps(i, 30, 31)
	})
	g.function("F32AVX2", "func(n int)", "runs n x 96 256-bit multiply-adds of float32 on 12 independent sums.", func() {
		n := g.arg("n")
		for i := range ymm {
			g.VXORPS(ymm[i], ymm[i], ymm[i])
		}
		g.Label("loop")
		for i := range 96 {
			g.VFMADD231PS(ymm[14], ymm[15], ymm[i%12])
		}
		g.DECQ(n)
		g.JNE(operand.LabelRef("loop"))
	})
	g.function("ReadAVX512", "func(p *byte, n int)", "loads n bytes, a positive multiple of 512, and prefetches.", func() {
		p, n := g.arg("p"), g.arg("n")
		g.Label("loop")
		g.prefetch(p, 512)
		for i := range 8 {
			g.VMOVUPS(mem(p, i*64), zmm[i])
		}
		g.ADDQ(operand.I32(512), p)
		g.SUBQ(operand.I32(512), n)
		g.JG(operand.LabelRef("loop"))
	})
	g.function("ReadAVX2", "func(p *byte, n int)", "loads n bytes, a positive multiple of 512, and prefetches.", func() {
		p, n := g.arg("p"), g.arg("n")
		g.Label("loop")
		g.prefetch(p, 512)
		for i := range 16 {
			g.VMOVUPS(mem(p, i*32), ymm[i])
		}
		g.ADDQ(operand.I32(512), p)
		g.SUBQ(operand.I32(512), n)
		g.JG(operand.LabelRef("loop"))
	})
}
