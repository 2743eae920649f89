package tensor

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Quantise rounds src to blocks of d: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K.
// dst must have exactly the bytes of these elements.
//
// The blocks of 32 elements are those of the Python package gguf (gguf.quants.quantize,
// 0.19.0), equal in every bit: the step is that of the value with the greatest magnitude
// (Q4_1 and Q5_1: of the range of the block), quants are rounded by the unrounded step,
// halves away from zero (Q4_0 and Q5_0: up, and they stop at the greatest quant), and only
// then the step is stored as F16. So an element is off by half a step, and by what F16
// lacks of the step; Q4_0 and Q5_0 cut what is opposite the greatest magnitude and as
// large, by one step. The K types search for the scales of least squared error (see
// kquantise.go).
//
// A block with a NaN or an infinity becomes NaN as a whole. A step beyond F16 is an
// *OverflowError, and dst then holds nothing of use.
func Quantise(dst []byte, src []float32, d DType) error {
	return QuantiseWeighted(dst, src, nil, d)
}

// QuantiseWeighted is Quantise for the least sum of importance times squared error.
// Importance has one number an element, finite and not negative: for the rows of a matrix
// the second moments of its inputs, which make that sum the expected squared error of the
// product where inputs are uncorrelated. All types but Q8_0, whose error is small beside
// any other's, then search for their scales. Nil means Quantise.
func QuantiseWeighted(dst []byte, src, importance []float32, d DType) error {
	block := quantisers[d.known()]
	if block == nil {
		return fmt.Errorf("quantise to %v: only Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K can be made", d)
	}
	if err := checkLen(len(src), len(dst), d); err != nil {
		return fmt.Errorf("quantise to %v: %w", d, err)
	}
	if importance != nil && len(importance) != len(src) {
		return fmt.Errorf("quantise to %v: %d numbers of importance for %d elements", d, len(importance), len(src))
	}
	elems, bytes := d.BlockSize(), d.BlockBytes()
	var w []float32
	for at := 0; at < len(src); at += elems {
		if importance == nil {
			at += elems * quantiseFast(dst[at/elems*bytes:], src[at:], d)
			if at == len(src) {
				break
			}
		}
		x, b := src[at:at+elems], dst[at/elems*bytes:][:bytes]
		if !finite(x) {
			clear(b)
			binary.LittleEndian.PutUint16(b[stepAt(d):], quietNaN)
			continue
		}
		if importance != nil {
			w = importance[at : at+elems]
		}
		if step := block(b, x, w); !(abs32(step) < 65520) {
			return &OverflowError{Index: at, Value: float64(step), To: F16}
		}
	}
	return nil
}

// quantisers make one block b of x with importance w, or nil, and return what of the block
// could be beyond F16.
var quantisers = [numDTypes]func(b []byte, x, w []float32) float32{
	Q8_0: quantiseQ8_0, Q4_0: quantiseQ4_0, Q4_1: quantiseQ4_1, Q5_0: quantiseQ5_0, Q5_1: quantiseQ5_1,
	Q4_K: quantiseQ4_K, Q5_K: quantiseQ5_K, Q6_K: quantiseQ6_K,
}

// stepAt is where a block's F16 step is, which as NaN makes every element NaN.
func stepAt(d DType) int {
	if d == Q6_K {
		return 208
	}
	return 0
}

const quietNaN = 0x7e00 // as F16

// finite reports whether no value is an infinity or a NaN, which are all that differ
// from themselves by something other than 0.
func finite(x []float32) bool {
	for _, v := range x {
		if v-v != 0 {
			return false
		}
	}
	return true
}

// inverse of a step; 0 where there is none, for blocks of zeros or of numbers so small
// that the step is far below the least F16.
func inverse(d float32) float32 {
	if inv := 1 / d; abs32(inv) <= math.MaxFloat32 {
		return inv
	}
	return 0
}

// putHalf stores v at the start of b as F16.
func putHalf(b []byte, v float32) { binary.LittleEndian.PutUint16(b, f32ToF16(v)) }

// quantiseQ8_0 makes the block that blockQ8_0 reads, and returns its step.
func quantiseQ8_0(b []byte, x, _ []float32) float32 {
	var top float32
	for _, v := range x {
		top = max(top, abs32(v))
	}
	d := top / 127
	inv := inverse(d)
	putHalf(b, d)
	for i, v := range x {
		// In float64 adding a half is exact.
		q := float64(v * inv)
		b[2+i] = byte(int8(q + math.Copysign(0.5, q)))
	}
	return d
}

// quantiseQ4_0 makes the block that blockQ4_0 reads, and returns its step, which has the
// sign that makes the value with the greatest magnitude -8 steps.
func quantiseQ4_0(b []byte, x, w []float32) float32 {
	q, d := quantiseSigned(x, w, 8)
	putHalf(b, d)
	putNibbles(b[2:], q)
	return d
}

// quantiseQ5_0 makes the block that blockQ5_0 reads, as Q4_0 with 16 for 8.
func quantiseQ5_0(b []byte, x, w []float32) float32 {
	q, d := quantiseSigned(x, w, 16)
	putHalf(b, d)
	putFifths(b[2:], q)
	putNibbles(b[6:], q)
	return d
}

// quantiseQ4_1 makes the block that blockQ4_1 reads, and returns its step or its
// minimum, the one of the greater magnitude.
func quantiseQ4_1(b []byte, x, w []float32) float32 {
	q, d, low := quantiseRange(x, w, 15)
	putHalf(b, d)
	putHalf(b[2:], low)
	putNibbles(b[4:], q)
	return max(abs32(d), abs32(low))
}

// quantiseQ5_1 makes the block that blockQ5_1 reads, as Q4_1 with 31 for 15.
func quantiseQ5_1(b []byte, x, w []float32) float32 {
	q, d, low := quantiseRange(x, w, 31)
	putHalf(b, d)
	putHalf(b[2:], low)
	putFifths(b[4:], q)
	putNibbles(b[8:], q)
	return max(abs32(d), abs32(low))
}

// quantiseSigned finds the step of a block of 32 and the quants plus half, from 0 to
// 2*half-1. The value with the greatest magnitude becomes -half steps.
func quantiseSigned(x, w []float32, half float32) (q [32]byte, d float32) {
	if w != nil {
		d = weightedStep(x, w, -half, half-1)
	} else {
		d = topOf(x) / -half
	}
	inv, last := inverse(d), byte(2*half-1)
	for i, v := range x[:32] {
		q[i] = min(last, byte(max(0, float32(v*inv)+half+0.5)))
	}
	return q, d
}

// quantiseRange finds the step and the least value of a block of 32, and the quants, from
// 0 to last.
func quantiseRange(x, w []float32, last float32) (q [32]byte, d, low float32) {
	if w != nil {
		d, low = weightedRange(x, w, last)
	} else {
		high := x[0]
		low = x[0]
		for _, v := range x {
			low, high = min(low, v), max(high, v)
		}
		d = (high - low) / last
	}
	inv := inverse(d)
	for i, v := range x[:32] {
		q[i] = byte(min(last, max(0, float32((v-low)*inv)+0.5)))
	}
	return q, d, low
}

// topOf is the value with the greatest magnitude, the first of such.
func topOf(x []float32) float32 {
	top := x[0]
	for _, v := range x {
		if abs32(v) > abs32(top) {
			top = v
		}
	}
	return top
}

// putNibbles stores the low four bits of 32 quants as Q4_0 has them.
func putNibbles(b []byte, q [32]byte) {
	for i := range 16 {
		b[i] = q[i]&15 | q[i+16]<<4
	}
}

// putFifths stores the fifth bits of 32 quants as Q5_0 has them.
func putFifths(b []byte, q [32]byte) {
	var high uint32
	for i, v := range q {
		high |= uint32(v>>4) << i
	}
	binary.LittleEndian.PutUint32(b, high)
}

func abs32(v float32) float32 { return math.Float32frombits(math.Float32bits(v) &^ (1 << 31)) }
