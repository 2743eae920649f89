package tensor

import "encoding/binary"

// This file and kquants.go hold the block types of ggml. In each, n elements are
// small integers q that share one or more scales, so that an element is d*q, d*q + m
// or d*q - m. Every product that meets a sum is converted to float32 explicitly, also
// where a variable stands in between: nothing less forbids the fused multiply-add that
// some processors have, which rounds once where the reference rounds twice.

// decodeBlocks reads whole blocks; the lengths have been checked.
func decodeBlocks(dst []float32, src []byte, d DType) {
	var block func([]float32, []byte)
	switch d {
	case Q4_0:
		block = blockQ4_0
	case Q4_1:
		block = blockQ4_1
	case Q5_0:
		block = blockQ5_0
	case Q5_1:
		block = blockQ5_1
	case Q8_0:
		block = blockQ8_0
	case Q2_K:
		block = blockQ2_K
	case Q3_K:
		block = blockQ3_K
	case Q4_K:
		block = blockQ4_K
	case Q5_K:
		block = blockQ5_K
	case Q6_K:
		block = blockQ6_K
	}
	elems, bytes := d.BlockSize(), d.BlockBytes()
	for ; len(dst) > 0; dst, src = dst[elems:], src[bytes:] {
		block(dst[:elems], src[:bytes])
	}
}

// halfAt is the F16 at the start of b.
func halfAt(b []byte) float32 { return f16ToF32(binary.LittleEndian.Uint16(b)) }

// blockQ4_0: F16 d; 16 bytes of 4-bit q + 8, element j in the low nibble of byte j
// and element j+16 in the high one.
func blockQ4_0(y []float32, b []byte) {
	d := halfAt(b)
	lo, hi := y[:16], y[16:32]
	for j, q := range b[2:18] {
		lo[j] = d * float32(int(q&15)-8)
		hi[j] = d * float32(int(q>>4)-8)
	}
}

// blockQ4_1: F16 d, F16 m; 16 bytes of 4-bit q as in Q4_0, without the offset.
func blockQ4_1(y []float32, b []byte) {
	d, m := halfAt(b), halfAt(b[2:])
	lo, hi := y[:16], y[16:32]
	for j, q := range b[4:20] {
		lo[j] = float32(d*float32(q&15)) + m
		hi[j] = float32(d*float32(q>>4)) + m
	}
}

// blockQ5_0: F16 d; 32 fifth bits, element j's in bit j; 16 bytes of low bits as in
// Q4_0. The 5-bit number is q + 16.
func blockQ5_0(y []float32, b []byte) {
	d, high := halfAt(b), binary.LittleEndian.Uint32(b[2:])
	lo, hi := y[:16], y[16:32]
	for j, q := range b[6:22] {
		lo[j] = d * float32(int(uint32(q&15)|high>>j&1<<4)-16)
		hi[j] = d * float32(int(uint32(q>>4)|high>>(j+16)&1<<4)-16)
	}
}

// blockQ5_1: F16 d, F16 m; the rest as in Q5_0, without the offset.
func blockQ5_1(y []float32, b []byte) {
	d, m, high := halfAt(b), halfAt(b[2:]), binary.LittleEndian.Uint32(b[4:])
	lo, hi := y[:16], y[16:32]
	for j, q := range b[8:24] {
		lo[j] = float32(d*float32(uint32(q&15)|high>>j&1<<4)) + m
		hi[j] = float32(d*float32(uint32(q>>4)|high>>(j+16)&1<<4)) + m
	}
}

// blockQ8_0: F16 d; 32 signed bytes.
func blockQ8_0(y []float32, b []byte) {
	d := halfAt(b)
	for j, q := range b[2:34] {
		y[j] = d * float32(int8(q))
	}
}
