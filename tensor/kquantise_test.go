package tensor

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"testing"
)

var kTypes = []DType{Q4_K, Q5_K, Q6_K}

// roundTrip quantises and decodes, and returns the weighted squared error.
func roundTrip(t *testing.T, x, w, measure []float32, d DType) (sum float64) {
	t.Helper()
	b, y := make([]byte, len(x)/d.BlockSize()*d.BlockBytes()), make([]float32, len(x))
	if err := errors.Join(QuantiseWeighted(b, x, w, d), Decode(y, b, d)); err != nil {
		t.Fatal(err)
	}
	for i := range x {
		e := float64(y[i]) - float64(x[i])
		if measure != nil {
			e *= math.Sqrt(float64(measure[i]))
		}
		sum += e * e
	}
	return sum
}

// testdata/kquantise.json was written by testdata/kquantise.py with llama.cpp's library.
func TestKQuantiseAgainstLlamaCpp(t *testing.T) {
	text, err := os.ReadFile("testdata/kquantise.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Float32          string
		Q4_K, Q5_K, Q6_K []float64
	}
	if err := json.Unmarshal(text, &golden); err != nil {
		t.Fatal(err)
	}
	stored, err := hex.DecodeString(golden.Float32)
	if err != nil {
		t.Fatal(err)
	}
	x := make([]float32, len(stored)/4)
	decodeF32Go(x, stored)
	for _, g := range []struct {
		d    DType
		want []float64
	}{{Q4_K, golden.Q4_K}, {Q5_K, golden.Q5_K}, {Q6_K, golden.Q6_K}} {
		if len(g.want) != 6 {
			t.Fatalf("%v: %d goldens", g.d, len(g.want))
		}
		for i, want := range g.want {
			got := roundTrip(t, x[512*i:512*(i+1)], nil, nil, g.d)
			if got > 1.02*want {
				t.Errorf("%v, row %d: squared error %.4g, llama.cpp's is %.4g", g.d, i, got, want)
			}
		}
	}
}

// The sums are those of their definition, in float64.
func TestLatticeSums(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	n := lanesK * 32
	x, w := make([]float32, n), make([]float32, n)
	for i := range x {
		x[i], w[i] = float32(r.NormFloat64()), r.Float32()
	}
	var base, inv perLane
	for l := range lanesK {
		base[l], inv[l] = float32(r.NormFloat64()), float32(8*r.NormFloat64())
	}
	var got latticeResult
	latticeSums(&got, x, w, &base, &inv, -16, 15)
	for l := range lanesK {
		var want [3]float64
		for i := l; i < n; i += lanesK {
			y := x[i] - base[l]
			q := min(max(math.RoundToEven(float64(float32(y*inv[l]))), -16), 15)
			want[0] += float64(w[i]) * q
			want[1] += float64(w[i]) * q * q
			want[2] += float64(w[i]) * q * float64(y)
		}
		for k, sum := range want {
			if math.Abs(float64(got[k][l])-sum) > 1e-4*max(1, math.Abs(sum)) {
				t.Errorf("lane %d: sum %d is %v, want %v", l, k, got[k][l], sum)
			}
		}
	}
}

// With importance the error it weighs is not above that without, and is clearly less for
// the types whose scales are otherwise fixed by the range.
func TestQuantiseWeighted(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	x, w := make([]float32, 8*256), make([]float32, 8*256)
	for i := range x {
		x[i] = float32(r.NormFloat64())
		w[i] = float32(math.Exp(3 * r.NormFloat64()))
	}
	for _, d := range []DType{Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K} {
		plain, weighted := roundTrip(t, x, nil, w, d), roundTrip(t, x, w, w, d)
		if weighted > 0.9*plain {
			t.Errorf("%v: weighted error %.4g, and %.4g without importance", d, weighted, plain)
		}
	}
	b := make([]byte, Q8_0.BlockBytes())
	if err := QuantiseWeighted(b, x[:32], w[:31], Q8_0); err == nil {
		t.Error("importance of another length: no error")
	}
}

// Blocks that have no scale, or none that F16 holds.
func TestKQuantiseExtremes(t *testing.T) {
	nan := float32(math.NaN())
	for _, d := range kTypes {
		x := make([]float32, 4*256) // block 0 is zero
		for i := range 256 {
			x[256+i] = float32(i%32) - 15
			x[512+i] = -3 // one number
			x[768+i] = 1e-12
		}
		x[256+77] = nan
		b, y := make([]byte, 4*d.BlockBytes()), make([]float32, len(x))
		if err := errors.Join(Quantise(b, x, d), Decode(y, b, d)); err != nil {
			t.Fatal(err)
		}
		for i, v := range y {
			switch i / 256 {
			case 1:
				if v == v {
					t.Fatalf("%v: element %d of a block with a NaN became %v", d, i, v)
				}
			default:
				if math.Abs(float64(v-x[i])) > 0.01 {
					t.Fatalf("%v: element %d, %v, became %v", d, i, x[i], v)
				}
			}
		}
		x[256+77], x[256+78] = 1e9, -1e9
		var overflow *OverflowError
		if err := Quantise(b, x, d); !errors.As(err, &overflow) || overflow.Index != 256 {
			t.Errorf("%v: error %v", d, err)
		}
	}
}

func BenchmarkQuantise(b *testing.B) {
	r := rand.New(rand.NewPCG(5, 6))
	x := make([]float32, 64*256)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	for _, d := range []DType{Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K} {
		dst := make([]byte, len(x)/d.BlockSize()*d.BlockBytes())
		b.Run(d.String(), func(b *testing.B) {
			b.SetBytes(int64(4 * len(x)))
			for b.Loop() {
				if err := Quantise(dst, x, d); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
