package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"

	"github.com/coppice-lm/coppice/gguf"
	"github.com/coppice-lm/coppice/internal/ggufwrite"
	"github.com/coppice-lm/coppice/tensor"
)

// badGGUF writes a file whose header lies in one way. A header that claims much must
// not make the reader take as much.
func badGGUF(path, kind string) error {
	u64 := func(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }
	pair := ggufwrite.Pair
	architecture := pair("general.architecture", gguf.StringValue("llama"))
	one := func(shape tensor.Shape) []ggufwrite.Tensor {
		return []ggufwrite.Tensor{{Info: tensor.Info{Name: "token_embd.weight", DType: tensor.F32, Shape: shape}, Data: make([]byte, 64)}}
	}
	kv, tensors := []gguf.KeyValue{architecture}, one(tensor.Shape{4, 4})
	var patch []byte // what replaces the header's counts
	switch kind {
	case "tensors": // 2^64-1 of them
		patch = append(u64(math.MaxUint64), u64(1)...)
	case "keys":
		patch = append(u64(1), u64(math.MaxUint64)...)
	case "string": // longer than any file
		kv = append(kv, pair("long", gguf.Value{Type: gguf.String, Data: u64(math.MaxUint64)}))
	case "string-past-end":
		kv = append(kv, pair("long", gguf.Value{Type: gguf.String, Data: append(u64(1<<40), "short"...)}))
	case "key-length":
		kv = append(kv, pair(string(make([]byte, 70000)), gguf.Uint32Value(1)))
	case "array": // 2^62 numbers
		head := binary.LittleEndian.AppendUint32(nil, uint32(gguf.Uint64))
		kv = append(kv, pair("many", gguf.Value{Type: gguf.Array, Data: append(head, u64(1<<62)...)}))
	case "nested": // arrays of arrays, a thousand deep
		v := gguf.ArrayValue(gguf.Uint8, ggufwrite.Scalar(gguf.Uint8, 1))
		for range 1000 {
			v = gguf.ArrayValue(gguf.Array, v)
		}
		kv = append(kv, pair("deep", v))
	case "value-type":
		kv = append(kv, pair("odd", gguf.Value{Type: 99, Data: u64(0)}))
	case "twice":
		kv = append(kv, architecture)
	case "overflow": // 2^62 x 4 x 4 bytes
		tensors = one(tensor.Shape{1 << 62, 4})
	case "outside":
		tensors = one(tensor.Shape{1 << 20, 4})
	case "alignment":
		kv = append(kv, pair("general.alignment", gguf.Uint32Value(3)))
	case "architecture":
		kv = []gguf.KeyValue{pair("general.architecture", gguf.StringValue("rwkv7"))}
	case "no-architecture":
		kv = nil
	default:
		return fmt.Errorf("unknown kind %q", kind)
	}
	b := ggufwrite.Build(kv, tensors, 3, 32)
	copy(b[8:], patch)
	return os.WriteFile(path, b, 0o666)
}
