package tensor

import (
	"encoding/binary"
	"math"
)

// Bounds of the magnitude, as bits of a float32: a finite value of at least these
// rounds to an infinity. Each lies half way between the largest finite value, whose
// last bit is odd, and the next power of two, so that the tie goes to infinity too.
const (
	f16Overflow  = 0x477ff000 // 65520
	bf16Overflow = 0x7f7f8000
	f32Inf       = 0x7f800000
)

// f16ToF32 is exact: every binary16 value is a normal float32 or zero. The quiet bit
// is set in a NaN, as the instruction VCVTPH2PS does.
func f16ToF32(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	mag := uint32(h & 0x7fff)
	switch {
	case mag > 0x7c00:
		return math.Float32frombits(sign | f32Inf | 0x400000 | mag<<13)
	case mag == 0x7c00:
		return math.Float32frombits(sign | f32Inf)
	case mag < 0x0400: // a multiple of 2^-24
		return math.Float32frombits(sign | math.Float32bits(float32(mag)*0x1p-24))
	default: // the same fields, the exponent's bias 127 in place of 15
		return math.Float32frombits(sign | (mag<<13 + (127-15)<<23))
	}
}

// f32ToF16 rounds to nearest even. Overflow gives an infinity, which overflowsF16
// tells from one that was there.
func f32ToF16(f float32) uint16 {
	x := math.Float32bits(f)
	sign := uint16(x>>16) & 0x8000
	mag := x & 0x7fffffff
	switch {
	case mag > f32Inf:
		return sign | 0x7e00 | uint16(mag>>13)&0x3ff
	case mag >= f16Overflow:
		return sign | 0x7c00
	case mag < 0x38800000: // below 2^-14: a multiple of 2^-24, which is half's last place
		const half = 0x3f000000
		return sign | uint16(math.Float32bits(math.Float32frombits(mag)+0.5)-half)
	default:
		mag += 0xfff + mag>>13&1
		return sign | uint16((mag-(127-15)<<23)>>13)
	}
}

func bf16ToF32(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// f32ToBF16 rounds to nearest even. Overflow gives an infinity, which overflowsBF16
// tells from one that was there.
func f32ToBF16(f float32) uint16 {
	x := math.Float32bits(f)
	if x&0x7fffffff > f32Inf {
		return uint16(x>>16) | 0x40
	}
	return uint16((x + 0x7fff + x>>16&1) >> 16)
}

func overflowsF16(f float32) bool {
	mag := math.Float32bits(f) & 0x7fffffff
	return mag >= f16Overflow && mag < f32Inf
}

func overflowsBF16(f float32) bool {
	mag := math.Float32bits(f) & 0x7fffffff
	return mag >= bf16Overflow && mag < f32Inf
}

// f8E4M3ToF32 is exact. OCP 8-bit Floating Point Specification 1.0, section 5: bias
// 7, no infinities, S.1111.111 is NaN.
func f8E4M3ToF32(b uint8) float32 {
	sign := uint32(b&0x80) << 24
	mag := uint32(b & 0x7f)
	switch {
	case mag == 0x7f:
		return math.Float32frombits(sign | 0x7fc00000)
	case mag < 0x08: // a multiple of 2^-9
		return math.Float32frombits(sign | math.Float32bits(float32(mag)*0x1p-9))
	default:
		return math.Float32frombits(sign | (mag<<20 + (127-7)<<23))
	}
}

// f8E5M2ToF32 is exact: the type is the high byte of an F16 (OCP 8-bit Floating Point
// Specification 1.0, section 5).
func f8E5M2ToF32(b uint8) float32 { return f16ToF32(uint16(b) << 8) }

func f64At(src []byte, i int) float64 {
	return math.Float64frombits(binary.LittleEndian.Uint64(src[8*i:]))
}

// decodeF64 rounds to nearest even and returns the index of the first finite value
// that became infinite, or -1.
func decodeF64(dst []float32, src []byte) int {
	overflow := -1
	for i := range dst {
		x := f64At(src, i)
		dst[i] = float32(x)
		if overflow < 0 && math.IsInf(float64(dst[i]), 0) && !math.IsInf(x, 0) {
			overflow = i
		}
	}
	return overflow
}

// roundToOdd is x where that is a float32, else of the two neighbours the one whose
// last bit is 1 (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums:
// proved algorithms using rounding to odd", IEEE Trans. Comput. 57(4), 2008). Rounding it
// to a type of at least two bits less gives what rounding x would. No finite x becomes
// infinite.
func roundToOdd(x float64) float32 {
	f := float32(x)
	if float64(f) == x || x != x {
		return f
	}
	b := math.Float32bits(f)
	if math.Abs(float64(f)) > math.Abs(x) {
		b-- // the neighbour towards zero
	}
	return math.Float32frombits(b | 1)
}
