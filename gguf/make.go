package gguf

import (
	"encoding/binary"
	"math"
)

// The functions below make the values of metadata.

// StringValue is a value of type string.
func StringValue(s string) Value { return Value{String, appendString(nil, s)} }

// BoolValue is a value of type bool.
func BoolValue(b bool) Value {
	if b {
		return Value{Bool, []byte{1}}
	}
	return Value{Bool, []byte{0}}
}

// Uint16Value is a value of type uint16.
func Uint16Value(n uint16) Value { return Value{Uint16, binary.LittleEndian.AppendUint16(nil, n)} }

// Uint32Value is a value of type uint32, that of most counts.
func Uint32Value(n uint32) Value { return Value{Uint32, binary.LittleEndian.AppendUint32(nil, n)} }

// Int32Value is a value of type int32.
func Int32Value(n int32) Value {
	return Value{Int32, binary.LittleEndian.AppendUint32(nil, uint32(n))}
}

// Float32Value is a value of type float32.
func Float32Value(x float32) Value {
	return Value{Float32, binary.LittleEndian.AppendUint32(nil, math.Float32bits(x))}
}

// ArrayValue is an array of elements of type elem, which must all be of that type: their
// own types are not written.
func ArrayValue(elem Type, elems ...Value) Value {
	data := binary.LittleEndian.AppendUint32(nil, uint32(elem))
	data = binary.LittleEndian.AppendUint64(data, uint64(len(elems)))
	for _, e := range elems {
		data = append(data, e.Data...)
	}
	return Value{Array, data}
}

// StringsValue is an array of strings.
func StringsValue(list ...string) Value { return arrayOf(String, list, StringValue) }

// Int32sValue is an array of int32, that of token types.
func Int32sValue(list ...int32) Value { return arrayOf(Int32, list, Int32Value) }

// Float32sValue is an array of float32, that of token scores.
func Float32sValue(list ...float32) Value { return arrayOf(Float32, list, Float32Value) }

func arrayOf[T any](elem Type, list []T, value func(T) Value) Value {
	elems := make([]Value, len(list))
	for i, x := range list {
		elems[i] = value(x)
	}
	return ArrayValue(elem, elems...)
}
