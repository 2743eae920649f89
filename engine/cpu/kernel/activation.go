package kernel

import (
	"math"

	"github.com/coppice-lm/coppice/engine/cpu/kernel/internal/param"
)

// SiLUMul sets dst[i] = gate[i] / (1 + exp(-gate[i])) * up[i], the gated unit of the
// Llama family (Shazeer, "GLU Variants Improve Transformer", 2020: SwiGLU). dst may be
// gate or up.
func SiLUMul(dst, gate, up []float32) {
	dst, up = dst[:len(gate)], up[:len(gate)]
	n := siluMulAsm(dst, gate, up)
	for i, g := range gate[n:] {
		e := exp32(-g)
		dst[n+i] = float32(g/(1+e)) * up[n+i]
	}
}

// GELUTanhMul sets dst[i] = gelu(gate[i]) * up[i] with the tanh form of GELU
// ("gelu_pytorch_tanh"), as x/(1+exp(-2u)). dst may be gate or up.
func GELUTanhMul(dst, gate, up []float32) {
	dst, up = dst[:len(gate)], up[:len(gate)]
	n := geluTanhMulAsm(dst, gate, up)
	for i, g := range gate[n:] {
		s := float32(g * g)
		e := exp32(float32(g * fma32(s, param.GELUB, param.GELUA)))
		dst[n+i] = float32(g/(1+e)) * up[n+i]
	}
}

// GELUErfMul sets dst[i] = gelu(gate[i]) * up[i] with the exact GELU, x*Phi(x) ("gelu").
// Phi is computed within 2e-7 absolute. dst may be gate or up.
func GELUErfMul(dst, gate, up []float32) {
	dst, up = dst[:len(gate)], up[:len(gate)]
	n := geluErfMulAsm(dst, gate, up)
	for i, g := range gate[n:] {
		dst[n+i] = float32(g*normalCDF(g)) * up[n+i]
	}
}

// normalCDF is Phi(x) = erfc(-x/sqrt(2))/2, from the tail that does not cancel.
func normalCDF(x float32) float32 {
	z := abs32(x) * (math.Sqrt2 / 2)
	t := 1 / fma32(z, 0.5, 1)
	p := param.ErfcP[8]
	for i := 7; i >= 0; i-- {
		p = fma32(p, t, param.ErfcP[i])
	}
	e := exp32(float32(-z * z))
	h := float32(float32(p*t)*e) * 0.5
	if math.Float32bits(x)&signBit == 0 {
		return 1 - h
	}
	return h
}

// SoftCap replaces each element by limit*tanh(x/limit) (Gemma 2). limit is positive.
func SoftCap(x []float32, limit float32) {
	inv := 1 / limit
	n := softCapAsm(x, inv, limit)
	for i, v := range x[n:] {
		x[n+i] = tanh32(v*inv) * limit
	}
}

// tanh32 is -t/(2+t) with t = exp(-2|x|)-1 and the sign of x. Taking the 1 off before
// scaling keeps small x accurate: 2^n*(exp(r)-1) + (2^n-1).
func tanh32(x float32) float32 {
	n, r := expReduce(-2 * abs32(x))
	em1 := float32(expPoly(r) * r)
	em1 = fma32(em1, r, r)
	h := int32(n) >> 1
	s := float32(pow2(h) * pow2(int32(n)-h))
	t := fma32(s, em1, float32(s-1))
	y := -t / (2 + t)
	return math.Float32frombits(math.Float32bits(y)&^signBit | math.Float32bits(x)&signBit)
}

func abs32(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ signBit) }
