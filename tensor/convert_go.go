package tensor

import (
	"encoding/binary"
	"math"
)

// The plain Go conversions: what runs on processors without vector code here, what
// finishes the elements after the last whole vector, and the oracle of the vector code.

func decodeF32Go(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

func decodeF16Go(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = f16ToF32(binary.LittleEndian.Uint16(src[2*i:]))
	}
}

func decodeBF16Go(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = bf16ToF32(binary.LittleEndian.Uint16(src[2*i:]))
	}
}

func encodeF32Go(dst []byte, src []float32) {
	for i, v := range src {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
	}
}

// encodeF16Go returns the index of the first finite value that overflows, or -1.
func encodeF16Go(dst []byte, src []float32) int {
	for i, v := range src {
		if overflowsF16(v) {
			return i
		}
		binary.LittleEndian.PutUint16(dst[2*i:], f32ToF16(v))
	}
	return -1
}

// encodeBF16Go returns the index of the first finite value that overflows, or -1.
func encodeBF16Go(dst []byte, src []float32) int {
	for i, v := range src {
		if overflowsBF16(v) {
			return i
		}
		binary.LittleEndian.PutUint16(dst[2*i:], f32ToBF16(v))
	}
	return -1
}
