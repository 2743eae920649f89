package tensor

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"os"
	"testing"
)

var quantised = []DType{Q8_0, Q4_0, Q4_1, Q5_0, Q5_1}

// testdata/quantise.json was written by testdata/quantise.py with the Python package
// gguf.
func TestQuantiseEqualsGGUF(t *testing.T) { eachLevel(t, testQuantiseEqualsGGUF) }

func testQuantiseEqualsGGUF(t *testing.T) {
	text, err := os.ReadFile("testdata/quantise.json")
	if err != nil {
		t.Fatal(err)
	}
	var goldens map[string]string
	if err := json.Unmarshal(text, &goldens); err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		b, err := hex.DecodeString(goldens[name])
		if err != nil || len(b) == 0 {
			t.Fatalf("golden %s: %d bytes, %v", name, len(b), err)
		}
		return b
	}
	stored := read("float32")
	x := make([]float32, len(stored)/4)
	decodeF32Go(x, stored)
	for _, d := range quantised {
		want, got := read(d.String()), make([]byte, len(x)/32*d.BlockBytes())
		if err := Quantise(got, x, d); err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(want); i += d.BlockBytes() {
			if g, w := got[i:i+d.BlockBytes()], want[i:i+d.BlockBytes()]; !bytes.Equal(g, w) {
				t.Errorf("%v, block %d: got %x, want %x", d, i/d.BlockBytes(), g, w)
			}
		}
	}
}

// Blocks that gguf makes no sense of: what is not finite becomes NaN, next to blocks
// that stay whole; what is far too small becomes 0; a step beyond F16 is an error.
func TestQuantiseExtremes(t *testing.T) { eachLevel(t, testQuantiseExtremes) }

func testQuantiseExtremes(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, d := range quantised {
		x := make([]float32, 5*32)
		for i := range x {
			x[i] = float32(i%32) - 15
		}
		x[32+7], x[64+31] = nan, -inf
		clear(x[96:])
		x[96], x[128+3] = 1e-40, -math.SmallestNonzeroFloat32
		b, y := make([]byte, 5*d.BlockBytes()), make([]float32, len(x))
		if err := errors.Join(Quantise(b, x, d), Decode(y, b, d)); err != nil {
			t.Fatal(err)
		}
		for i, v := range y {
			block := i / 32
			if bad := v != v; bad != (block == 1 || block == 2) {
				t.Errorf("%v, block %d: element %d became %v", d, block, i, v)
			}
			if block == 0 && math.Abs(float64(v-x[i])) > 1.01 {
				t.Errorf("%v: %v became %v", d, x[i], v)
			}
			if block >= 3 && v != 0 {
				t.Errorf("%v: %v became %v", d, x[i], v)
			}
		}
		for _, top := range []float32{1e7, math.MaxFloat32} {
			x[40], x[64+31], x[99] = 0, 0, top
			x[32+7], x[98] = 0, -top
			var overflow *OverflowError
			if err := Quantise(b, x, d); !errors.As(err, &overflow) || overflow.Index != 96 || overflow.To != F16 {
				t.Errorf("%v, %g: error %v", d, top, err)
			}
		}
	}
}

func TestQuantiseRefuses(t *testing.T) {
	for _, d := range []DType{Invalid, F16, Q2_K, I8, numDTypes} {
		if err := Quantise(nil, nil, d); err == nil {
			t.Errorf("%v: no error", d)
		}
	}
	for _, d := range quantised {
		for _, n := range []int{31, 33, 64} {
			if err := Quantise(make([]byte, d.BlockBytes()), make([]float32, n), d); err == nil {
				t.Errorf("%v: %d elements into one block: no error", d, n)
			}
		}
	}
}
