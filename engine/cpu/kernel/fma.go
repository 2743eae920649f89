package kernel

import "math"

// fma32 returns x*y+z rounded once to float32, as the CPU's fused multiply-add does.
//
// The product of two float32 is exact in float64. Rounding the sum to float64 and
// then to float32 is the same as rounding once, unless the float64 sum fell on a
// point halfway between two float32 (or the result is subnormal, where those points
// are elsewhere): then the part that float64 lost decides, and fmaSlow looks at it.
func fma32(x, y, z float32) float32 {
	s := float64(x)*float64(y) + float64(z)
	if undecided(s) {
		return fmaSlow(x, y, z)
	}
	return float32(s)
}

// undecided says whether rounding a sum of float64 to float32 may not be the same as rounding
// once. A sum of 0 is exact; tiles that are padded with zeros make many.
func undecided(s float64) bool {
	b := math.Float64bits(s)
	return b&0x1fffffff == 0x10000000 || b<<1-1 < 897<<53-1
}

// fmaSlow is fma32 by rounding to odd: if the float64 sum is inexact, its last bit is
// made 1, so that the second rounding sees that something is left over. Double
// rounding is then harmless (Boldo and Melquiond, "Emulation of FMA and correctly
// rounded sums", 2008: float64 has more than 2 x 24 + 2 bits).
func fmaSlow(x, y, z float32) float32 {
	p, c := float64(x)*float64(y), float64(z)
	s := p + c
	if math.IsInf(s, 0) || math.IsNaN(s) {
		return float32(s)
	}
	// Knuth's two-sum: s + e == p + c exactly.
	bb := s - p
	e := (p - (s - bb)) + (c - bb)
	if b := math.Float64bits(s); e != 0 && b&1 == 0 {
		// The exact sum lies between s and its neighbour on e's side; both
		// neighbours are odd. Towards zero is one bit down.
		if (e > 0) == (s > 0) {
			b++
		} else {
			b--
		}
		s = math.Float64frombits(b)
	}
	return float32(s)
}

// lanes is the state of a reduction over a row: element i belongs to lane i % 16.
type lanes [16]float32

// sum adds the lanes in a fixed tree: halves onto each other.
func (l *lanes) sum() float32 {
	v := *l
	for w := 8; w > 0; w /= 2 {
		for i := range w {
			v[i] += v[i+w]
		}
	}
	return v[0]
}
