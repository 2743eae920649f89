package tensor

import (
	"fmt"
	"math"
)

// Shape is the extent of each dimension, slowest first (row-major, as in
// safetensors; GGUF's order is the reverse). An empty Shape is a scalar.
type Shape []int

// Elements is the product of the extents; 1 for a scalar, 0 where an extent is 0.
// A negative extent or a product beyond int64 is an error.
func (s Shape) Elements() (int64, error) {
	n := int64(1)
	zero := false
	for _, d := range s {
		switch {
		case d < 0:
			return 0, fmt.Errorf("shape %v has a negative extent", []int(s))
		case d == 0:
			zero = true
		case n > math.MaxInt64/int64(d):
			return 0, fmt.Errorf("shape %v has more elements than fit in 63 bits", []int(s))
		default:
			n *= int64(d)
		}
	}
	if zero {
		return 0, nil
	}
	return n, nil
}

// Equal reports whether both shapes have the same extents.
func (s Shape) Equal(t Shape) bool {
	if len(s) != len(t) {
		return false
	}
	for i := range s {
		if s[i] != t[i] {
			return false
		}
	}
	return true
}

// last is the fastest extent, the length of a stored row; 1 for a scalar.
func (s Shape) last() int64 {
	if len(s) == 0 {
		return 1
	}
	return int64(s[len(s)-1])
}

// Info is what a header says of a tensor: everything but where its bytes are.
type Info struct {
	Name  string
	DType DType
	Shape Shape
}

// Bytes is the size of the stored tensor. It is an error when the shape overflows,
// or when a row of a block type is not a whole number of blocks.
func (i Info) Bytes() (int64, error) {
	n, err := i.Shape.Elements()
	if err != nil {
		return 0, fmt.Errorf("tensor %q: %w", i.Name, err)
	}
	bs, bb := int64(i.DType.BlockSize()), int64(i.DType.BlockBytes())
	if bb == 0 {
		return 0, fmt.Errorf("tensor %q: element type %v has no size", i.Name, i.DType)
	}
	if row := i.Shape.last(); n > 0 && row%bs != 0 {
		return 0, fmt.Errorf("tensor %q: a row of %d elements is not a whole number of %v blocks of %d",
			i.Name, row, i.DType, bs)
	}
	if n/bs > math.MaxInt64/bb {
		return 0, fmt.Errorf("tensor %q: more bytes than fit in 63 bits", i.Name)
	}
	return n / bs * bb, nil
}

// Rows is the first extent (1 for a scalar), the unit in which weights are streamed.
func (i Info) Rows() int {
	if len(i.Shape) == 0 {
		return 1
	}
	return i.Shape[0]
}

// RowBytes is the size of one index of the first extent. The Info must have passed
// Bytes without error.
func (i Info) RowBytes() int64 {
	n, err := i.Bytes()
	if err != nil || i.Rows() == 0 {
		return 0
	}
	return n / int64(i.Rows())
}

// RowElements is the number of elements in one index of the first extent.
func (i Info) RowElements() int {
	n := 1
	for _, d := range i.Shape[min(1, len(i.Shape)):] {
		n *= d
	}
	return n
}
