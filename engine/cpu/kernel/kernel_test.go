package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// atLevels runs f at every level that this CPU supports, and says which are missing.
func atLevels(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	for l := Generic; l <= AVX512BF16; l++ {
		t.Run(l.String(), func(t *testing.T) {
			if l > supported() {
				t.Skipf("NOT CHECKED: this CPU lacks level %s", l)
			}
			setLevel(t, l)
			f(t)
		})
	}
}

func setLevel(t testing.TB, l Level) {
	old := active
	active = l
	t.Cleanup(func() { active = old })
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

// normals returns n normally distributed numbers.
func normals(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// sameBits fails if a and b differ in a bit; all NaNs count as equal.
func sameBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d elements, want %d", what, len(got), len(want))
	}
	for i := range got {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) && (got[i] == got[i] || want[i] == want[i]) {
			t.Fatalf("%s: element %d is %v (%#x), want %v (%#x)", what, i,
				got[i], math.Float32bits(got[i]), want[i], math.Float32bits(want[i]))
		}
	}
}

// near fails if |got-want| exceeds tol*(1+|want|) anywhere.
func near(t *testing.T, what string, got []float32, want []float64, tol float64) {
	t.Helper()
	for i := range want {
		if d := math.Abs(float64(got[i]) - want[i]); !(d <= tol*(1+math.Abs(want[i]))) {
			t.Fatalf("%s: element %d is %v, want %v (off by %.3g)", what, i, got[i], want[i], d)
		}
	}
}

func rowsOf(w []float32, in int) func(o int, dst []float32) error {
	return func(o int, dst []float32) error {
		copy(dst, w[o*in:][:in])
		return nil
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestFMA(t *testing.T) {
	r := newRand(1)
	for range 200000 {
		x, y, z := randomFloat(r), randomFloat(r), randomFloat(r)
		if r.IntN(4) == 0 {
			z = -x * y // cancellation: only the rounding error of the product is left
		}
		got, want := fma32(x, y, z), fmaSlow(x, y, z)
		if got != want && (got == got || want == want) {
			t.Fatalf("fma32(%v,%v,%v) = %v, want %v", x, y, z, got, want)
		}
	}
	// Halfway in float64, decided by what float64 lost.
	x, y, z := float32(1+1.0/(1<<12)), float32(1+1.0/(1<<12)), float32(math.Ldexp(1, -60))
	if got := fma32(x, y, z); got != 1.0004884 {
		t.Errorf("fma32 = %v", got)
	}
}

// randomFloat draws from all float32 bit patterns, mostly near 1.
func randomFloat(r *rand.Rand) float32 {
	if r.IntN(10) == 0 {
		return math.Float32frombits(r.Uint32())
	}
	return float32(r.NormFloat64() * math.Exp2(float64(r.IntN(20)-10)))
}

func TestMulAgainstFloat64(t *testing.T) {
	r := newRand(2)
	for _, c := range []struct{ rows, in, out int }{{1, 1, 1}, {3, 7, 33}, {15, 300, 70}, {2, 513, 32}} {
		x, w := normals(r, c.rows*c.in), normals(r, c.out*c.in)
		want := make([]float64, c.rows*c.out)
		for i := range want {
			for k := range c.in {
				want[i] += float64(x[i/c.out*c.in+k]) * float64(w[i%c.out*c.in+k])
			}
		}
		p := must(PackF32(c.out, c.in, rowsOf(w, c.in)))
		b := must(PackBF16(c.out, c.in, rowsOf(w, c.in)))
		xb := make([]uint16, len(x))
		RoundBF16(xb, x)
		atLevels(t, func(t *testing.T) {
			got := make([]float32, len(want))
			p.Mul(got, c.out, x, c.in, c.rows, 0, p.Panels())
			near(t, fmt.Sprint("f32 ", c), got, want, 1e-5)
			b.Mul(got, c.out, xb, c.in, c.rows, 0, b.Panels())
			near(t, fmt.Sprint("bf16 ", c), got, want, 0.02*math.Sqrt(float64(c.in)))
		})
	}
}

func TestAttentionAgainstFloat64(t *testing.T) {
	r := newRand(3)
	for _, c := range []struct {
		a       Attention
		nq, pos int
	}{
		{Attention{HeadDim: 8, Heads: 1, Scale: 0.5}, 5, 0},
		{Attention{HeadDim: 40, Heads: 3, Scale: 0.2}, 30, 110},
		{Attention{HeadDim: 64, Heads: 2, Scale: 0.125, Window: 50, SoftCap: 2}, 40, 250},
		{Attention{HeadDim: 64, Heads: 4, Scale: 0.125, Window: 3}, 1, 300},
	} {
		a, d := c.a, c.a.HeadDim
		n := c.pos + c.nq
		k, v, q := normals(r, n*d), normals(r, n*d), normals(r, c.nq*d*a.Heads)
		want := make([]float64, len(q))
		for t := range c.nq {
			for h := range a.Heads {
				qr := q[(t*a.Heads+h)*d:][:d]
				var p []float64
				var sum float64
				lo := 0
				if a.Window > 0 {
					lo = max(0, c.pos+t-a.Window+1)
				}
				for j := lo; j <= c.pos+t; j++ {
					var s float64
					for e := range d {
						s += float64(qr[e]) * float64(k[j*d+e])
					}
					s *= float64(a.Scale)
					if a.SoftCap > 0 {
						s = float64(a.SoftCap) * math.Tanh(s/float64(a.SoftCap))
					}
					p = append(p, math.Exp(s))
					sum += p[j-lo]
				}
				for j, w := range p {
					for e := range d {
						want[(t*a.Heads+h)*d+e] += w / sum * float64(v[(lo+j)*d+e])
					}
				}
			}
		}
		cut := n / 3
		kv := []KV{{cut, k, v, d, d}, {n - cut, k[cut*d:], v[cut*d:], d, d}}
		atLevels(t, func(t *testing.T) {
			got := make([]float32, len(q))
			a.Run(got, d*a.Heads, q, d*a.Heads, c.nq, c.pos, kv)
			near(t, fmt.Sprintf("%+v", c), got, want, 3e-6)
			b := a
			b.BF16 = true
			b.Run(got, d*a.Heads, q, d*a.Heads, c.nq, c.pos, kv)
			near(t, fmt.Sprintf("bf16 %+v", c), got, want, 0.02)
		})
	}
}
