package eval_test

import (
	"math"
	"testing"

	"github.com/coppice-lm/coppice/eval"
)

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance) {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

// bernoulli is n values, the first k of them 1 and the others 0.
func bernoulli(k, n int) []float64 {
	xs := make([]float64, n)
	for i := range k {
		xs[i] = 1
	}
	return xs
}

// An accuracy of 0.63425 over 3,270 records (2,074 right) is published with the standard
// error 0.0084239.
func TestStdErr(t *testing.T) {
	xs := bernoulli(2074, 3270)
	near(t, "mean", eval.Mean(xs), 0.63425, 5e-6)
	near(t, "stderr", eval.StdErr(xs), 0.0084239, 5e-8)
	if se := eval.StdErr([]float64{1}); !math.IsNaN(se) {
		t.Errorf("the standard error of one value is %v", se)
	}
}

// lm-eval's pooled_sample_stderr([0.031, 0.029, 0.0305], [250, 256, 250]).
func TestPooledStdErr(t *testing.T) {
	got := eval.PooledStdErr([]float64{0.031, 0.029, 0.0305}, []int{250, 256, 250})
	near(t, "pooled", got, 0.017414088461021028, 1e-15)
}

// Exact binomial probabilities, by scipy.stats.binomtest(min(b, c), b+c).pvalue.
func TestMcNemar(t *testing.T) {
	for _, c := range []struct {
		b, c int
		want float64
	}{
		{0, 0, 1}, {0, 1, 1}, {5, 5, 1}, {0, 5, 0.0625}, {1, 9, 0.021484375}, {9, 1, 0.021484375},
		{12, 25, 0.04703102743951604}, {100, 150, 0.0018833009350761602},
	} {
		near(t, "p", eval.McNemar(c.b, c.c), c.want, 1e-12)
	}
}

func TestPairedBootstrap(t *testing.T) {
	ones := make([]float64, 400)
	a, better, noise := make([]float64, 400), make([]float64, 400), make([]float64, 400)
	for i := range a {
		ones[i] = 1
		a[i] = -3 - float64(i%7)
		better[i] = a[i] + 0.5 + 0.1*float64(i%3)
		noise[i] = a[i] + float64(i%2) - 0.5
	}
	low, high, p := eval.PairedBootstrap(a, better, ones, ones)
	if !(0.58 < low && low < high && high < 0.62) || p > 0.001 {
		t.Errorf("a clear gain of 0.6: [%v, %v], p = %v", low, high, p)
	}
	low, high, p = eval.PairedBootstrap(a, noise, ones, ones)
	if !(low < 0 && 0 < high) || p < 0.5 {
		t.Errorf("no gain: [%v, %v], p = %v", low, high, p)
	}
	// The change of means has the standard error 0.5/sqrt(400) = 0.025, so the interval is
	// 2 * 1.96 * 0.025 wide.
	near(t, "width", high-low, 0.098, 0.005)
	if low, high, p = eval.PairedBootstrap(a, a, ones, ones); low != 0 || high != 0 || p != 1 {
		t.Errorf("the same values: [%v, %v], p = %v", low, high, p)
	}
	again, _, _ := eval.PairedBootstrap(a, noise, ones, ones)
	if first, _, _ := eval.PairedBootstrap(a, noise, ones, ones); first != again {
		t.Error("two runs over the same values differ")
	}
}
