package tensor

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Quantise rounds src to blocks of d, which is Q8_0, Q4_0 or Q4_1. dst must have exactly
// the bytes of these elements.
//
// Steps and quants are those of the Python package gguf (gguf.quants.quantize, 0.19.0),
// equal in every bit: the step is that of the value with the greatest magnitude (Q4_1:
// of the range of the block), quants are rounded by the unrounded step, halves away from
// zero (Q4_0: up; 4-bit quants stop at 15), and only then the step is stored as F16. So an
// element is off by half a step, and by what F16 lacks of the step; Q4_0 cuts what
// is opposite the greatest magnitude and as large, by one step.
//
// A block with a NaN or an infinity becomes NaN as a whole. A step beyond F16 is an
// *OverflowError, and dst then holds nothing of use.
func Quantise(dst []byte, src []float32, d DType) error {
	var block func(b []byte, x []float32) (step float32)
	switch d {
	case Q8_0:
		block = quantiseQ8_0
	case Q4_0:
		block = quantiseQ4_0
	case Q4_1:
		block = quantiseQ4_1
	default:
		return fmt.Errorf("quantise to %v: only Q8_0, Q4_0 and Q4_1 can be made", d)
	}
	if err := checkLen(len(src), len(dst), d); err != nil {
		return fmt.Errorf("quantise to %v: %w", d, err)
	}
	elems, bytes := d.BlockSize(), d.BlockBytes()
	for at := 0; at < len(src); at += elems {
		x, b := src[at:at+elems], dst[at/elems*bytes:][:bytes]
		if !finite(x) {
			clear(b)
			binary.LittleEndian.PutUint16(b, quietNaN)
			continue
		}
		if step := block(b, x); !(abs32(step) < 65520) {
			return &OverflowError{Index: at, Value: float64(step), To: F16}
		}
	}
	return nil
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
func quantiseQ8_0(b []byte, x []float32) float32 {
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
func quantiseQ4_0(b []byte, x []float32) float32 {
	var top float32
	for _, v := range x {
		if abs32(v) > abs32(top) {
			top = v
		}
	}
	d := top / -8
	inv := float64(inverse(d))
	putHalf(b, d)
	// In float64 the product is exact, so that it is the same with a fused addition.
	q := func(v float32) byte { return min(15, byte(float64(v)*inv+8.5)) }
	for i := range 16 {
		b[2+i] = q(x[i]) | q(x[i+16])<<4
	}
	return d
}

// quantiseQ4_1 makes the block that blockQ4_1 reads, and returns its step or its
// minimum, the one of the greater magnitude.
func quantiseQ4_1(b []byte, x []float32) float32 {
	low, high := x[0], x[0]
	for _, v := range x {
		low, high = min(low, v), max(high, v)
	}
	d := (high - low) / 15
	inv := inverse(d)
	putHalf(b, d)
	putHalf(b[2:], low)
	q := func(v float32) byte { return min(15, byte(float32((v-low)*inv)+0.5)) }
	for i := range 16 {
		b[4+i] = q(x[i]) | q(x[i+16])<<4
	}
	return max(d, abs32(low))
}

func abs32(v float32) float32 { return math.Float32frombits(math.Float32bits(v) &^ (1 << 31)) }
