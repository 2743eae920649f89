package tensor

import "math"

// The statistics below read stored elements where they lie, at the speed of memory for
// F32, F16 and BF16; the other weight types are decoded a few KiB at a time. They have
// no error to return: bytes that are no whole number of blocks are answered as not finite.

// Bits of positive infinity.
const (
	f16Inf  = 0x7c00
	bf16Inf = 0x7f80
)

// AllFinite reports whether no element of src is a NaN or an infinity. Integer types
// have none. It is false for an unknown type and where src is not a whole number of blocks.
func AllFinite(src []byte, d DType) bool {
	if d.BlockBytes() == 0 || len(src)%d.BlockBytes() != 0 {
		return false
	}
	if !d.isWeight() {
		return true
	}
	switch d {
	case F32:
		return maxMagnitude32(src) < f32Inf
	case F16:
		return maxMagnitude16(src) < f16Inf
	case BF16:
		return maxMagnitude16(src) < bf16Inf
	case F64:
		for i := range len(src) / 8 {
			if x := f64At(src, i); x-x != 0 { // NaN for both
				return false
			}
		}
		return true
	}
	finite := true
	eachChunk(src, d, func(v []float32) {
		for _, x := range v {
			finite = finite && x-x == 0
		}
	})
	return finite
}

// MinMax returns the smallest and the largest element of src as float32, and whether
// all are finite; if not, either may be an infinity or a NaN. -0 counts as smaller than
// +0, so that the result does not depend on the order of the elements. F64 is rounded to float32,
// and a value beyond float32 is not finite. No elements give 0, 0, true. For a type that
// Decode does not read, or a src that is not a whole number of blocks, both are NaN.
func MinMax(src []byte, d DType) (lo, hi float32, finite bool) {
	switch {
	case !d.isWeight() || len(src)%d.BlockBytes() != 0:
		nan := float32(math.NaN())
		return nan, nan, false
	case len(src) == 0:
		return 0, 0, true
	}
	switch d {
	case F16:
		l, h := minMax16(src)
		return f16ToF32(uint16(key16(l))), f16ToF32(uint16(key16(h))), ^f16Inf < l && h < f16Inf
	case BF16:
		l, h := minMax16(src)
		return bf16ToF32(uint16(key16(l))), bf16ToF32(uint16(key16(h))), ^bf16Inf < l && h < bf16Inf
	}
	l, h := int32(math.MaxInt32), int32(math.MinInt32)
	if d == F32 {
		l, h = minMax32(src)
	} else {
		eachChunk(src, d, func(v []float32) {
			for _, x := range v {
				k := key32(int32(math.Float32bits(x)))
				l, h = min(l, k), max(h, k)
			}
		})
	}
	return math.Float32frombits(uint32(key32(l))), math.Float32frombits(uint32(key32(h))), ^f32Inf < l && h < f32Inf
}

// Sums returns the sum of the elements of src, of their absolute values and of their
// squares, added up in float64 (elements in float32 first, as Decode gives them): their
// relative error, for sum against sumAbs, is below 1e-12 for rows of up to a hundred
// thousand elements. The bits of a finite result do not depend on the processor. For a type that
// Decode does not read, or a src that is not a whole number of blocks, all are NaN.
func Sums(src []byte, d DType) (sum, sumAbs, sumSquares float64) {
	if !d.isWeight() || len(src)%d.BlockBytes() != 0 {
		return math.NaN(), math.NaN(), math.NaN()
	}
	var acc moments
	switch d {
	case F32:
		sumsF32(&acc, src)
	case F16:
		sumsF16(&acc, src)
	case BF16:
		sumsBF16(&acc, src)
	default:
		eachChunk(src, d, func(v []float32) {
			for i, x := range v {
				acc.add(i%lanes, x)
			}
		})
	}
	return acc.total()
}

// eachChunk decodes src and shows it to see, chunk elements at a time. What overflows
// float32 is seen as an infinity.
func eachChunk(src []byte, d DType, see func([]float32)) {
	var buf [chunk]float32
	blocks := chunk / d.BlockSize()
	for len(src) > 0 {
		n := min(blocks, len(src)/d.BlockBytes())
		v := buf[:n*d.BlockSize()]
		in := src[:n*d.BlockBytes()]
		decode(v, in, d)
		see(v)
		src = src[len(in):]
	}
}
