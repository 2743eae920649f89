package gguf

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/tensor"
)

var layoutKeys = []KeyValue{
	{"general.architecture", StringValue("llama")},
	{"a.bool", BoolValue(true)},
	{"a.u16", Uint16Value(7)},
	{"a.i32", Int32Value(-7)},
	{"a.f32", Float32Value(0.5)},
	{"a.words", StringsValue("x", "")},
	{"a.counts", ArrayValue(Uint32, Uint32Value(1), Uint32Value(1<<31))},
	{"a.scores", Float32sValue(-1, 2)},
	{"a.types", Int32sValue(3, -1)},
}

var layoutTensors = []tensor.Info{
	{Name: "a", DType: tensor.F32, Shape: tensor.Shape{3}},
	{Name: "b", DType: tensor.Q4_K, Shape: tensor.Shape{5, 256}},
	{Name: "c", DType: tensor.F16, Shape: tensor.Shape{2, 3}},
}

// What is laid out is read back: keys, shapes and ranges, in one file and in parts.
func TestLayoutReadsBack(t *testing.T) {
	for _, test := range []struct {
		max   int64
		parts []int // tensors of each
	}{{0, []int{3}}, {732, []int{2, 1}}, {1, []int{1, 1, 1}}} {
		l, err := NewLayout(layoutKeys, layoutTensors, test.max)
		if err != nil {
			t.Fatal(err)
		}
		if len(l.Parts) != len(test.parts) {
			t.Fatalf("at most %d bytes: %d parts, want %d", test.max, len(l.Parts), len(test.parts))
		}
		var all []tensor.Info
		for i, p := range l.Parts {
			file := append(bytes.Clone(p.Header), make([]byte, p.Size-int64(len(p.Header)))...)
			f, err := Read(bytes.NewReader(file), int64(len(file)))
			if err != nil {
				t.Fatal(err)
			}
			if len(f.Tensors) != test.parts[i] || f.Version != 3 {
				t.Errorf("part %d: %d tensors, version %d", i, len(f.Tensors), f.Version)
			}
			if diff := cmp.Diff(p.Tensors, f.Tensors); diff != "" {
				t.Errorf("part %d (-laid out +read):\n%s", i, diff)
			}
			for _, e := range f.Tensors {
				all = append(all, e.Info)
			}
			if len(test.parts) > 1 {
				no, err1 := f.Uint("split.no")
				count, err2 := f.Uint("split.count")
				n, err3 := f.Int("split.tensors.count")
				if no != uint64(i) || int(count) != len(test.parts) || n != 3 || err1 != nil || err2 != nil || err3 != nil {
					t.Errorf("part %d says it is %d of %d, of %d tensors", i, no, count, n)
				}
			}
			if i > 0 {
				continue
			}
			if diff := cmp.Diff(layoutKeys, f.KV[:len(layoutKeys)]); diff != "" {
				t.Errorf("keys (-laid out +read):\n%s", diff)
			}
			if words, err := f.Strings("a.words"); err != nil || len(words) != 2 || words[0] != "x" {
				t.Errorf("a.words: %q, %v", words, err)
			}
		}
		if diff := cmp.Diff(layoutTensors, all); diff != "" {
			t.Error(diff)
		}
	}
}

func TestLayoutRefuses(t *testing.T) {
	info := func(name string, d tensor.DType, shape ...int) []tensor.Info {
		return []tensor.Info{{Name: name, DType: d, Shape: shape}}
	}
	for _, test := range []struct {
		kv      []KeyValue
		tensors []tensor.Info
		want    string
	}{
		{nil, info(strings.Repeat("n", 64), tensor.F32, 1), "64 bytes, llama.cpp loads 1 to 63"},
		{nil, info("", tensor.F32, 1), "0 bytes"},
		{nil, append(info("a", tensor.F32, 1), info("a", tensor.F32, 1)...), `tensor "a" comes twice`},
		{nil, info("a", tensor.F32, 1, 1, 1, 1, 1), "5 dimensions"},
		{nil, info("a", tensor.F32), "0 dimensions"},
		{nil, info("a", tensor.F8E4M3, 1), "no element type F8_E4M3"},
		{nil, info("a", tensor.Invalid, 1), "no element type"},
		{nil, info("a", tensor.Q4_K, 1, 32), "256"},
		{[]KeyValue{{"k", BoolValue(true)}, {"k", BoolValue(true)}}, nil, `key "k" comes twice`},
		{[]KeyValue{{"", BoolValue(true)}}, nil, "0 bytes"},
		{[]KeyValue{{"general.alignment", Uint32Value(64)}}, nil, "the layout's to set"},
		{[]KeyValue{{"split.count", Uint16Value(1)}}, nil, "the layout's to set"},
	} {
		if _, err := NewLayout(test.kv, test.tensors, 0); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("error %v, want one that says %q", err, test.want)
		}
	}
}

func TestSplitName(t *testing.T) {
	if got := SplitName("d/m.gguf", 0, 1); got != "d/m.gguf" {
		t.Error(got)
	}
	for i, want := range []string{"d/m-00001-of-00002.gguf", "d/m-00002-of-00002.gguf"} {
		got := SplitName("d/m.gguf", i, 2)
		back, err := SplitPaths(got)
		if got != want || err != nil || back[i] != want {
			t.Errorf("part %d is %s (%v, %v)", i, got, back, err)
		}
	}
}
