package kernel

import "math"

// RoundQ8 gives dst the values that x has when each of its blocks of size numbers, 32 or
// 256, is stored in 8 bits: round(v/d)*d, where 127 steps d are the block's greatest
// magnitude. dst is at least as long as x, a whole number of blocks; it may be x.
//
// These are the blocks to which llama.cpp rounds the activations of its products: Q8_0
// and Q8_1 for weights in blocks of 32, whose steps it stores in half precision, so d is
// rounded to that, and Q8_K for weights in blocks of 256, with steps in float32. A step
// beyond half precision, which would make its block infinite there, keeps its size here.
// Rounding is to the nearest, ties to even. A block with a NaN or Inf becomes NaN as a
// whole.
func RoundQ8(dst, x []float32, size int) {
	var tops [256 / BlockSize]float32
	for ; len(x) >= size; dst, x = dst[size:], x[size:] {
		blockTops(tops[:size/BlockSize], x[:size])
		d, inverse := step(greatest(tops[:size/BlockSize]))
		if size == BlockSize {
			d = roundF16(d)
		}
		for i, v := range x[:size] {
			dst[i] = float32(int32(math.RoundToEven(float64(v*inverse)))) * d
		}
	}
}

// greatest is the greatest of magnitudes; a NaN is above all.
func greatest(x []float32) float32 {
	most := uint32(0)
	for _, v := range x {
		most = max(most, math.Float32bits(v))
	}
	return math.Float32frombits(most)
}

// roundF16 rounds a magnitude to the numbers of half precision, which here go on beyond
// its greatest.
func roundF16(v float32) float32 {
	const smallest = -24 // exponent of the distance of subnormal numbers
	_, e := math.Frexp(float64(v))
	unit := math.Ldexp(1, max(e-11, smallest))
	return float32(math.RoundToEven(float64(v)/unit) * unit)
}
