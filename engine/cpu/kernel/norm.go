package kernel

import "math"

// Dot returns the sum of x[i]*y[i] in 64 lanes of fused multiply-adds (element i in
// lane i%64), which are added in a fixed tree.
func Dot(x, y []float32) float32 {
	y = y[:len(x)]
	var acc [4]lanes
	n := dotAsm(x, y, &acc)
	for i, v := range x[n:] {
		l := &acc[i/16%4][i%16]
		*l = fma32(v, y[n+i], *l)
	}
	for i := range acc[0] {
		acc[0][i] = (acc[0][i] + acc[1][i]) + (acc[2][i] + acc[3][i])
	}
	return acc[0].sum()
}

// RMSNorm sets dst[i] = x[i] / sqrt(mean(x^2) + eps) * (weight[i] + offset). offset is 0
// for Llama and 1 for Gemma, which stores weight-1. weight has at least len(x)
// elements; dst may be x.
func RMSNorm(dst, x, weight []float32, eps, offset float32) {
	if len(x) == 0 {
		return
	}
	dst, weight = dst[:len(x)], weight[:len(x)]
	mean := float64(Dot(x, x)) / float64(len(x))
	inv := float32(1 / math.Sqrt(mean+float64(eps)))
	n := normScaleAsm(dst, x, weight, inv, offset)
	for i, v := range x[n:] {
		dst[n+i] = float32(v*inv) * float32(weight[n+i]+offset)
	}
}

// RoPE turns the pairs (x[i], x[i+half]), half = len(cos), by the angles whose cosines
// and sines are given: the layout of Hugging Face checkpoints ("rotate_half"). x may
// be longer than 2*half: the rest is not rotated.
func RoPE(x, cos, sin []float32) {
	half := len(cos)
	sin = sin[:half]
	lo, hi := x[:half], x[half:2*half]
	n := ropeAsm(lo, hi, cos, sin)
	for i := n; i < half; i++ {
		a, b := lo[i], hi[i]
		lo[i] = fma32(-b, sin[i], float32(a*cos[i]))
		hi[i] = fma32(a, sin[i], float32(b*cos[i]))
	}
}
