package gguf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
)

// Type is the type of a metadata value, with the number the file gives it.
type Type uint32

// The types of the format.
const (
	Uint8 Type = iota
	Int8
	Uint16
	Int16
	Uint32
	Int32
	Float32
	Bool
	String
	Array
	Uint64
	Int64
	Float64

	numTypes
)

// types has one row a type: its name and the bytes of one value. Those of a string and
// of an array are the least that one can take; its length says how many follow.
var types = [numTypes]struct {
	name string
	size int64
}{
	Uint8:   {"uint8", 1},
	Int8:    {"int8", 1},
	Uint16:  {"uint16", 2},
	Int16:   {"int16", 2},
	Uint32:  {"uint32", 4},
	Int32:   {"int32", 4},
	Float32: {"float32", 4},
	Bool:    {"bool", 1},
	String:  {"string", stringHead},
	Array:   {"array", arrayHead},
	Uint64:  {"uint64", 8},
	Int64:   {"int64", 8},
	Float64: {"float64", 8},
}

const (
	stringHead = 8     // a length
	arrayHead  = 4 + 8 // an element type and a count
)

// String is the type's name.
func (t Type) String() string {
	if t >= numTypes {
		return fmt.Sprintf("type %d", uint32(t))
	}
	return types[t].name
}

// fixed reports whether every value of the type has the same size.
func (t Type) fixed() bool { return t < numTypes && t != String && t != Array }

func (t Type) isFloat() bool { return t == Float32 || t == Float64 }

func (t Type) isInteger() bool { return t.fixed() && t != Bool && !t.isFloat() }

// Value is a metadata value as the file stores it. A large vocabulary stays one piece
// of memory this way, and is decoded only where it is asked for.
type Value struct {
	Type Type
	// Data is the value in the encoding of the file, without its type: a little-endian
	// number; a string with its u64 length before it; for an array the u32 type and u64
	// count of the elements, then those. Read has checked that it is one whole value.
	Data []byte
}

// Elem is the element type and the number of elements of an array. It is an error where
// v is not an array.
func (v Value) Elem() (Type, int, error) {
	if v.Type != Array {
		return 0, 0, fmt.Errorf("it is %v, not an array", v.Type)
	}
	if len(v.Data) < arrayHead {
		return 0, 0, errMalformed
	}
	elem := Type(binary.LittleEndian.Uint32(v.Data))
	n := binary.LittleEndian.Uint64(v.Data[4:])
	if elem >= numTypes || n > uint64(len(v.Data)-arrayHead)/uint64(types[elem].size) {
		return 0, 0, errMalformed
	}
	return elem, int(n), nil
}

// errMalformed is for values that were not made by Read.
var errMalformed = errors.New("its data is not a value of its type")

// Text is the string v holds.
func (v Value) Text() (string, error) {
	if v.Type != String {
		return "", fmt.Errorf("it is %v, not a string", v.Type)
	}
	s, rest, ok := cutString(v.Data)
	if !ok || len(rest) > 0 {
		return "", errMalformed
	}
	return string(s), nil
}

// Uint is the integer v holds, of whatever type. A negative one is an error.
func (v Value) Uint() (uint64, error) {
	n, negative, err := integer(v.Type, v.Data)
	if err == nil && negative {
		err = fmt.Errorf("it is %d, which is negative", int64(n))
	}
	return n, err
}

// Int is the integer v holds, of whatever type. One beyond 63 bits is an error.
func (v Value) Int() (int64, error) {
	n, negative, err := integer(v.Type, v.Data)
	if err == nil && !negative && n > math.MaxInt64 {
		err = fmt.Errorf("it is %d, which does not fit int64", n)
	}
	return int64(n), err
}

// Float is the float32 or float64 v holds.
func (v Value) Float() (float64, error) { return float(v.Type, v.Data) }

// Bool is the boolean v holds.
func (v Value) Bool() (bool, error) { return boolean(v.Type, v.Data) }

// Strings is the array of strings v holds.
func (v Value) Strings() ([]string, error) {
	elem, n, err := v.Elem()
	if err != nil {
		return nil, err
	}
	if elem != String {
		return nil, fmt.Errorf("it is an array of %v, not of strings", elem)
	}
	// One string holds all elements (and the lengths between them), and the elements
	// are parts of it: one allocation in place of n.
	all := string(v.Data[arrayHead:])
	rest := v.Data[arrayHead:]
	list := make([]string, n)
	for i := range list {
		s, after, ok := cutString(rest)
		if !ok {
			return nil, errMalformed
		}
		end := len(all) - len(after)
		list[i] = all[end-len(s) : end]
		rest = after
	}
	return list, nil
}

// Ints is the array of integers v holds, of whatever type. One beyond 63 bits is an
// error.
func (v Value) Ints() ([]int64, error) {
	return elements(v, "integers", Type.isInteger, func(elem Type, b []byte) (int64, error) { return Value{elem, b}.Int() })
}

// Floats is the array of float32 or float64 v holds.
func (v Value) Floats() ([]float64, error) { return elements(v, "floats", Type.isFloat, float) }

// Bools is the array of booleans v holds.
func (v Value) Bools() ([]bool, error) {
	return elements(v, "bools", func(t Type) bool { return t == Bool }, boolean)
}

// elements decodes an array whose element type, of fixed size, passes is.
func elements[T any](v Value, what string, is func(Type) bool, decode func(elem Type, b []byte) (T, error)) ([]T, error) {
	elem, n, err := v.Elem()
	if err != nil {
		return nil, err
	}
	if !is(elem) {
		return nil, fmt.Errorf("it is an array of %v, not of %s", elem, what)
	}
	size := int(types[elem].size)
	list := make([]T, n)
	for i := range list {
		at := arrayHead + i*size
		if list[i], err = decode(elem, v.Data[at:at+size]); err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
	}
	return list, nil
}

// integer is the two's complement of an integer of any type in 64 bits, and whether it
// is negative.
func integer(t Type, b []byte) (n uint64, negative bool, err error) {
	if !t.isInteger() {
		return 0, false, fmt.Errorf("it is %v, not an integer", t)
	}
	if int64(len(b)) != types[t].size {
		return 0, false, errMalformed
	}
	switch t {
	case Uint8:
		return uint64(b[0]), false, nil
	case Uint16:
		return uint64(binary.LittleEndian.Uint16(b)), false, nil
	case Uint32:
		return uint64(binary.LittleEndian.Uint32(b)), false, nil
	case Uint64:
		return binary.LittleEndian.Uint64(b), false, nil
	}
	var i int64
	switch t {
	case Int8:
		i = int64(int8(b[0]))
	case Int16:
		i = int64(int16(binary.LittleEndian.Uint16(b)))
	case Int32:
		i = int64(int32(binary.LittleEndian.Uint32(b)))
	case Int64:
		i = int64(binary.LittleEndian.Uint64(b))
	}
	return uint64(i), i < 0, nil
}

func float(t Type, b []byte) (float64, error) {
	switch {
	case !t.isFloat():
		return 0, fmt.Errorf("it is %v, not a float", t)
	case int64(len(b)) != types[t].size:
		return 0, errMalformed
	case t == Float32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(b))), nil
	default:
		return math.Float64frombits(binary.LittleEndian.Uint64(b)), nil
	}
}

func boolean(t Type, b []byte) (bool, error) {
	switch {
	case t != Bool:
		return false, fmt.Errorf("it is %v, not a bool", t)
	case len(b) != 1:
		return false, errMalformed
	case b[0] > 1:
		return false, fmt.Errorf("its byte is %d, neither 0 nor 1", b[0])
	default:
		return b[0] == 1, nil
	}
}

// cutString splits b after the string that it starts with.
func cutString(b []byte) (s, rest []byte, ok bool) {
	if len(b) < stringHead {
		return nil, nil, false
	}
	n := binary.LittleEndian.Uint64(b)
	b = b[stringHead:]
	if n > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}

// String describes the value for people: a scalar as it is, a string quoted, an array
// by its length and type.
func (v Value) String() string {
	switch v.Type {
	case String:
		s, err := v.Text()
		if err != nil {
			return err.Error()
		}
		return strconv.Quote(s)
	case Array:
		elem, n, err := v.Elem()
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%d × %v", n, elem)
	case Float32, Float64:
		x, err := v.Float()
		if err != nil {
			return err.Error()
		}
		bits := 64
		if v.Type == Float32 {
			bits = 32
		}
		return strconv.FormatFloat(x, 'g', -1, bits)
	case Bool:
		x, err := v.Bool()
		if err != nil {
			return err.Error()
		}
		return strconv.FormatBool(x)
	}
	n, negative, err := integer(v.Type, v.Data)
	if err != nil {
		return err.Error()
	}
	if negative {
		return strconv.FormatInt(int64(n), 10)
	}
	return strconv.FormatUint(n, 10)
}
