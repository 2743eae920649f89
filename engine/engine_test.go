package engine

import (
	"slices"
	"strings"
	"testing"
)

func TestPaths(t *testing.T) {
	b := Batch{Nodes: []Node{
		{Parent: -1, Tokens: []int32{1, 2}},
		{Parent: 0, Tokens: []int32{3}},
		{Parent: -1, Tokens: []int32{4}},
		{Parent: 1, Tokens: []int32{5, 6}},
	}}
	if err := b.Validate(7); err != nil {
		t.Fatal(err)
	}
	if n := b.Tokens(); n != 6 {
		t.Errorf("%d tokens, expected 6", n)
	}
	if got := b.Lengths(); !slices.Equal(got, []int{2, 3, 1, 5}) {
		t.Errorf("lengths %v", got)
	}
	for node, want := range [][]int32{{1, 2}, {1, 2, 3}, {4}, {1, 2, 3, 5, 6}} {
		if got := b.Path(node); !slices.Equal(got, want) {
			t.Errorf("node %d: path %v, expected %v", node, got, want)
		}
	}
	if err := b.Validate(6); err == nil || !strings.Contains(err.Error(), "node 3") || !strings.Contains(err.Error(), "6") {
		t.Errorf("a vocabulary of 6: error %v, expected node 3 and token 6", err)
	}
}

func TestPrecision(t *testing.T) {
	for p, name := range map[Precision]string{F32: "f32", BF16: "bf16", Stored: "stored"} {
		if got, err := ParsePrecision(name); got != p || err != nil || p.String() != name {
			t.Errorf("%q: %v, %v, spelled %q", name, got, err, p)
		}
	}
	if _, err := ParsePrecision("fp8"); err == nil || !strings.Contains(err.Error(), "fp8") {
		t.Errorf("fp8: error %v", err)
	}
}

func TestErrorsSayWhere(t *testing.T) {
	for want, err := range map[string]error{
		"node 3: a sequence of 9 tokens": &LengthError{Node: 3, Length: 9, Max: 8},
		"in layer 2":                     &NonFiniteError{Layer: 2, Layers: 4},
		"in the embedding":               &NonFiniteError{Layer: -1, Layers: 4},
		"in the head":                    &NonFiniteError{Layer: 4, Layers: 4},
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}
