package tensor

import (
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"testing"
)

// testdata/blocks.json was written by testdata/blocks.py with the Python package gguf.
func TestBlocksEqualGGUF(t *testing.T) {
	text, err := os.ReadFile("testdata/blocks.json")
	if err != nil {
		t.Fatal(err)
	}
	var goldens map[string]struct{ Blocks, Float32 string }
	if err := json.Unmarshal(text, &goldens); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for d := Invalid; d < numDTypes; d++ {
		if !d.IsBlock() {
			continue
		}
		seen++
		t.Run(d.String(), func(t *testing.T) {
			g, ok := goldens[d.String()]
			if !ok {
				t.Fatal("no golden")
			}
			src, err := hex.DecodeString(g.Blocks)
			if err != nil {
				t.Fatal(err)
			}
			wantBytes, err := hex.DecodeString(g.Float32)
			if err != nil {
				t.Fatal(err)
			}
			want := make([]float32, len(wantBytes)/4)
			decodeF32Go(want, wantBytes)
			got := make([]float32, len(src)/d.BlockBytes()*d.BlockSize())
			if len(got) != len(want) || len(got) < 3*d.BlockSize() {
				t.Fatalf("%d elements, golden has %d", len(got), len(want))
			}
			if err := Decode(got, src, d); err != nil {
				t.Fatal(err)
			}
			for i := range want {
				if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
					t.Fatalf("element %d: got %g (%08x), want %g (%08x)", i,
						got[i], math.Float32bits(got[i]), want[i], math.Float32bits(want[i]))
				}
			}
		})
	}
	if seen != len(goldens) {
		t.Errorf("%d block types, %d goldens", seen, len(goldens))
	}
}
