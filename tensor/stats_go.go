package tensor

import (
	"encoding/binary"
	"math"
)

// The plain Go twins of the vector code for statistics; see convert_go.go.

// key16 maps the bits of a 16-bit float, F16 or BF16, to a signed integer of the same
// order: where the sign is set, the other bits are inverted. So -0 is below +0, infinities
// are beyond every finite value, and NaNs beyond the infinity of their sign. It is its
// own inverse.
func key16(x int16) int16 { return x ^ x>>15&math.MaxInt16 }

// key32 is key16 for the bits of a float32.
func key32(x int32) int32 { return x ^ x>>31&math.MaxInt32 }

// minMax16Go gives the extremes of the keys; for no elements the largest and the smallest key.
func minMax16Go(src []byte) (lo, hi int16) {
	lo, hi = math.MaxInt16, math.MinInt16
	for ; len(src) >= 2; src = src[2:] {
		k := key16(int16(binary.LittleEndian.Uint16(src)))
		lo, hi = min(lo, k), max(hi, k)
	}
	return lo, hi
}

func minMax32Go(src []byte) (lo, hi int32) {
	lo, hi = math.MaxInt32, math.MinInt32
	for ; len(src) >= 4; src = src[4:] {
		k := key32(int32(binary.LittleEndian.Uint32(src)))
		lo, hi = min(lo, k), max(hi, k)
	}
	return lo, hi
}

// maxMagnitude16Go is the largest of the words without their sign bits, 0 for none.
func maxMagnitude16Go(src []byte) (m uint16) {
	for ; len(src) >= 2; src = src[2:] {
		m = max(m, binary.LittleEndian.Uint16(src)&math.MaxInt16)
	}
	return m
}

func maxMagnitude32Go(src []byte) (m uint32) {
	for ; len(src) >= 4; src = src[4:] {
		m = max(m, binary.LittleEndian.Uint32(src)&math.MaxInt32)
	}
	return m
}

// lanes is the number of partial sums of each kind: element i goes to number i % lanes.
const lanes = 16

// moments holds the partial sums, then those of absolute values, then those of squares.
// Every addend is exact in float64 (a float32 has 24 significant bits, its square 48), so
// that the order of the additions, which is the same everywhere, settles each bit.
type moments [3 * lanes]float64

func (m *moments) add(lane int, v float32) {
	x := float64(v)
	m[lane] += x
	m[lanes+lane] += math.Abs(x)
	m[2*lanes+lane] += x * x
}

// total adds up the lanes.
func (m *moments) total() (sum, sumAbs, sumSquares float64) {
	for i := range lanes {
		sum += m[i]
		sumAbs += m[lanes+i]
		sumSquares += m[2*lanes+i]
	}
	return sum, sumAbs, sumSquares
}

// The functions below start at lane 0: all but the last call for an acc must give a
// multiple of lanes elements.

func sumsF32Go(acc *moments, src []byte) {
	for i := range len(src) / 4 {
		acc.add(i%lanes, math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:])))
	}
}

func sumsF16Go(acc *moments, src []byte) {
	for i := range len(src) / 2 {
		acc.add(i%lanes, f16ToF32(binary.LittleEndian.Uint16(src[2*i:])))
	}
}

func sumsBF16Go(acc *moments, src []byte) {
	for i := range len(src) / 2 {
		acc.add(i%lanes, bf16ToF32(binary.LittleEndian.Uint16(src[2*i:])))
	}
}
