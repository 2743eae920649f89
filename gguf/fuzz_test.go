package gguf_test

import (
	"testing"

	"github.com/coppice-lm/coppice/gguf"
	w "github.com/coppice-lm/coppice/internal/ggufwrite"
	"github.com/coppice-lm/coppice/tensor"
)

// Whatever the bytes: no panic, and of a file that is accepted every tensor is aligned,
// inside the file and of the size it says, and every value can be decoded as what it
// is.
func FuzzRead(f *testing.F) {
	f.Add(w.Build([]gguf.KeyValue{
		w.Pair("general.alignment", gguf.Uint32Value(8)),
		w.Pair("s", gguf.StringsValue("a", "bc")),
		w.Pair("n", gguf.ArrayValue(gguf.Array, gguf.Int32sValue(1, 2), gguf.StringsValue("q"))),
		w.Pair("f", gguf.Float32sValue(1, 2)),
		w.Pair("b", gguf.BoolValue(true)),
	}, []w.Tensor{zeros(f, "t", tensor.F16, 2, 3), zeros(f, "q", tensor.Q4_0, 1, 32)}, 2, 8))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := read(b)
		if err != nil {
			return
		}
		for _, e := range file.Tensors {
			n, err := e.Bytes()
			if err != nil || e.Begin < file.DataStart || e.End != e.Begin+n || e.End > int64(len(b)) || (e.Begin-file.DataStart)%file.Alignment != 0 {
				t.Fatalf("tensor %v in %d bytes: %v", e, len(b), err)
			}
		}
		for _, kv := range file.KV {
			if v, ok := file.Lookup(kv.Key); !ok || v.Type != kv.Value.Type {
				t.Fatalf("key %q is not found", kv.Key)
			}
			if err := decode(kv.Value); err != nil {
				t.Fatalf("key %q: %v: %v", kv.Key, kv.Value, err)
			}
		}
	})
}

// decode asks for a value as what it is. Bytes above 1 of a bool and integers above 63
// bits in an array are errors for the accessor to find, not for Read.
func decode(v gguf.Value) (err error) {
	_ = v.String()
	switch v.Type {
	case gguf.String:
		_, err = v.Text()
	case gguf.Bool:
		_, _ = v.Bool()
	case gguf.Float32, gguf.Float64:
		_, err = v.Float()
	case gguf.Array:
		var elem gguf.Type
		if elem, _, err = v.Elem(); err != nil {
			return err
		}
		switch elem {
		case gguf.String:
			_, err = v.Strings()
		case gguf.Float32, gguf.Float64:
			_, err = v.Floats()
		case gguf.Bool:
			_, _ = v.Bools()
		case gguf.Array:
		case gguf.Uint64:
			_, _ = v.Ints()
		default:
			_, err = v.Ints()
		}
	default:
		if _, uerr := v.Uint(); uerr != nil {
			_, err = v.Int()
		}
	}
	return err
}
