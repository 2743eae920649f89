package gguf_test

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/gguf"
	w "github.com/coppice-lm/coppice/internal/ggufwrite"
)

// all has a key of each of the 13 types, named after it, with a value at the edge of
// its range.
func all(t *testing.T) *gguf.File {
	t.Helper()
	f, err := read(w.Build([]gguf.KeyValue{
		w.Pair("uint8", w.Scalar(gguf.Uint8, math.MaxUint8)),
		w.Pair("int8", w.Scalar(gguf.Int8, 0x80)),
		w.Pair("uint16", w.Scalar(gguf.Uint16, math.MaxUint16)),
		w.Pair("int16", w.Scalar(gguf.Int16, 0x8000)),
		w.Pair("uint32", w.Scalar(gguf.Uint32, math.MaxUint32)),
		w.Pair("int32", w.Scalar(gguf.Int32, 0x80000000)),
		w.Pair("uint64", w.Scalar(gguf.Uint64, math.MaxUint64)),
		w.Pair("int64", w.Scalar(gguf.Int64, 1<<63)),
		w.Pair("float32", gguf.Float32Value(0.1)),
		w.Pair("float64", w.Scalar(gguf.Float64, math.Float64bits(0.1))),
		w.Pair("bool", gguf.BoolValue(true)),
		w.Pair("string", gguf.StringValue("a\x00\xffé")),
		w.Pair("array", gguf.ArrayValue(gguf.Array, gguf.Int32sValue(1, -2), gguf.StringsValue("x"), gguf.ArrayValue(gguf.Bool))),

		w.Pair("positive int64", w.Scalar(gguf.Int64, math.MaxInt64)),
		w.Pair("false", gguf.BoolValue(false)),
		w.Pair("bool 2", w.Scalar(gguf.Bool, 2)),
		w.Pair("strings", gguf.StringsValue("a", "", "\xff", "déjà")),
		w.Pair("no strings", gguf.StringsValue()),
		w.Pair("int32s", gguf.Int32sValue(math.MinInt32, -1, 0, math.MaxInt32)),
		w.Pair("uint64s", gguf.ArrayValue(gguf.Uint64, w.Scalar(gguf.Uint64, 5), w.Scalar(gguf.Uint64, 1<<63))),
		w.Pair("uint8s", gguf.ArrayValue(gguf.Uint8, w.Scalar(gguf.Uint8, 0), w.Scalar(gguf.Uint8, 255))),
		w.Pair("float32s", gguf.Float32sValue(0.5, -0, float32(math.Inf(-1)))),
		w.Pair("float64s", gguf.ArrayValue(gguf.Float64, w.Scalar(gguf.Float64, math.Float64bits(1e300)))),
		w.Pair("bools", gguf.ArrayValue(gguf.Bool, gguf.BoolValue(true), gguf.BoolValue(false))),
		w.Pair("bools 2", gguf.ArrayValue(gguf.Bool, gguf.BoolValue(true), w.Scalar(gguf.Bool, 2))),
	}, nil, 3, 32))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// wrong stands for an error that names the key and says this.
type wrong string

// check compares what an accessor gives for each key: a value, or what is wrong.
func check[T any](t *testing.T, accessor string, get func(string) (T, error), want map[string]any) {
	t.Helper()
	for key, want := range want {
		got, err := get(key)
		if text, ok := want.(wrong); ok {
			wantError(t, err, `key "`+key+`"`, string(text))
			continue
		}
		if err != nil {
			t.Errorf("%s(%s): %v", accessor, key, err)
			continue
		}
		if diff := cmp.Diff(want, any(got)); diff != "" {
			t.Errorf("%s(%s): %s", accessor, key, diff)
		}
	}
}

func TestAccessors(t *testing.T) {
	f := all(t)
	check(t, "Uint", f.Uint, map[string]any{
		"uint8": uint64(math.MaxUint8), "uint16": uint64(math.MaxUint16), "uint32": uint64(math.MaxUint32),
		"uint64": uint64(math.MaxUint64), "positive int64": uint64(math.MaxInt64),
		"int8": wrong("-128, which is negative"), "int16": wrong("-32768"), "int32": wrong("-2147483648"), "int64": wrong("-9223372036854775808"),
		"float32": wrong("float32, not an integer"), "float64": wrong("float64"), "bool": wrong("bool, not"),
		"string": wrong("string, not"), "array": wrong("array, not"), "absent": wrong("missing"),
	})
	check(t, "Int", f.Int, map[string]any{
		"uint8": int64(math.MaxUint8), "int8": int64(math.MinInt8), "uint16": int64(math.MaxUint16), "int16": int64(math.MinInt16),
		"uint32": int64(math.MaxUint32), "int32": int64(math.MinInt32), "int64": int64(math.MinInt64),
		"uint64": wrong("18446744073709551615, which does not fit int64"), "float32": wrong("float32, not an integer"), "absent": wrong("missing"),
	})
	check(t, "Float", f.Float, map[string]any{
		"float32": float64(float32(0.1)), "float64": 0.1,
		"uint32": wrong("uint32, not a float"), "string": wrong("string, not a float"), "absent": wrong("missing"),
	})
	check(t, "Bool", f.Bool, map[string]any{
		"bool": true, "false": false,
		"bool 2": wrong("neither 0 nor 1"), "uint8": wrong("uint8, not a bool"), "absent": wrong("missing"),
	})
	check(t, "String", f.String, map[string]any{
		"string":  "a\x00\xffé",
		"strings": wrong("array, not a string"), "uint8": wrong("uint8, not a string"), "absent": wrong("missing"),
	})
	check(t, "Strings", f.Strings, map[string]any{
		"strings": []string{"a", "", "\xff", "déjà"}, "no strings": []string{},
		"string": wrong("string, not an array"), "int32s": wrong("array of int32, not of strings"), "array": wrong("array of array"), "absent": wrong("missing"),
	})
	check(t, "Ints", f.Ints, map[string]any{
		"int32s": []int64{math.MinInt32, -1, 0, math.MaxInt32}, "uint8s": []int64{0, 255},
		"uint64s": wrong("element 1: it is 9223372036854775808"), "int32": wrong("int32, not an array"),
		"float32s": wrong("array of float32, not of integers"), "strings": wrong("array of string, not of integers"), "no strings": wrong("array of string"),
		"array": wrong("array of array"), "bools": wrong("array of bool"), "absent": wrong("missing"),
	})
	check(t, "Floats", f.Floats, map[string]any{
		"float32s": []float64{0.5, 0, math.Inf(-1)}, "float64s": []float64{1e300},
		"float32": wrong("float32, not an array"), "int32s": wrong("array of int32, not of floats"), "strings": wrong("array of string"), "absent": wrong("missing"),
	})
	check(t, "Bools", f.Bools, map[string]any{
		"bools": []bool{true, false}, "bools 2": wrong("element 1"),
		"bool": wrong("bool, not an array"), "uint8s": wrong("array of uint8, not of bools"), "absent": wrong("missing"),
	})
}

// The text of a value, for inspect.
func TestValueString(t *testing.T) {
	f := all(t)
	for key, want := range map[string]string{
		"uint8": "255", "int8": "-128", "uint64": "18446744073709551615", "int64": "-9223372036854775808",
		"float32": "0.1", "float64": "0.1", "bool": "true", "string": `"a\x00\xffé"`,
		"array": "3 × array", "strings": "4 × string",
	} {
		v, ok := f.Lookup(key)
		if !ok || v.String() != want {
			t.Errorf("%s is %q, want %q", key, v, want)
		}
	}
}

// A Value can be made by hand, so one that is no value of its type is an error too.
func TestMalformedValues(t *testing.T) {
	for typ := gguf.Type(0); typ < 15; typ++ {
		for n := range 24 {
			data := make([]byte, n)
			for i := range data {
				data[i] = 0xff
			}
			v := gguf.Value{Type: typ, Data: data}
			_ = v.String()
			if _, err := v.Text(); err == nil {
				t.Errorf("%v of %d bytes is a string", typ, n)
			}
			if _, err := v.Strings(); err == nil {
				t.Errorf("%v of %d bytes is an array of strings", typ, n)
			}
			if _, err := v.Bool(); err == nil {
				t.Errorf("%v of %d bytes is a bool", typ, n)
			}
			if _, err := v.Ints(); err == nil {
				t.Errorf("%v of %d bytes is an array of integers", typ, n)
			}
			if x, err := v.Uint(); err == nil && uint64(n) != map[uint64]uint64{math.MaxUint8: 1, math.MaxUint16: 2, math.MaxUint32: 4, math.MaxUint64: 8}[x] {
				t.Errorf("%v of %d bytes is the integer %d", typ, n, x)
			}
			if x, err := v.Float(); err == nil && (n != 4 && n != 8 || !math.IsNaN(x)) {
				t.Errorf("%v of %d bytes is the float %g", typ, n, x)
			}
		}
	}
}
