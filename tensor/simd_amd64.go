package tensor

import (
	"os"
	"unsafe"

	"golang.org/x/sys/cpu"
)

//go:generate sh -c "cd internal/asm && go run . -out ../../simd_amd64.s -stubs ../../simd_stubs_amd64.go -pkg tensor"

// vectorStep divides the number of elements that the vector functions take.
const vectorStep = 64

// Both are settled once, at the start: the processor has AVX2 (those that have it and FMA
// have F16C too) or AVX-512, and COPPICE_CPU does not ask for less. Only sums of 16-bit
// floats are faster at 512 bits: for all else memory is the limit at 256 already.
var (
	useAVX2   = os.Getenv("COPPICE_CPU") != "generic" && cpu.X86.HasAVX2 && cpu.X86.HasFMA
	useAVX512 = useAVX2 && os.Getenv("COPPICE_CPU") != "avx2" && cpu.X86.HasAVX512F
)

// whole is the number of the n elements that go to a vector function.
func whole(n int) int {
	if !useAVX2 {
		return 0
	}
	return n / vectorStep * vectorStep
}

// bytesOf is the memory of v: amd64 is little-endian, as the stored form is.
func bytesOf(v []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), 4*len(v))
}

func decodeF32(dst []float32, src []byte) { copy(bytesOf(dst), src) }
func encodeF32(dst []byte, src []float32) { copy(dst, bytesOf(src)) }

func decodeF16(dst []float32, src []byte) {
	n := whole(len(dst))
	if n > 0 {
		decodeF16AVX2(&dst[0], &src[0], n)
	}
	decodeF16Go(dst[n:], src[2*n:])
}

func decodeBF16(dst []float32, src []byte) {
	n := whole(len(dst))
	if n > 0 {
		decodeBF16AVX2(&dst[0], &src[0], n)
	}
	decodeBF16Go(dst[n:], src[2*n:])
}

func encodeF16(dst []byte, src []float32) int {
	n := whole(len(src))
	if n > 0 && encodeF16AVX2(&dst[0], &src[0], n) {
		return encodeF16Go(dst, src) // to find the place
	}
	if i := encodeF16Go(dst[2*n:], src[n:]); i >= 0 {
		return n + i
	}
	return -1
}

func encodeBF16(dst []byte, src []float32) int {
	n := whole(len(src))
	if n > 0 && encodeBF16AVX2(&dst[0], &src[0], n) {
		return encodeBF16Go(dst, src) // to find the place
	}
	if i := encodeBF16Go(dst[2*n:], src[n:]); i >= 0 {
		return n + i
	}
	return -1
}

func minMax16(src []byte) (lo, hi int16) {
	n := whole(len(src) / 2)
	lo, hi = minMax16Go(src[2*n:])
	if n > 0 {
		l, h := minMax16AVX2(&src[0], n)
		lo, hi = min(lo, l), max(hi, h)
	}
	return lo, hi
}

func minMax32(src []byte) (lo, hi int32) {
	n := whole(len(src) / 4)
	lo, hi = minMax32Go(src[4*n:])
	if n > 0 {
		l, h := minMax32AVX2(&src[0], n)
		lo, hi = min(lo, l), max(hi, h)
	}
	return lo, hi
}

func maxMagnitude16(src []byte) uint16 {
	n := whole(len(src) / 2)
	m := maxMagnitude16Go(src[2*n:])
	if n > 0 {
		m = max(m, maxMagnitude16AVX2(&src[0], n))
	}
	return m
}

func maxMagnitude32(src []byte) uint32 {
	n := whole(len(src) / 4)
	m := maxMagnitude32Go(src[4*n:])
	if n > 0 {
		m = max(m, maxMagnitude32AVX2(&src[0], n))
	}
	return m
}

func sumsF32(acc *moments, src []byte) {
	n := whole(len(src) / 4)
	if n > 0 {
		sumsF32AVX2((*[3 * lanes]float64)(acc), &src[0], n)
	}
	sumsF32Go(acc, src[4*n:])
}

func sumsF16(acc *moments, src []byte) {
	n := whole(len(src) / 2)
	switch {
	case n == 0:
	case useAVX512:
		sumsF16AVX512((*[3 * lanes]float64)(acc), &src[0], n)
	default:
		sumsF16AVX2((*[3 * lanes]float64)(acc), &src[0], n)
	}
	sumsF16Go(acc, src[2*n:])
}

func sumsBF16(acc *moments, src []byte) {
	n := whole(len(src) / 2)
	switch {
	case n == 0:
	case useAVX512:
		sumsBF16AVX512((*[3 * lanes]float64)(acc), &src[0], n)
	default:
		sumsBF16AVX2((*[3 * lanes]float64)(acc), &src[0], n)
	}
	sumsBF16Go(acc, src[2*n:])
}

func latticeSums(r *latticeResult, x, w []float32, base, inv *perLane, lo, hi float32) {
	if !useAVX2 {
		latticeSumsGo(r, x, w, base, inv, lo, hi)
		return
	}
	latticeSumsAVX2(&r[0][0], &x[0], &w[0], len(x), &base[0], &inv[0], lo, hi)
}

// quantiseFast makes blocks from the start of src until one that is not finite or has no
// step in F16, or none, and returns how many.
func quantiseFast(dst []byte, src []float32, d DType) (blocks int) {
	switch {
	case !useAVX2 || len(src) == 0:
		return 0
	case d == Q8_0:
		return quantiseQ8_0AVX2(&dst[0], &src[0], len(src)/32)
	case d == Q4_0:
		return quantiseQ4_0AVX2(&dst[0], &src[0], len(src)/32)
	}
	return 0
}
