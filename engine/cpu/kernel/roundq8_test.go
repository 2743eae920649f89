package kernel

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/coppice-lm/coppice/tensor"
)

// halfOf is v in half precision, by way of the codec of files.
func halfOf(t *testing.T, v float32) float32 {
	t.Helper()
	b, back := make([]byte, 2), make([]float32, 1)
	if err := tensor.Encode(b, []float32{v}, tensor.F16); err != nil {
		t.Fatal(err)
	}
	if err := tensor.Decode(back, b, tensor.F16); err != nil {
		t.Fatal(err)
	}
	return back[0]
}

func TestRoundF16(t *testing.T) {
	r := newRand(31)
	for range 20000 {
		v := float32(math.Exp(r.Float64()*28 - 18)) // 1.5e-8 to 2.2e4, subnormal numbers among them
		if got, want := roundF16(v), halfOf(t, v); got != want {
			t.Fatalf("%v becomes %v, want %v", v, got, want)
		}
	}
}

// Each value is the nearest of the 255 that its block has, by trying them all.
func TestRoundQ8(t *testing.T) {
	r := newRand(32)
	for _, size := range []int{32, 256} {
		x := normals(r, 4*size)
		for i := range x {
			x[i] *= []float32{1, 3e-4, 900, 1}[i/size]
		}
		clear(x[3*size:])
		x[3*size+1] = -2 // a block whose greatest magnitude is of a negative number
		want := make([]float32, len(x))
		for b := 0; b < len(x); b += size {
			top := float32(0)
			for _, v := range x[b : b+size] {
				top = max(top, float32(math.Abs(float64(v))))
			}
			d := top / 127
			if size == 32 {
				d = halfOf(t, d)
			}
			for i, v := range x[b : b+size] {
				near := math.Inf(1)
				for q := -127; q <= 127; q++ {
					// Nearness is judged by the step that is not rounded, as the quants are chosen by it.
					if off := math.Abs(float64(v) - float64(q)*float64(top)/127); off < near {
						near, want[b+i] = off, float32(q)*d
					}
				}
			}
		}
		atLevels(t, func(t *testing.T) {
			got := make([]float32, len(x))
			RoundQ8(got, x, size)
			sameBits(t, fmt.Sprintf("blocks of %d", size), got, want)
			inPlace := slices.Clone(x)
			RoundQ8(inPlace, inPlace, size)
			sameBits(t, "in place", inPlace, got)
		})
	}
}

// Zeros stay; large blocks stay finite; what is not finite takes its block with it, but
// not the next one.
func TestRoundQ8Special(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, size := range []int{32, 256} {
		for _, bad := range []float32{inf, -inf, nan} {
			x := make([]float32, 3*size)
			x[1], x[size-1], x[size], x[2*size] = 1, bad, 1e9, 1e-39
			got := make([]float32, len(x))
			RoundQ8(got, x, size)
			for i, v := range got {
				block := i / size
				switch {
				case block == 0 && v == v:
					t.Fatalf("blocks of %d, one with %v: element %d is %v, want NaN", size, bad, i, v)
				case i == size && math.Abs(float64(v)-1e9) > 1e6, block > 0 && i != size && v != 0:
					t.Fatalf("blocks of %d: element %d is %v", size, i, v)
				}
			}
		}
	}
}
