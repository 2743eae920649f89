package kernel

import (
	"math"

	"github.com/coppice-lm/coppice/engine/cpu/kernel/internal/param"
)

const (
	maxF32  = math.MaxFloat32
	signBit = 1 << 31
)

// Exp sets dst[i] to e^x[i], within 1 unit in the last place, subnormal results
// included. dst may be x.
func Exp(dst, x []float32) {
	dst = dst[:len(x)]
	n := expAsm(dst, x)
	for i, v := range x[n:] {
		dst[n+i] = exp32(v)
	}
}

// Softmax replaces x by exp(x[i]) / sum of exp(x[j]), shifted by the greatest element
// so that nothing overflows. If x holds a NaN or +Inf every element is NaN; elements
// of -Inf get 0, or NaN if all are -Inf.
func Softmax(x []float32) {
	if len(x) == 0 {
		return
	}
	m := Max(x)
	inv := 1 / expSum(x, x, m)
	Scale(x, inv)
}

// LogSumExp returns the logarithm of the sum of exp(x[i]), shifted by the greatest
// element. The terms are summed in float32 in 16 lanes; the error for a vocabulary of
// 50,000 is below 1e-5. A NaN gives NaN, no elements give -Inf.
func LogSumExp(x []float32) float64 {
	if len(x) == 0 {
		return math.Inf(-1)
	}
	m := Max(x)
	if math.IsInf(float64(m), 0) && !hasNaN(x) {
		return float64(m)
	}
	return float64(m) + math.Log(float64(expSum(nil, x, m)))
}

func hasNaN(x []float32) bool {
	for _, v := range x {
		if v != v {
			return true
		}
	}
	return false
}

// expSum returns the sum of exp(x[i]-m), and stores the terms in dst unless it is nil.
func expSum(dst, x []float32, m float32) float32 {
	var acc lanes
	n := expSumAsm(dst, x, m, &acc)
	for i, v := range x[n:] {
		e := exp32(v - m)
		acc[i%16] += e
		if dst != nil {
			dst[n+i] = e
		}
	}
	return acc.sum()
}

// exp32 is the twin of the vector exponential.
func exp32(x float32) float32 {
	n, r := expReduce(x)
	p := expPoly(r)
	p = fma32(p, r, 1)
	p = fma32(p, r, 1)
	// 2^n may not be a float32, so two factors; only the last product can round.
	h := int32(n) >> 1
	return float32(p*pow2(h)) * pow2(int32(n)-h)
}

// expReduce returns n and r with x = n*ln(2) + r, |r| <= ln(2)/2, x limited to the
// range in which exp is neither 0 nor infinite.
func expReduce(x float32) (n, r float32) {
	if x > param.ExpHi {
		x = param.ExpHi
	}
	if x < param.ExpLo {
		x = param.ExpLo
	}
	n = float32(math.RoundToEven(float64(x * param.Log2E)))
	r = fma32(-n, param.Ln2Hi, x)
	return n, fma32(-n, param.Ln2Lo, r)
}

// expPoly is c2 + c3*r + ... + c6*r^4.
func expPoly(r float32) float32 {
	p := float32(param.ExpC6)
	p = fma32(p, r, param.ExpC5)
	p = fma32(p, r, param.ExpC4)
	p = fma32(p, r, param.ExpC3)
	return fma32(p, r, param.ExpC2)
}

// pow2 is 2^n for a normal float32.
func pow2(n int32) float32 { return math.Float32frombits(uint32(n+127) << 23) }
