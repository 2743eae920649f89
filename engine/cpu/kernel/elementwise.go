package kernel

import "math"

// Add adds x to dst, element by element.
func Add(dst, x []float32) {
	dst = dst[:len(x)]
	n := addAsm(dst, x)
	for i, v := range x[n:] {
		dst[n+i] += v
	}
}

// Scale multiplies x by a.
func Scale(x []float32, a float32) {
	for i := scaleAsm(x, a); i < len(x); i++ {
		x[i] *= a
	}
}

// AXPY adds a*x to y with fused multiply-adds.
func AXPY(a float32, x, y []float32) {
	y = y[:len(x)]
	for i := axpyAsm(a, x, y); i < len(x); i++ {
		y[i] = fma32(a, x[i], y[i])
	}
}

// Max returns the greatest element, NaNs left out: -Inf if there is none.
func Max(x []float32) float32 {
	var acc lanes
	for i := range acc {
		acc[i] = float32(math.Inf(-1))
	}
	for i := maxAsm(x, &acc); i < len(x); i++ {
		if x[i] > acc[i%16] {
			acc[i%16] = x[i]
		}
	}
	m := acc[0]
	for _, v := range acc[1:] {
		if v > m {
			m = v
		}
	}
	return m
}

// ArgMax returns the index of the greatest element, the lowest of equal ones, NaNs
// left out: -1 if there is none.
func ArgMax(x []float32) int {
	m := Max(x)
	for i := indexAsm(x, m); i < len(x); i++ {
		if x[i] == m {
			return i
		}
	}
	return -1
}
