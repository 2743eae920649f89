package safetensors

import (
	"fmt"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/tensor"
)

func benchName(i int) string { return fmt.Sprintf("model.layers.%d.mlp.gate_proj.weight", i) }

func TestEncodeHeader(t *testing.T) {
	infos := []tensor.Info{
		{Name: "w", DType: tensor.BF16, Shape: tensor.Shape{2, 3}},
		{Name: "s", DType: tensor.F32, Shape: tensor.Shape{}},
		{Name: "none", DType: tensor.F32, Shape: tensor.Shape{0, 4}},
	}
	prefix, entries, err := EncodeHeader(map[string]string{"format": "pt", "a": "1"}, infos)
	if err != nil {
		t.Fatal(err)
	}
	const want = "\xd8\x00\x00\x00\x00\x00\x00\x00" +
		`{"__metadata__":{"a":"1","format":"pt"},` +
		`"w":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},` +
		`"s":{"dtype":"F32","shape":[],"data_offsets":[12,16]},` +
		`"none":{"dtype":"F32","shape":[0,4],"data_offsets":[16,16]}}     `
	if diff := cmp.Diff(want, string(prefix)); diff != "" {
		t.Error(diff)
	}
	if len(prefix)%8 != 0 {
		t.Errorf("data would start at %d", len(prefix))
	}
	start := int64(len(prefix))
	for i, r := range [][2]int64{{0, 12}, {12, 16}, {16, 16}} {
		if e := entries[i]; e.Begin != start+r[0] || e.End != start+r[1] || e.Name != infos[i].Name {
			t.Errorf("entry %d is %v, want range %v after %d", i, e, r, start)
		}
	}
}

// What is written is read back, whatever names and metadata hold.
func TestEncodeThenRead(t *testing.T) {
	for _, metadata := range []map[string]string{nil, {"format": "pt"}, {"\"\\\n\x00\x7f é😀": "</script>\u2028"}} {
		for n := range 9 {
			var infos []tensor.Info
			for i := range n {
				infos = append(infos, tensor.Info{Name: fmt.Sprintf("\"%d\\\t\u2028😀", i), DType: tensor.F16, Shape: tensor.Shape{i, 3}})
			}
			prefix, entries, err := EncodeHeader(metadata, infos)
			if err != nil {
				t.Fatal(err)
			}
			size := len(prefix)
			if n > 0 {
				size = int(entries[n-1].End)
			}
			h, err := read(append(prefix, make([]byte, size-len(prefix))...))
			if err != nil {
				t.Fatalf("%v\n%s", err, prefix)
			}
			if diff := cmp.Diff(metadata, h.Metadata); diff != "" {
				t.Error(diff)
			}
			for _, want := range entries {
				if got, _ := h.Lookup(want.Name); !cmp.Equal(want, got) {
					t.Error(cmp.Diff(want, got))
				}
			}
			if len(h.Tensors) != n || h.DataStart != int64(len(prefix)) {
				t.Errorf("%d tensors from %d, want %d from %d", len(h.Tensors), h.DataStart, n, len(prefix))
			}
		}
	}
}

func TestEncodeErrors(t *testing.T) {
	ok := tensor.Info{Name: "a", DType: tensor.F32, Shape: tensor.Shape{1}}
	big := tensor.Info{Name: "big", DType: tensor.U8, Shape: tensor.Shape{math.MaxInt}}
	for _, tc := range []struct {
		name     string
		metadata map[string]string
		infos    []tensor.Info
		want     string
	}{
		{"name twice", nil, []tensor.Info{ok, ok}, `"a": the name comes twice`},
		{"reserved name", nil, []tensor.Info{{Name: "__metadata__", DType: tensor.F32}}, "keeps this name"},
		{"name not UTF-8", nil, []tensor.Info{{Name: "\xff", DType: tensor.F32}}, "not valid UTF-8"},
		{"block type", nil, []tensor.Info{{Name: "q", DType: tensor.Q8_0, Shape: tensor.Shape{32}}}, `"q": safetensors has no element type Q8_0`},
		{"no type", nil, []tensor.Info{{Name: "n"}}, `"n"`},
		{"overflow", nil, []tensor.Info{{Name: "o", DType: tensor.F32, Shape: tensor.Shape{math.MaxInt, 2}}}, `"o"`},
		{"sum overflows", nil, []tensor.Info{ok, big}, `"big": it would end beyond`},
		{"end overflows", nil, []tensor.Info{big}, `"big": it would end beyond`},
		{"metadata not UTF-8", map[string]string{"k": "\xff"}, nil, `"k"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, _, err := EncodeHeader(tc.metadata, tc.infos)
			wantError(t, err, tc.want)
		})
	}
}
