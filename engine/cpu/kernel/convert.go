package kernel

import "math"

// RoundBF16 rounds src to bfloat16 bits, nearest, ties to even. A NaN stays a NaN
// (made quiet), an infinity stays, and what is greater than the greatest bfloat16
// becomes an infinity. dst is at least as long as src.
func RoundBF16(dst []uint16, src []float32) {
	dst = dst[:len(src)]
	n := roundBF16Asm(dst, src)
	for i, v := range src[n:] {
		dst[n+i] = roundBF16(v)
	}
}

// WidenBF16 gives the float32 value of bfloat16 bits. dst is at least as long as src.
func WidenBF16(dst []float32, src []uint16) {
	dst = dst[:len(src)]
	n := widenBF16Asm(dst, src)
	for i, v := range src[n:] {
		dst[n+i] = widenBF16(v)
	}
}

// WidenF16 gives the float32 value of half-precision bits. dst is at least as long as
// src.
func WidenF16(dst []float32, src []uint16) {
	dst = dst[:len(src)]
	n := widenF16Asm(dst, src)
	for i, v := range src[n:] {
		dst[n+i] = widenF16(v)
	}
}

func roundBF16(v float32) uint16 {
	b := math.Float32bits(v)
	if v != v {
		return uint16(b>>16) | 0x40
	}
	// Half a unit of the last kept bit, less one if that bit is even, carries exactly
	// when the value rounds up.
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

func widenBF16(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

func widenF16(h uint16) float32 {
	sign, exp, man := uint32(h&0x8000)<<16, uint32(h>>10&31), uint32(h&0x3ff)
	switch {
	case exp == 31 && man != 0:
		return math.Float32frombits(sign | 0x7fc00000 | man<<13)
	case exp == 31:
		return math.Float32frombits(sign | 0x7f800000)
	case exp == 0:
		// Subnormal: man * 2^-24, exact in float32.
		v := float32(man) * (1.0 / (1 << 24))
		return math.Float32frombits(sign | math.Float32bits(v))
	}
	return math.Float32frombits(sign | (exp+112)<<23 | man<<13)
}
