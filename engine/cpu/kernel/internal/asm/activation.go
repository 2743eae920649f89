package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/coppice-lm/coppice/engine/cpu/kernel/internal/param"
)

// activation emits the kernels of activation.go.
func activation(g *gen) {
	const sig = "func(dst, gate, up *float32, n int)"
	gated := func(name, doc string, consts func() func(x reg.VecVirtual) reg.VecVirtual) {
		g.both(name, sig, doc+"; n is a positive multiple of 16.", func() {
			dst, gate, up, n := g.arg("dst"), g.arg("gate"), g.arg("up"), g.arg("n")
			f := consts()
			g.each(n, 1, func() {
				y := f(g.copyOf(mem(gate, 0)))
				g.VMULPS(mem(up, 0), y, y)
				g.VMOVUPS(y, mem(dst, 0))
			}, dst, gate, up)
		})
	}
	// sigmoid returns x/(1+exp(y)).
	sigmoid := func(e expConsts, x, y reg.VecVirtual) reg.VecVirtual {
		d := g.exp(e, y)
		g.VADDPS(e.one, d, d)
		g.VDIVPS(d, x, d)
		return d
	}
	gated("siluMul", "sets dst to silu(gate)*up", func() func(x reg.VecVirtual) reg.VecVirtual {
		e, sign := g.expConsts(), g.konstBits(1<<31)
		return func(x reg.VecVirtual) reg.VecVirtual {
			y := g.vec()
			g.VXORPS(sign, x, y)
			return sigmoid(e, x, y)
		}
	})
	gated("geluTanhMul", "sets dst to gelu(gate)*up in the tanh form", func() func(x reg.VecVirtual) reg.VecVirtual {
		e, a, b := g.expConsts(), g.konst(param.GELUA), g.konst(param.GELUB)
		return func(x reg.VecVirtual) reg.VecVirtual {
			s, y := g.vec(), g.copyOf(a)
			g.VMULPS(x, x, s)
			g.VFMADD231PS(b, s, y)
			g.VMULPS(y, x, y)
			return sigmoid(e, x, y)
		}
	})
	gated("geluErfMul", "sets dst to gelu(gate)*up with the error function", func() func(x reg.VecVirtual) reg.VecVirtual {
		e, k := g.expConsts(), g.erfConsts()
		return func(x reg.VecVirtual) reg.VecVirtual {
			p := g.normalCDF(e, k, x)
			g.VMULPS(x, p, p)
			return p
		}
	})
	g.both("softCap", "func(x *float32, n int, inv, limit float32)",
		"sets x to limit*tanh(x*inv); n is a positive multiple of 16.", func() {
			x, n := g.arg("x"), g.arg("n")
			inv, limit := g.broadcastArg("inv"), g.broadcastArg("limit")
			e, two, abs, sign := g.expConsts(), g.konst(2), g.konstBits(1<<31-1), g.konstBits(1<<31)
			minusTwo := g.konst(-2)
			g.each(n, 1, func() {
				v := g.copyOf(mem(x, 0))
				g.VMULPS(inv, v, v)
				y := g.tanh(e, two, minusTwo, abs, sign, v)
				g.VMULPS(limit, y, y)
				g.VMOVUPS(y, mem(x, 0))
			}, x)
		})
}

// tanh returns the hyperbolic tangent of x, by the steps of tanh32.
func (g *gen) tanh(e expConsts, two, minusTwo, abs, sign operand.Op, x reg.VecVirtual) reg.VecVirtual {
	a := g.vec()
	g.VANDPS(abs, x, a)
	g.VMULPS(minusTwo, a, a)
	n, r := g.expReduce(e, a)
	p := g.expPoly(e, r)
	g.VMULPS(r, p, p)
	g.VFMADD213PS(r, r, p) // exp(r)-1
	s := g.copyOf(e.one)
	g.scale(e, s, n)
	t := g.vec()
	if g.wide {
		g.VSUBPS(e.one, s, t)
	} else {
		g.VMOVUPS(s, t)
		g.VSUBPS(e.one, t, t)
	}
	g.VFMADD231PS(p, s, t) // exp(-2|x|)-1
	d := g.vec()
	g.VADDPS(two, t, d)
	g.VDIVPS(d, t, d)
	g.VANDPS(abs, d, d)
	b := g.vec()
	g.VANDPS(sign, x, b)
	g.VORPS(b, d, d)
	return d
}

// erfConsts are the constants of normalCDF.
type erfConsts struct {
	abs, sign, rootHalf, half operand.Op
	p                         []operand.Op
}

func (g *gen) erfConsts() erfConsts {
	k := erfConsts{
		abs: g.konstBits(1<<31 - 1), sign: g.konstBits(1 << 31),
		rootHalf: g.konst(0.70710678118654752440), half: g.konst(0.5),
	}
	for _, c := range param.ErfcP {
		// Memory operands: the registers are taken.
		k.p = append(k.p, g.datum(c))
	}
	return k
}

// normalCDF returns Phi(x), by the steps of its twin.
func (g *gen) normalCDF(e expConsts, k erfConsts, x reg.VecVirtual) reg.VecVirtual {
	z, t := g.vec(), g.copyOf(e.one)
	g.VANDPS(k.abs, x, z)
	g.VMULPS(k.rootHalf, z, z)
	d := g.copyOf(e.one)
	g.VFMADD231PS(k.half, z, d)
	g.VDIVPS(d, t, t)
	last := len(k.p) - 1
	p := g.vec()
	g.VBROADCASTSS(k.p[last], p)
	for i := last - 1; i >= 0; i-- {
		if g.wide {
			g.VFMADD213PS_BCST(k.p[i], t, p)
		} else {
			g.VFMADD213PS(k.p[i], t, p)
		}
	}
	g.VMULPS(t, p, p)
	s := g.vec()
	g.VMULPS(z, z, s)
	g.VXORPS(k.sign, s, s)
	g.VMULPS(g.exp(e, s), p, p)
	g.VMULPS(k.half, p, p) // the tail beyond |x|
	q := g.copyOf(e.one)
	g.VSUBPS(p, q, q)
	if g.wide {
		neg := g.K()
		g.VPMOVD2M(x, neg)
		g.VBLENDMPS(p, q, neg, q)
	} else {
		g.VBLENDVPS(x, p, q, q)
	}
	return q
}
