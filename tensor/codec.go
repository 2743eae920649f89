package tensor

import (
	"encoding/binary"
	"fmt"
	"math"
)

// chunk is the number of elements that pass through float32 at a time where a
// conversion has no direct path: 4 KiB, which stays in the first-level cache. It is
// a multiple of every block size.
const chunk = 1024

// OverflowError says that a finite value is too large for the target type: rounded
// to nearest it would have become an infinity. The caller, who knows it, adds the
// tensor's name.
type OverflowError struct {
	Index int     // element index in the source that was given
	Value float64 // as stored; exact for every source type
	To    DType
}

func (e *OverflowError) Error() string {
	return fmt.Sprintf("element %d: %g is too large for %v", e.Index, e.Value, e.To)
}

// Decode reads len(dst) elements of type d from src into dst, for every scalar float
// type and every block type. src must be exactly the bytes of these elements.
//
// F64 is rounded to nearest even (a finite value beyond float32 is an
// *OverflowError); all other scalar types are exact. A NaN stays a NaN of the same
// sign; one of F16 or F8 becomes quiet, one of F32 or BF16 keeps its bits. Blocks are
// computed in float32, one rounding after each product and each sum, in the order of
// the Python package gguf (gguf.quants.dequantize, 0.19.0), whose results are equal
// in every bit.
func Decode(dst []float32, src []byte, d DType) error {
	if err := checkLen(len(dst), len(src), d); err != nil {
		return fmt.Errorf("decode %v: %w", d, err)
	}
	if i := decode(dst, src, d); i >= 0 {
		return &OverflowError{Index: i, Value: f64At(src, i), To: F32}
	}
	return nil
}

// decode is Decode of a weight type and of lengths that agree. It returns the index of
// the first finite value that became infinite, which only F64 has, or -1.
func decode(dst []float32, src []byte, d DType) (overflow int) {
	switch d {
	case F64:
		return decodeF64(dst, src)
	case F32:
		decodeF32(dst, src)
	case F16:
		decodeF16(dst, src)
	case BF16:
		decodeBF16(dst, src)
	case F8E4M3:
		for i, b := range src {
			dst[i] = f8E4M3ToF32(b)
		}
	case F8E5M2:
		for i, b := range src {
			dst[i] = f8E5M2ToF32(b)
		}
	default:
		decodeBlocks(dst, src, d)
	}
	return -1
}

// Encode writes src to dst as F64, F32, F16 or BF16 (the types that Coppice writes;
// others are an error). dst must have exactly the bytes of these elements.
//
// Values are rounded to nearest, ties to even, subnormal results included. An
// infinity stays one, a NaN stays a NaN of the same sign with the high bits of its
// payload (F16 and BF16 make it quiet; F32 keeps its bits). A finite value that would
// round to an infinity is an *OverflowError, and dst then holds nothing of use.
func Encode(dst []byte, src []float32, d DType) error {
	if !d.isWritten() {
		return fmt.Errorf("encode to %v: %s", d, writtenTypes)
	}
	if err := checkLen(len(src), len(dst), d); err != nil {
		return fmt.Errorf("encode to %v: %w", d, err)
	}
	overflow := -1
	switch d {
	case F64:
		for i, v := range src {
			binary.LittleEndian.PutUint64(dst[8*i:], math.Float64bits(float64(v)))
		}
	case F32:
		encodeF32(dst, src)
	case F16:
		overflow = encodeF16(dst, src)
	case BF16:
		overflow = encodeBF16(dst, src)
	}
	if overflow >= 0 {
		return &OverflowError{Index: overflow, Value: float64(src[overflow]), To: d}
	}
	return nil
}

// Convert rewrites the elements of src, of type from, as type to in dst, each rounded
// once. Equal types, whatever they are, copy the bytes; otherwise from must be a type
// that Decode reads and to one that Encode writes, and their rules hold. The lengths
// must name the same number of elements, and dst and src must not overlap. Extra
// memory is a few KiB whatever the length.
func Convert(dst []byte, to DType, src []byte, from DType) error {
	if to == from {
		if len(dst) != len(src) {
			return fmt.Errorf("convert %v to %v: %d bytes for %d bytes", from, to, len(src), len(dst))
		}
		copy(dst, src)
		return nil
	}
	if !from.isWeight() {
		return fmt.Errorf("convert %v to %v: %v is not a weight type", from, to, from)
	}
	if !to.isWritten() {
		return fmt.Errorf("convert %v to %v: %s", from, to, writtenTypes)
	}
	inBytes, outBytes := from.BlockBytes(), to.BlockBytes()
	if len(src)%inBytes != 0 {
		return fmt.Errorf("convert %v to %v: %d bytes are not a whole number of blocks of %d bytes", from, to, len(src), inBytes)
	}
	n := len(src) / inBytes * from.BlockSize()
	if len(dst) != n*outBytes {
		return fmt.Errorf("convert %v to %v: %d bytes for %d elements, want %d", from, to, len(dst), n, n*outBytes)
	}
	var buf [chunk]float32
	for done := 0; done < n; {
		v := buf[:min(chunk, n-done)]
		in := src[:len(v)/from.BlockSize()*inBytes]
		if err := convertChunk(dst[:len(v)*outBytes], to, in, from, v); err != nil {
			if o, ok := err.(*OverflowError); ok {
				o.Index += done
			}
			return err
		}
		done += len(v)
		src, dst = src[len(in):], dst[len(v)*outBytes:]
	}
	return nil
}

// convertChunk is Convert by way of buf, which has one place an element.
func convertChunk(dst []byte, to DType, src []byte, from DType, buf []float32) error {
	if from != F64 || to == F32 {
		if err := Decode(buf, src, from); err != nil {
			return err
		}
		return Encode(dst, buf, to)
	}
	// Rounding F64 to float32 and again to 16 bits could round twice the same way.
	// Rounded to odd first, the second rounding sees on which side of a tie the value was.
	for i := range buf {
		buf[i] = roundToOdd(f64At(src, i))
	}
	err := Encode(dst, buf, to)
	if o, ok := err.(*OverflowError); ok {
		o.Value = f64At(src, o.Index)
	}
	return err
}

const writtenTypes = "only F64, F32, F16 and BF16 are written"

// isWritten reports whether Encode writes d.
func (d DType) isWritten() bool { return d == F64 || d == F32 || d == F16 || d == BF16 }

// isWeight reports whether Decode reads d.
func (d DType) isWeight() bool { return d.IsFloat() || d.IsBlock() }

// checkLen says whether bytes is the size of elems elements of the weight type d.
func checkLen(elems, bytes int, d DType) error {
	if !d.isWeight() {
		return fmt.Errorf("not a weight type")
	}
	size := d.BlockSize()
	if elems%size != 0 {
		return fmt.Errorf("%d elements are not a whole number of blocks of %d", elems, size)
	}
	if want := elems / size * d.BlockBytes(); bytes != want {
		return fmt.Errorf("%d bytes for %d elements, want %d", bytes, elems, want)
	}
	return nil
}
