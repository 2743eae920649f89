package kernel

import "unsafe"

// The functions here look at memory of one element type as another of the same size.

// dwords returns n elements of *buf as E, growing it if needed. Both element types
// have the size and alignment of a float32.
func dwords[E dword](buf *[]float32, n int) []E {
	if cap(*buf) < n {
		*buf = make([]float32, n)
	}
	return unsafe.Slice((*E)(unsafe.Pointer(unsafe.SliceData(*buf))), n)
}

// floats is s as float32, to be moved but not to be calculated with.
func floats[E dword](s []E) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(s))), len(s))
}

// dwordsOf is s as pairs of bfloat16.
func dwordsOf(s []float32) []uint32 {
	return unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(s))), len(s))
}

// halves is the memory of pairs of bfloat16 as it is on amd64, which is little-endian:
// the even element of each pair is first.
func halves(s []uint32) []uint16 {
	return unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(s))), 2*len(s))
}
