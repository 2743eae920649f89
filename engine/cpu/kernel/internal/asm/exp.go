package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/coppice-lm/coppice/engine/cpu/kernel/internal/param"
)

// expConsts are the constants of the exponential; see exp.go of package kernel, whose
// twin does the same steps.
type expConsts struct {
	hi, lo              operand.Op
	log2e, ln2Hi, ln2Lo operand.Op
	c2, c3, c4, c5, c6  operand.Op
	one                 operand.Op
	bias                operand.Op // 127 as integers, where there is no VSCALEFPS
}

func (g *gen) expConsts() expConsts {
	e := expConsts{
		hi: g.konst(param.ExpHi), lo: g.konst(param.ExpLo),
		log2e: g.konst(param.Log2E), ln2Hi: g.konst(param.Ln2Hi), ln2Lo: g.konst(param.Ln2Lo),
		c2: g.konst(param.ExpC2), c3: g.konst(param.ExpC3), c4: g.konst(param.ExpC4),
		c5: g.konst(param.ExpC5), c6: g.konst(param.ExpC6),
		one: g.konst(1),
	}
	if !g.wide {
		e.bias = g.konstBits(127)
	}
	return e
}

// copyOf is a new register with the value of op.
func (g *gen) copyOf(op operand.Op) reg.VecVirtual {
	v := g.vec()
	g.VMOVUPS(op, v)
	return v
}

// expReduce limits x and splits it into n*ln(2) + r. A NaN in x survives: the minimum
// and maximum return their last source then.
func (g *gen) expReduce(e expConsts, x reg.VecVirtual) (n, r reg.VecVirtual) {
	r, n = g.vec(), g.vec()
	if g.wide {
		g.VMINPS(x, e.hi, r)
		g.VMAXPS(r, e.lo, r)
	} else {
		t := g.copyOf(e.hi)
		g.VMINPS(x, t, r)
		g.VMOVUPS(e.lo, t)
		g.VMAXPS(r, t, r)
	}
	g.VMULPS(e.log2e, r, n)
	if g.wide {
		g.VRNDSCALEPS(operand.U8(8), n, n)
	} else {
		g.VROUNDPS(operand.U8(8), n, n)
	}
	g.VFNMADD231PS(e.ln2Hi, n, r)
	g.VFNMADD231PS(e.ln2Lo, n, r)
	return n, r
}

// expPoly is c2 + c3*r + ... + c6*r^4.
func (g *gen) expPoly(e expConsts, r reg.VecVirtual) reg.VecVirtual {
	p := g.copyOf(e.c6)
	for _, c := range []operand.Op{e.c5, e.c4, e.c3, e.c2} {
		g.VFMADD213PS(c, r, p)
	}
	return p
}

// exp returns e^x in a new register.
func (g *gen) exp(e expConsts, x reg.VecVirtual) reg.VecVirtual {
	n, r := g.expReduce(e, x)
	p := g.expPoly(e, r)
	g.VFMADD213PS(e.one, r, p)
	g.VFMADD213PS(e.one, r, p)
	g.scale(e, p, n)
	return p
}

// scale multiplies p by 2^n, with one rounding. Without VSCALEFPS that takes two
// factors, since 2^n need not be a float32.
func (g *gen) scale(e expConsts, p, n reg.VecVirtual) {
	if g.wide {
		g.VSCALEFPS(n, p, p)
		return
	}
	lo, hi := g.vec(), g.vec()
	g.VCVTPS2DQ(n, lo)
	g.VPSRAD(operand.U8(1), lo, hi)
	g.VPSUBD(hi, lo, lo)
	for _, f := range []reg.VecVirtual{hi, lo} {
		g.VPADDD(e.bias, f, f)
		g.VPSLLD(operand.U8(23), f, f)
		g.VMULPS(f, p, p)
	}
}

// zero is a new register of zeros.
func (g *gen) zero() reg.VecVirtual {
	v := g.vec()
	if g.wide {
		g.VPXORD(v, v, v)
	} else {
		g.VXORPS(v, v, v)
	}
	return v
}

// exponential emits the kernels of exp.go.
func exponential(g *gen) {
	g.both("exp", "func(dst, x *float32, n int)", "sets dst to e^x; n is a positive multiple of 16.", func() {
		dst, x, n := g.arg("dst"), g.arg("x"), g.arg("n")
		e := g.expConsts()
		g.each(n, 1, func() {
			g.VMOVUPS(g.exp(e, g.copyOf(mem(x, 0))), mem(dst, 0))
		}, dst, x)
	})
	sum := func(store bool) func() {
		return func() {
			x, n := g.arg("x"), g.arg("n")
			m := g.broadcastArg("m")
			acc := g.Load(g.Param("acc"), g.GP64())
			e := g.expConsts()
			var dst reg.Register
			moved := []reg.Register{x}
			if store {
				dst = g.arg("dst")
				moved = append(moved, dst)
			}
			sums := g.loadLanes(acc)
			g.each(n, len(sums), func() {
				for i, s := range sums {
					v := g.copyOf(mem(x, i*g.elems()*4))
					g.VSUBPS(m, v, v)
					p := g.exp(e, v)
					g.VADDPS(p, s, s)
					if store {
						g.VMOVUPS(p, mem(dst, i*g.elems()*4))
					}
				}
			}, moved...)
			g.storeLanes(acc, sums)
		}
	}
	g.both("expSum", "func(x *float32, n int, m float32, acc *float32)",
		"adds e^(x-m) to the 16 lanes at acc; n is a positive multiple of 16.", sum(false))
	g.both("expSumStore", "func(dst, x *float32, n int, m float32, acc *float32)",
		"is expSum that also stores the terms in dst.", sum(true))
}

// loadLanes loads 16 lanes: one vector or two.
func (g *gen) loadLanes(p reg.Register) []reg.VecVirtual {
	var v []reg.VecVirtual
	for off := 0; off < 64; off += g.elems() * 4 {
		v = append(v, g.copyOf(mem(p, off)))
	}
	return v
}

func (g *gen) storeLanes(p reg.Register, v []reg.VecVirtual) {
	for i, r := range v {
		g.VMOVUPS(r, mem(p, i*g.elems()*4))
	}
}
