package kernel

import (
	"fmt"
	"math"
	"testing"
)

// lengths has tails of every kind around the 16 and 64 elements of the kernels.
var lengths = []int{0, 1, 2, 7, 8, 15, 16, 17, 31, 33, 48, 63, 64, 65, 127, 128, 130, 577}

// hostile is n numbers among which are NaN, infinities, zeros of both signs, subnormal
// and huge ones.
func hostile(seed uint64, n int) []float32 {
	r := newRand(seed)
	special := []float32{
		float32(math.NaN()), float32(math.Inf(1)), negInf, 0, float32(math.Copysign(0, -1)),
		1e-42, -1e-42, 3e38, -3e38, 88.72, 88.73, -87.3, -103.9, -104.1, 89, 0.5, -0.5,
	}
	x := normals(r, n)
	for i := range x {
		x[i] *= float32(math.Exp2(float64(r.IntN(12) - 5)))
		if r.IntN(6) == 0 {
			x[i] = special[r.IntN(len(special))]
		}
	}
	return x
}

// rowFunctions are the functions over rows of numbers, each as one that turns three
// rows of the same length into one.
var rowFunctions = map[string]func(a, b, c []float32) []float32{
	"Exp":         func(a, _, _ []float32) []float32 { Exp(a, a); return a },
	"Softmax":     func(a, _, _ []float32) []float32 { Softmax(a); return a },
	"LogSumExp":   func(a, _, _ []float32) []float32 { return []float32{float32(LogSumExp(a))} },
	"SiLUMul":     func(a, b, c []float32) []float32 { SiLUMul(c, a, b); return c },
	"GELUTanhMul": func(a, b, c []float32) []float32 { GELUTanhMul(c, a, b); return c },
	"GELUErfMul":  func(a, b, c []float32) []float32 { GELUErfMul(c, a, b); return c },
	"SoftCap":     func(a, _, _ []float32) []float32 { SoftCap(a, 30); return a },
	"Dot":         func(a, b, _ []float32) []float32 { return []float32{Dot(a, b)} },
	"RMSNorm":     func(a, b, c []float32) []float32 { RMSNorm(c, a, b, 1e-5, 1); return c },
	"Add":         func(a, b, _ []float32) []float32 { Add(a, b); return a },
	"Scale":       func(a, _, _ []float32) []float32 { Scale(a, 1.7); return a },
	"AXPY":        func(a, b, _ []float32) []float32 { AXPY(-0.3, a, b); return b },
	"Max":         func(a, _, _ []float32) []float32 { return []float32{Max(a)} },
	"ArgMax":      func(a, _, _ []float32) []float32 { return []float32{float32(ArgMax(a))} },
	"RoPE": func(a, b, c []float32) []float32 {
		x := append(append(append([]float32{}, a...), b...), 5)
		RoPE(x, a, c)
		return x
	},
	"RoundBF16": func(a, _, _ []float32) []float32 {
		h := make([]uint16, len(a))
		RoundBF16(h, a)
		WidenBF16(a, h)
		return a
	},
	"WidenF16": func(a, _, _ []float32) []float32 {
		h := make([]uint16, len(a))
		for i, v := range a {
			h[i] = uint16(math.Float32bits(v) >> 7)
		}
		WidenF16(a, h)
		return a
	},
}

func TestRowFunctionsEqualTwins(t *testing.T) {
	for name, f := range rowFunctions {
		t.Run(name, func(t *testing.T) {
			for _, n := range lengths {
				for seed := range uint64(6) {
					rows := func() (a, b, c []float32) {
						if seed%2 == 0 {
							r := newRand(seed)
							return normals(r, n), normals(r, n), normals(r, n)
						}
						return hostile(seed, n), hostile(seed+100, n), hostile(seed+200, n)
					}
					var want []float32
					atLevels(t, func(t *testing.T) {
						got := f(rows())
						if active == Generic {
							want = got
						}
						sameBits(t, fmt.Sprintf("length %d, seed %d", n, seed), got, want)
					})
				}
			}
		})
	}
}

// ulps is the distance of got from want in units of the last place of a float32 near
// want.
func ulps(got float32, want float64) float64 {
	_, exp := math.Frexp(want)
	return math.Abs(float64(got)-want) / math.Ldexp(1, max(exp-24, -149))
}

func TestExpAccuracy(t *testing.T) {
	worst, at := 0., float32(0)
	for b := uint32(0); b < 0x42b17218; b += 997 { // up to 88.72
		for _, x := range []float32{math.Float32frombits(b), -math.Float32frombits(b), -88 - math.Float32frombits(b)/6} {
			if u := ulps(exp32(x), math.Exp(float64(x))); u > worst {
				worst, at = u, x
			}
		}
	}
	t.Logf("greatest error %.3f units in the last place, at %v", worst, at)
	if worst > 1 {
		t.Errorf("exp(%v) is off by %.2f units in the last place", at, worst)
	}
	for x, want := range map[float32]float32{0: 1, 100: float32(math.Inf(1)), -110: 0, negInf: 0, float32(math.Inf(1)): float32(math.Inf(1))} {
		if got := exp32(x); got != want {
			t.Errorf("exp(%v) = %v, want %v", x, got, want)
		}
	}
}

func TestActivationAccuracy(t *testing.T) {
	worst := map[string]float64{}
	for i := -20000; i <= 20000; i++ {
		x := float32(i) / 1000
		d := float64(x)
		one := []float32{1}
		y := []float32{0}
		note := func(name string, got float32, want, scale float64) {
			worst[name] = max(worst[name], math.Abs(float64(got)-want)/scale)
		}
		SiLUMul(y, []float32{x}, one)
		note("silu", y[0], d/(1+math.Exp(-d)), 1+math.Abs(d))
		GELUTanhMul(y, []float32{x}, one)
		note("gelu tanh", y[0], 0.5*d*(1+math.Tanh(math.Sqrt(2/math.Pi)*(d+0.044715*d*d*d))), 1+math.Abs(d))
		GELUErfMul(y, []float32{x}, one)
		note("gelu erf", y[0], 0.5*d*math.Erfc(-d/math.Sqrt2), 1+math.Abs(d))
		if x != 0 {
			note("tanh (relative)", tanh32(x), math.Tanh(d), math.Abs(math.Tanh(d)))
		}
	}
	for name, w := range worst {
		t.Logf("%s: greatest error %.3g", name, w)
		if !(w < 3e-7) {
			t.Errorf("%s is off by %.3g", name, w)
		}
	}
}

func TestReductionsAgainstFloat64(t *testing.T) {
	r := newRand(5)
	x, y := normals(r, 49152), normals(r, 49152)
	var dot, sum float64
	for i := range x {
		dot += float64(x[i]) * float64(y[i])
		sum += math.Exp(float64(x[i]))
	}
	near(t, "Dot", []float32{Dot(x, y)}, []float64{dot}, 1e-5)
	if d := math.Abs(LogSumExp(x) - math.Log(sum)); d > 1e-6 {
		t.Errorf("LogSumExp is off by %.3g", d)
	}
	soft := append([]float32{}, x...)
	Softmax(soft)
	want := make([]float64, len(x))
	for i := range x {
		want[i] = 49152 * math.Exp(float64(x[i])) / sum
	}
	Scale(soft, 49152)
	near(t, "Softmax", soft, want, 1e-5)

	norm := make([]float32, 100)
	RMSNorm(norm, x[:100], y, 1e-6, 0)
	var ss float64
	for _, v := range x[:100] {
		ss += float64(v) * float64(v)
	}
	for i := range norm {
		want[i] = float64(x[i]) / math.Sqrt(ss/100+1e-6) * float64(y[i])
	}
	near(t, "RMSNorm", norm, want[:100], 1e-6)
}

func TestMaxAndArgMax(t *testing.T) {
	nan := float32(math.NaN())
	for _, c := range []struct {
		x   []float32
		max float32
		at  int
	}{
		{nil, negInf, -1},
		{[]float32{nan}, negInf, -1},
		{[]float32{nan, 1, 2, 2, nan}, 2, 2},
		{[]float32{negInf, negInf}, negInf, 0},
		{append(make([]float32, 40), 0, 1, 1), 1, 41},
		{append(make([]float32, 40), -1, -1), 0, 0},
	} {
		atLevels(t, func(t *testing.T) {
			if got := Max(c.x); got != c.max {
				t.Errorf("Max(%v) = %v, want %v", c.x, got, c.max)
			}
			if got := ArgMax(c.x); got != c.at {
				t.Errorf("ArgMax(%v) = %v, want %v", c.x, got, c.at)
			}
		})
	}
}

func TestLogSumExpEdges(t *testing.T) {
	inf := math.Inf(1)
	for _, c := range []struct {
		x    []float32
		want float64
	}{
		{nil, -inf},
		{[]float32{negInf, negInf}, -inf},
		{[]float32{1, float32(inf)}, inf},
		{[]float32{1, float32(math.NaN())}, math.NaN()},
		{[]float32{float32(inf), float32(math.NaN())}, math.NaN()},
		{[]float32{1000, 1000}, 1000 + math.Ln2},
	} {
		got := LogSumExp(c.x)
		if !(math.Abs(got-c.want) < 1e-6) && got != c.want && !(math.IsNaN(got) && math.IsNaN(c.want)) {
			t.Errorf("LogSumExp(%v) = %v, want %v", c.x, got, c.want)
		}
	}
}

// Every half-precision and bfloat16 value, at every level.
func TestWidenExhaustive(t *testing.T) {
	all := make([]uint16, 1<<16)
	for i := range all {
		all[i] = uint16(i)
	}
	atLevels(t, func(t *testing.T) {
		got := make([]float32, len(all))
		WidenF16(got, all)
		for i, v := range got {
			sign, exp, man := 1-2*float64(i>>15), i>>10&31, float64(i&1023)
			want := sign * math.Ldexp(1024+man, exp-25)
			switch {
			case exp == 0:
				want = sign * math.Ldexp(man, -24)
			case exp == 31 && man == 0:
				want = sign * math.Inf(1)
			case exp == 31:
				want = math.NaN()
			}
			if float64(v) != want && !(v != v && want != want) {
				t.Fatalf("half %#04x is %v, want %v", i, v, want)
			}
		}
		WidenBF16(got, all)
		back := make([]uint16, len(all))
		RoundBF16(back, got)
		for i, v := range got {
			if b := math.Float32bits(v); b != uint32(i)<<16 {
				t.Fatalf("bfloat16 %#04x is %#x", i, b)
			}
			if back[i] != all[i] && v == v {
				t.Fatalf("bfloat16 %#04x rounds to %#04x", i, back[i])
			}
		}
	})
}

func TestRoundBF16(t *testing.T) {
	for in, want := range map[uint32]uint16{
		0x3f808000: 0x3f80, 0x3f818000: 0x3f82, 0x3f808001: 0x3f81, 0x3f807fff: 0x3f80, // ties to even
		0x7f7fffff: 0x7f80, 0xff800000: 0xff80, 0x7f800001: 0x7fc0, 0x00000001: 0, 0x80018000: 0x8002,
	} {
		x := make([]float32, 17)
		for i := range x {
			x[i] = math.Float32frombits(in)
		}
		atLevels(t, func(t *testing.T) {
			got := make([]uint16, len(x))
			RoundBF16(got, x)
			for i, g := range got {
				if g != want {
					t.Errorf("element %d: %#08x rounds to %#04x, want %#04x", i, in, g, want)
				}
			}
		})
	}
}
