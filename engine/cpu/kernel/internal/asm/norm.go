package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// norm emits the kernels of norm.go.
func norm(g *gen) {
	g.both("dot", "func(x, y *float32, n int, acc *float32)",
		"adds x*y to the 64 lanes at acc; n is a positive multiple of 64.", func() {
			x, y, n, acc := g.arg("x"), g.arg("y"), g.arg("n"), g.arg("acc")
			count := 64 / g.elems()
			var sums []reg.VecVirtual
			for i := range count {
				sums = append(sums, g.copyOf(mem(acc, i*g.elems()*4)))
			}
			g.each(n, count, func() {
				for i, s := range sums {
					v := g.copyOf(mem(x, i*g.elems()*4))
					g.VFMADD231PS(mem(y, i*g.elems()*4), v, s)
				}
			}, x, y)
			g.storeLanes(acc, sums)
		})
	g.both("normScale", "func(dst, x, w *float32, n int, inv, offset float32)",
		"sets dst to x*inv*(w+offset); n is a positive multiple of 16.", func() {
			dst, x, w, n := g.arg("dst"), g.arg("x"), g.arg("w"), g.arg("n")
			inv, offset := g.broadcastArg("inv"), g.broadcastArg("offset")
			g.each(n, 1, func() {
				a, b := g.vec(), g.vec()
				g.VMULPS(mem(x, 0), inv, a)
				g.VADDPS(mem(w, 0), offset, b)
				g.VMULPS(b, a, a)
				g.VMOVUPS(a, mem(dst, 0))
			}, dst, x, w)
		})
	g.both("rope", "func(lo, hi, cos, sin *float32, n int)",
		"rotates the pairs (lo, hi); n is a positive multiple of 16.", func() {
			lo, hi, cos, sin, n := g.arg("lo"), g.arg("hi"), g.arg("cos"), g.arg("sin"), g.arg("n")
			g.each(n, 1, func() {
				a, b := g.copyOf(mem(lo, 0)), g.copyOf(mem(hi, 0))
				c, s := g.copyOf(mem(cos, 0)), g.copyOf(mem(sin, 0))
				x, y := g.vec(), g.vec()
				g.VMULPS(c, a, x)
				g.VFNMADD231PS(s, b, x)
				g.VMULPS(c, b, y)
				g.VFMADD231PS(s, a, y)
				g.VMOVUPS(x, mem(lo, 0))
				g.VMOVUPS(y, mem(hi, 0))
			}, lo, hi, cos, sin)
		})
}

// elementwise emits the kernels of elementwise.go.
func elementwise(g *gen) {
	g.both("add", "func(dst, x *float32, n int)", "adds x to dst; n is a positive multiple of 16.", func() {
		dst, x, n := g.arg("dst"), g.arg("x"), g.arg("n")
		g.each(n, 1, func() {
			v := g.copyOf(mem(dst, 0))
			g.VADDPS(mem(x, 0), v, v)
			g.VMOVUPS(v, mem(dst, 0))
		}, dst, x)
	})
	g.both("scale", "func(x *float32, n int, a float32)", "multiplies x by a; n is a positive multiple of 16.", func() {
		x, n, a := g.arg("x"), g.arg("n"), g.broadcastArg("a")
		g.each(n, 1, func() {
			v := g.vec()
			g.VMULPS(mem(x, 0), a, v)
			g.VMOVUPS(v, mem(x, 0))
		}, x)
	})
	g.both("axpy", "func(a float32, x, y *float32, n int)", "adds a*x to y; n is a positive multiple of 16.", func() {
		a, x, y, n := g.broadcastArg("a"), g.arg("x"), g.arg("y"), g.arg("n")
		g.each(n, 1, func() {
			v := g.copyOf(mem(y, 0))
			g.VFMADD231PS(mem(x, 0), a, v)
			g.VMOVUPS(v, mem(y, 0))
		}, x, y)
	})
	g.both("max", "func(x *float32, n int, acc *float32)",
		"takes x into the 16 greatest elements at acc, one a lane; n is a positive multiple of 16.", func() {
			x, n, acc := g.arg("x"), g.arg("n"), g.arg("acc")
			top := g.loadLanes(acc)
			g.each(n, len(top), func() {
				for i, t := range top {
					v := g.copyOf(mem(x, i*g.elems()*4))
					g.VMAXPS(t, v, t) // t stays where v is NaN
				}
			}, x)
			g.storeLanes(acc, top)
		})
	g.both("index", "func(x *float32, n int, m float32) int",
		"returns the index of the first 16 elements one of which equals m, or n, a positive multiple of 16.", func() {
			x, n, m := g.arg("x"), g.arg("n"), g.broadcastArg("m")
			at, hit := g.GP64(), g.GP32()
			g.XORQ(at, at)
			g.Label("loop")
			if g.wide {
				k := g.K()
				g.VCMPPS(operand.U8(0), mem(x, 0), m, k)
				g.KMOVW(k, hit)
			} else {
				a, b := g.vec(), g.vec()
				g.VCMPPS(operand.U8(0), mem(x, 0), m, a)
				g.VCMPPS(operand.U8(0), mem(x, 32), m, b)
				g.VORPS(a, b, a)
				g.VMOVMSKPS(a, hit)
			}
			g.TESTL(hit, hit)
			g.JNE(operand.LabelRef("done"))
			g.ADDQ(operand.I32(64), x)
			g.ADDQ(operand.I32(16), at)
			g.CMPQ(at, n)
			g.JLT(operand.LabelRef("loop"))
			g.Label("done")
			g.Store(at, g.ReturnIndex(0))
		})
}
