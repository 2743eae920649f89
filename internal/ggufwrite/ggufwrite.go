// Package ggufwrite builds GGUF files in memory for tests. It checks nothing, so that a
// test can build a broken file too; the product does not import it.
package ggufwrite

import (
	"encoding/binary"
	"fmt"

	"github.com/coppice-lm/coppice/gguf"
	"github.com/coppice-lm/coppice/tensor"
)

// Tensor is a tensor to write. Its shape is in row-major order, as gguf.Entry has it.
type Tensor struct {
	tensor.Info
	Data []byte // as stored; the file holds as many bytes, whatever Info implies
}

// TypeNumbers has the number that ggml gives to each element type that Build writes.
var TypeNumbers = map[tensor.DType]uint32{
	tensor.F32: 0, tensor.F16: 1, tensor.Q4_0: 2, tensor.Q4_1: 3, tensor.Q5_0: 6,
	tensor.Q5_1: 7, tensor.Q8_0: 8, tensor.Q2_K: 10, tensor.Q3_K: 11, tensor.Q4_K: 12,
	tensor.Q5_K: 13, tensor.Q6_K: 14, tensor.I8: 24, tensor.I16: 25, tensor.I32: 26,
	tensor.I64: 27, tensor.F64: 28, tensor.BF16: 30,
}

// Build returns the file: the header, then each tensor's data at a multiple of
// alignment. It does not add general.alignment; where alignment is not 32, kv must
// say so. It panics on an element type that GGUF does not have.
func Build(kv []gguf.KeyValue, tensors []Tensor, version uint32, alignment int) []byte {
	out := []byte("GGUF")
	out = binary.LittleEndian.AppendUint32(out, version)
	out = binary.LittleEndian.AppendUint64(out, uint64(len(tensors)))
	out = binary.LittleEndian.AppendUint64(out, uint64(len(kv)))
	for _, p := range kv {
		out = append(out, gguf.StringValue(p.Key).Data...)
		out = binary.LittleEndian.AppendUint32(out, uint32(p.Value.Type))
		out = append(out, p.Value.Data...)
	}
	var data []byte
	for _, t := range tensors {
		number, ok := TypeNumbers[t.DType]
		if !ok {
			panic(fmt.Sprintf("ggufwrite: tensor %q: GGUF has no type %v", t.Name, t.DType))
		}
		data = pad(data, alignment)
		out = append(out, gguf.StringValue(t.Name).Data...)
		out = binary.LittleEndian.AppendUint32(out, uint32(len(t.Shape)))
		for i := len(t.Shape) - 1; i >= 0; i-- {
			out = binary.LittleEndian.AppendUint64(out, uint64(t.Shape[i]))
		}
		out = binary.LittleEndian.AppendUint32(out, number)
		out = binary.LittleEndian.AppendUint64(out, uint64(len(data)))
		data = append(data, t.Data...)
	}
	return append(pad(out, alignment), data...)
}

func pad(b []byte, alignment int) []byte {
	for len(b)%alignment != 0 {
		b = append(b, 0)
	}
	return b
}

// Pair is a key and a value, as package gguf makes them.
func Pair(key string, v gguf.Value) gguf.KeyValue { return gguf.KeyValue{Key: key, Value: v} }

// Scalar is a value of any type of fixed size, from the bits of the number.
func Scalar(t gguf.Type, bits uint64) gguf.Value {
	size := map[gguf.Type]int{
		gguf.Uint8: 1, gguf.Int8: 1, gguf.Bool: 1, gguf.Uint16: 2, gguf.Int16: 2,
		gguf.Uint32: 4, gguf.Int32: 4, gguf.Float32: 4,
		gguf.Uint64: 8, gguf.Int64: 8, gguf.Float64: 8,
	}[t]
	return gguf.Value{Type: t, Data: binary.LittleEndian.AppendUint64(nil, bits)[:size]}
}
