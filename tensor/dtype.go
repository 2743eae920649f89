// Package tensor names what a stored tensor is: its element type, its shape and
// the bytes these imply, and converts between element types.
//
// A DType is either a scalar type (one element, one value: F32, BF16, ...) or a
// block type of GGUF (32 or 256 elements share scales: Q8_0, Q4_K, ...). Both are
// described by the same two numbers, elements a block and bytes a block, so that
// sizes and ranges are computed alike. Decode turns any weight type into float32,
// Encode turns float32 into a scalar weight type, rounding to nearest even, and Convert
// goes from one stored type to another. AllFinite, MinMax and Sums read stored elements
// where they lie, at the speed of memory.
//
// On amd64 with AVX2 the 16- and 32-bit types use vector code; COPPICE_CPU=generic in
// the environment forces the plain Go code of other processors. Both give the same bits.
//
// The package knows no file format and no model: it is layer 0.
package tensor

import (
	"fmt"
	"strings"
)

// DType is the element type of a stored tensor.
type DType uint8

// The scalar weight types, the GGUF block types, and the integer types that a file
// may hold beside the weights.
const (
	Invalid DType = iota
	F64
	F32
	F16
	BF16
	F8E4M3 // OCP FP8 E4M3 ("fn": no infinities, S.1111.111 is NaN)
	F8E5M2 // OCP FP8 E5M2 (IEEE-like: has infinities)

	Q4_0
	Q4_1
	Q5_0
	Q5_1
	Q8_0
	Q2_K
	Q3_K
	Q4_K
	Q5_K
	Q6_K

	I64
	I32
	I16
	I8
	U64
	U32
	U16
	U8
	Bool

	numDTypes
)

type class uint8

const (
	classFloat class = iota + 1
	classBlock
	classInteger
)

// table has one row a type: its name as safetensors and GGUF spell it, the number
// of elements and of bytes in a block (1 element for scalars), and its class.
// Block sizes: ggml's block_q* structures.
var table = [numDTypes]struct {
	name         string
	elems, bytes int
	class        class
}{
	Invalid: {"invalid", 1, 0, 0},
	F64:     {"F64", 1, 8, classFloat},
	F32:     {"F32", 1, 4, classFloat},
	F16:     {"F16", 1, 2, classFloat},
	BF16:    {"BF16", 1, 2, classFloat},
	F8E4M3:  {"F8_E4M3", 1, 1, classFloat},
	F8E5M2:  {"F8_E5M2", 1, 1, classFloat},
	Q4_0:    {"Q4_0", 32, 18, classBlock},
	Q4_1:    {"Q4_1", 32, 20, classBlock},
	Q5_0:    {"Q5_0", 32, 22, classBlock},
	Q5_1:    {"Q5_1", 32, 24, classBlock},
	Q8_0:    {"Q8_0", 32, 34, classBlock},
	Q2_K:    {"Q2_K", 256, 84, classBlock},
	Q3_K:    {"Q3_K", 256, 110, classBlock},
	Q4_K:    {"Q4_K", 256, 144, classBlock},
	Q5_K:    {"Q5_K", 256, 176, classBlock},
	Q6_K:    {"Q6_K", 256, 210, classBlock},
	I64:     {"I64", 1, 8, classInteger},
	I32:     {"I32", 1, 4, classInteger},
	I16:     {"I16", 1, 2, classInteger},
	I8:      {"I8", 1, 1, classInteger},
	U64:     {"U64", 1, 8, classInteger},
	U32:     {"U32", 1, 4, classInteger},
	U16:     {"U16", 1, 2, classInteger},
	U8:      {"U8", 1, 1, classInteger},
	Bool:    {"BOOL", 1, 1, classInteger},
}

// String is the type's name as safetensors (or, for block types, GGUF) spells it.
func (d DType) String() string {
	if d >= numDTypes {
		return fmt.Sprintf("DType(%d)", uint8(d))
	}
	return table[d].name
}

// known is d, or Invalid where d is a number that names no type, so that the
// methods below hold for any DType.
func (d DType) known() DType {
	if d >= numDTypes {
		return Invalid
	}
	return d
}

// BlockSize is the number of elements that are stored together: 1 for scalar types,
// 32 or 256 for block types.
func (d DType) BlockSize() int { return table[d.known()].elems }

// BlockBytes is the number of bytes of one block (of one element, for scalar types);
// 0 for Invalid and for a number that names no type.
func (d DType) BlockBytes() int { return table[d.known()].bytes }

// IsFloat reports whether d is a scalar floating-point type.
func (d DType) IsFloat() bool { return table[d.known()].class == classFloat }

// IsBlock reports whether d is a GGUF block type.
func (d DType) IsBlock() bool { return table[d.known()].class == classBlock }

// ParseDType returns the type of that name, in upper or lower case.
func ParseDType(name string) (DType, error) {
	for d := Invalid + 1; d < numDTypes; d++ {
		if strings.EqualFold(table[d].name, name) {
			return d, nil
		}
	}
	return Invalid, fmt.Errorf("unknown element type %q", name)
}
