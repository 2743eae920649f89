package tensor

import (
	"encoding/binary"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// One value that is not finite, wherever it stands in a row, is found; its absence too.
func TestAllFiniteAndMinMaxFindOneValue(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for _, c := range []struct {
			d   DType
			one []byte
		}{
			{F64, f64Bytes(math.Inf(1))}, {F64, f64Bytes(math.NaN())},
			{F32, f32Bytes(float32(math.Inf(1)))}, {F32, f32Bytes(float32(math.Inf(-1)))}, {F32, []byte{1, 0, 0x80, 0xff}},
			{F16, []byte{0, 0x7c}}, {F16, []byte{0, 0xfc}}, {F16, []byte{1, 0x7c}}, {F16, []byte{1, 0xfc}},
			{BF16, []byte{0x80, 0x7f}}, {BF16, []byte{0x80, 0xff}}, {BF16, []byte{0x81, 0x7f}}, {BF16, []byte{0x81, 0xff}},
			{F8E4M3, []byte{0x7f}}, {F8E4M3, []byte{0xff}}, {F8E5M2, []byte{0x7c}}, {F8E5M2, []byte{0xfd}},
		} {
			size := len(c.one)
			const n = 150
			src := make([]byte, n*size)
			if _, _, finite := MinMax(src, c.d); !finite || !AllFinite(src, c.d) {
				t.Fatalf("%v: zeros are not finite", c.d)
			}
			for at := range n {
				copy(src[at*size:], c.one)
				if _, _, finite := MinMax(src, c.d); finite || AllFinite(src, c.d) {
					t.Fatalf("%v: %x at %d of %d not found", c.d, c.one, at, n)
				}
				clear(src[at*size:][:size])
			}
		}
	})
}

// The largest finite values are finite.
func TestLargestValuesAreFinite(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for _, c := range []struct {
			d    DType
			one  []byte
			want float32
		}{
			{F32, f32Bytes(math.MaxFloat32), math.MaxFloat32},
			{F16, []byte{0xff, 0x7b}, 65504},
			{BF16, []byte{0x7f, 0x7f}, 0x1.fep127},
			{F8E4M3, []byte{0x7e}, 448},
			{F8E5M2, []byte{0x7b}, 57344},
		} {
			var src []byte
			for range 100 {
				src = append(src, c.one...)
				negative := append([]byte(nil), c.one...)
				negative[len(negative)-1] |= 0x80
				src = append(src, negative...)
			}
			lo, hi, finite := MinMax(src, c.d)
			if lo != -c.want || hi != c.want || !finite || !AllFinite(src, c.d) {
				t.Errorf("%v: got %g, %g, %v", c.d, lo, hi, finite)
			}
		}
	})
}

func TestMinMaxOfRandomRows(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(11, 1))
		for d := Invalid; d < numDTypes; d++ {
			if !d.isWeight() {
				continue
			}
			for range 50 {
				blocks := 1 + rng.IntN(2500/d.BlockSize()+1)
				src := smallValues(rng, d, blocks*d.BlockBytes())
				values := make([]float32, blocks*d.BlockSize())
				if err := Decode(values, src, d); err != nil {
					t.Fatal(err)
				}
				wantLo, wantHi := values[0], values[0]
				for _, v := range values {
					wantLo, wantHi = min(wantLo, v), max(wantHi, v)
				}
				lo, hi, finite := MinMax(src, d)
				if math.Float32bits(lo) != math.Float32bits(wantLo) || math.Float32bits(hi) != math.Float32bits(wantHi) || !finite {
					t.Fatalf("%v, %d elements: got %g, %g, %v; want %g, %g, true", d, len(values), lo, hi, finite, wantLo, wantHi)
				}
				if !AllFinite(src, d) {
					t.Fatalf("%v: not all finite", d)
				}
			}
		}
	})
}

func TestMinMaxOfZeros(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for _, d := range []DType{F64, F32, F16, BF16} {
			size := d.BlockBytes()
			for _, at := range []int{0, 99} {
				src := make([]byte, 100*size)
				src[at*size+size-1] = 0x80
				lo, hi, finite := MinMax(src, d)
				if lo != 0 || hi != 0 || !math.Signbit(float64(lo)) || math.Signbit(float64(hi)) || !finite {
					t.Errorf("%v with -0 at %d: got %g, %g, %v", d, at, lo, hi, finite)
				}
			}
		}
	})
}

// Sums against exact sums.
func TestSumsOfRandomRows(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(13, 1))
		for d := Invalid; d < numDTypes; d++ {
			if !d.isWeight() {
				continue
			}
			for range 10 {
				blocks := rng.IntN(6000/d.BlockSize() + 1)
				src := smallValues(rng, d, blocks*d.BlockBytes())
				values := make([]float32, blocks*d.BlockSize())
				if err := Decode(values, src, d); err != nil {
					t.Fatal(err)
				}
				exact := [3]*big.Float{newExact(), newExact(), newExact()}
				for _, v := range values {
					x := newExact().SetFloat64(float64(v))
					exact[0].Add(exact[0], x)
					exact[1].Add(exact[1], newExact().Abs(x))
					exact[2].Add(exact[2], newExact().Mul(x, x))
				}
				sum, sumAbs, squares := Sums(src, d)
				for i, got := range []float64{sum, sumAbs, squares} {
					want, _ := exact[i].Float64()
					scale := want
					if i == 0 {
						scale, _ = exact[1].Float64()
					}
					if math.Abs(got-want) > 1e-12*scale {
						t.Fatalf("%v, %d elements, sum %d: got %g, want %g", d, len(values), i, got, want)
					}
				}
			}
		}
	})
}

// newExact is wide enough for sums of squares of float32 of these tests' magnitudes.
func newExact() *big.Float { return new(big.Float).SetPrec(600) }

// The plain code and the vector code agree in every bit: the score of a neuron must not
// depend on the machine.
func TestSumsHaveTheSameBitsAtEveryLevel(t *testing.T) {
	for _, d := range []DType{F32, F16, BF16} {
		src := smallValues(rand.New(rand.NewPCG(17, uint64(d))), d, 3001*d.BlockBytes())
		var first [3]float64
		seen := 0
		eachLevel(t, func(t *testing.T) {
			var s [3]float64
			s[0], s[1], s[2] = Sums(src, d)
			if seen++; seen == 1 {
				first = s
			} else if s != first {
				t.Errorf("%v: got %v, want %v", d, s, first)
			}
		})
	}
}

func TestStatsOfWhatIsNoWholeTensor(t *testing.T) {
	for _, c := range []struct {
		d DType
		n int
	}{{F32, 7}, {F16, 1}, {BF16, 3}, {F64, 4}, {Q4_0, 17}, {Invalid, 0}, {Invalid, 4}, {200, 2}} {
		src := make([]byte, c.n)
		lo, hi, finite := MinMax(src, c.d)
		sum, _, _ := Sums(src, c.d)
		if AllFinite(src, c.d) || finite || lo == lo || hi == hi || sum == sum {
			t.Errorf("%v, %d bytes: taken for finite", c.d, c.n)
		}
	}
	if !AllFinite([]byte{255, 255, 255, 255}, I32) || AllFinite([]byte{0, 0, 0}, I32) {
		t.Error("integers: finite if whole")
	}
	if lo, hi, finite := MinMax(nil, BF16); lo != 0 || hi != 0 || !finite || !AllFinite(nil, BF16) {
		t.Errorf("no elements: got %g, %g, %v", lo, hi, finite)
	}
	if lo, hi, finite := MinMax(f64Bytes(1, 1e300), F64); lo != 1 || !math.IsInf(float64(hi), 1) || finite {
		t.Errorf("F64 beyond float32: got %g, %g, %v", lo, hi, finite)
	}
	if !AllFinite(f64Bytes(1, 1e300), F64) {
		t.Error("F64 beyond float32 is finite")
	}
}

// A scale that is not finite makes its block so.
func TestBlocksWithNonFiniteScale(t *testing.T) {
	for d, at := range map[DType]int{Q4_0: 0, Q4_1: 2, Q5_0: 0, Q5_1: 2, Q8_0: 0, Q2_K: 82, Q3_K: 108, Q4_K: 2, Q5_K: 2, Q6_K: 208} {
		src := make([]byte, 5*d.BlockBytes())
		if !AllFinite(src, d) {
			t.Errorf("%v: zeros are not finite", d)
		}
		binary.LittleEndian.PutUint16(src[3*d.BlockBytes()+at:], f16Inf)
		if _, _, finite := MinMax(src, d); finite || AllFinite(src, d) {
			t.Errorf("%v: infinite scale not found", d)
		}
	}
}
