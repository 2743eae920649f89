package score

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/linalg"
	"github.com/coppice-lm/coppice/tensor"
)

// activations are made-up vectors of a layer: correlated, of different sizes, with a mean,
// and with the neurons in dead never firing.
func activations(seed uint64, n, d int, dead ...int) [][]float64 {
	r := rand.New(rand.NewPCG(seed, 3))
	x := make([][]float64, n)
	mix := make([]float64, d)
	for j := range mix {
		mix[j] = r.NormFloat64()
	}
	for i := range x {
		x[i] = make([]float64, d)
		common := r.NormFloat64()
		for j := range d {
			x[i][j] = math.Exp(0.1*float64(j%17)) * (r.NormFloat64() + common*mix[j] + 0.3)
			if slices.Contains(dead, j) {
				x[i][j] = 0
			}
		}
	}
	return x
}

func momentsOf(x [][]float64, d int) Moments {
	m := NewMoments(d)
	for _, a := range x {
		m.N++
		for i := range d {
			m.Sum[i] += a[i]
			for j := 0; j <= i; j++ {
				m.Gram[i*(i+1)/2+j] += a[i] * a[j]
			}
		}
	}
	return m
}

// layerOf makes a layer's statistics of three sets of vectors.
func layerOf(body, first, held [][]float64, d int) *LayerStats {
	return &LayerStats{d, momentsOf(body, d), momentsOf(first, d), momentsOf(held, d)}
}

// dense is a small matrix for the oracles.
type dense [][]float64

func denseH(x [][]float64, d int) dense {
	h := make(dense, d)
	for i := range h {
		h[i] = make([]float64, d)
		for j := range h[i] {
			for _, a := range x {
				h[i][j] += a[i] * a[j] / float64(len(x))
			}
		}
	}
	return h
}

// inverse by Gauss-Jordan with pivoting, nothing shared with package linalg.
func (m dense) inverse() dense {
	n := len(m)
	a := make(dense, n)
	for i := range a {
		a[i] = append(slices.Clone(m[i]), make([]float64, n)...)
		a[i][n+i] = 1
	}
	for c := range n {
		p := c
		for r := c; r < n; r++ {
			if math.Abs(a[r][c]) > math.Abs(a[p][c]) {
				p = r
			}
		}
		a[c], a[p] = a[p], a[c]
		f := a[c][c]
		for k := range a[c] {
			a[c][k] /= f
		}
		for r := range n {
			if f := a[r][c]; r != c && f != 0 {
				for k := range a[r] {
					a[r][k] -= f * a[c][k]
				}
			}
		}
	}
	for i := range a {
		a[i] = a[i][n:]
	}
	return a
}

func (m dense) add(l float64) dense {
	a := make(dense, len(m))
	for i := range m {
		a[i] = slices.Clone(m[i])
		a[i][i] += l
	}
	return a
}

func (m dense) trace() float64 {
	t := 0.0
	for i := range m {
		t += m[i][i]
	}
	return t
}

func randomMatrix(seed uint64, rows, cols int) *linalg.Matrix {
	r := rand.New(rand.NewPCG(seed, 5))
	m := linalg.New(rows, cols)
	for i := range m.Data {
		m.Data[i] = r.NormFloat64()
	}
	return m
}

func TestSimpleScoresAgainstDefinition(t *testing.T) {
	const d, h = 23, 11
	x := activations(1, 90, d, 4)
	w := randomMatrix(2, h, d)
	s := layerOf(x[:70], nil, x[70:], d)
	H := denseH(x, d)
	l := 0.01 * H.trace() / d
	inv := H.add(l).inverse()
	opt := CalibratedOptions{Cap: 1, Damping: 0.01, Threads: 2}
	for _, m := range []Method{Activation, Fluctuation, Leverage} {
		got, err := scoreLayer(m, s, w, opt)
		if err != nil {
			t.Fatal(err)
		}
		for j := range d {
			norm, mean, sum := 0.0, 0.0, 0.0
			for i := range h {
				norm += w.At(i, j) * w.At(i, j)
			}
			for _, a := range x {
				mean += a[j] / float64(len(x))
				sum += a[j] * a[j]
			}
			variance := 0.0
			for _, a := range x {
				variance += (a[j] - mean) * (a[j] - mean) / float64(len(x))
			}
			leverage := 0.0 // [H (H+lI)^-1]_jj
			for k := range d {
				leverage += H[j][k] * inv[k][j]
			}
			want := map[Method]float64{
				Activation:  math.Sqrt(sum/float64(len(x))) * math.Sqrt(norm),
				Fluctuation: variance * norm,
				Leverage:    leverage,
			}[m]
			if math.Abs(float64(got[j])-want) > 1e-5*(1e-3+want) {
				t.Errorf("%s: neuron %d scores %v, want %v", m, j, got[j], want)
			}
		}
		if got[4] != 0 || slices.Min(got) != 0 {
			t.Errorf("%s: the dead neuron scores %v", m, got[4])
		}
	}
}

func TestNothingFires(t *testing.T) {
	const d = 12
	x := make([][]float64, 50)
	for i := range x {
		x[i] = make([]float64, d)
	}
	layer := layerOf(x, x[:3], x[:5], d)
	for _, m := range CalibratedMethods {
		scores, err := scoreLayer(m, layer, randomMatrix(1, 5, d), CalibratedOptions{Cap: 0.5, Damping: 1e-3, Threads: 1})
		if err != nil || slices.Min(scores) != 0 || slices.Max(scores) != 0 {
			t.Errorf("%s: %v, %v", m, scores, err)
		}
	}
}

func TestFirstTokensAreCapped(t *testing.T) {
	const d = 8
	body, first := activations(1, 60, d), activations(2, 4, d)
	for _, a := range first { // massive
		a[2] *= 1000
	}
	s := layerOf(body, first, nil, d)
	share := func(limit float64) float64 {
		h, _ := s.Second(AllTokens, limit, 1)
		without, _ := s.Second(AllTokens, 0, 1)
		// H = (B + wF)/(n + wm): recover the share of wF from the two traces.
		w := firstWeight(s.Body.Trace(), s.First.Trace(), limit)
		n := 60 + w*4
		return 1 - without.Trace()*60/n/h.Trace()
	}
	for limit, want := range map[float64]float64{0.5: 0.5, 0.1: 0.1, 0: 0} {
		if got := share(limit); math.Abs(got-want) > 1e-9 {
			t.Errorf("a cap of %v gives first tokens %v of the trace", limit, got)
		}
	}
	if got := share(1); got < 0.99 {
		t.Errorf("without a cap first tokens have %v of the trace", got)
	}
	small := layerOf(body, body[:2], nil, d)
	a, _ := small.Second(AllTokens, 0.5, 1)
	b, _ := small.Second(AllTokens, 1, 1)
	if !slices.Equal(a.Data, b.Data) {
		t.Error("first tokens with a small share are scaled")
	}
}

// writeStats makes a file of statistics for a head.
func writeStats(t *testing.T, path string, head StatsHead, layers ...*LayerStats) *Stats {
	t.Helper()
	w, err := CreateStats(path, head)
	if err != nil {
		t.Fatal(err)
	}
	for l, s := range layers {
		if err := w.WriteLayer(l, s); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	st, err := OpenStats(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

func TestStatsFileAndMerge(t *testing.T) {
	const d = 20
	dir := t.TempDir()
	head := func(text string) StatsHead {
		return StatsHead{Version: StatsVersion, Model: "sha256:m", Tokenizer: "t", Text: text, Documents: 3, Context: 8, Rows: "packed", Body: 40, First: 5, Held: 10, Widths: []int{d}}
	}
	x, y := activations(1, 55, d), activations(2, 55, d)
	part := func(x [][]float64) *LayerStats {
		l := layerOf(x[:40], x[40:45], x[45:], d)
		l.Body.Stream, l.First.Stream, l.Held.Stream = Stream{3 + x[0][0], 1}, Stream{50, 2}, Stream{7, 4}
		return l
	}
	a := writeStats(t, filepath.Join(dir, "a"), head("sha256:a"), part(x))
	b := writeStats(t, filepath.Join(dir, "b"), head("sha256:b"), part(y))
	got, err := a.Layer(0)
	if err != nil || !slices.Equal(got.Body.Gram, part(x).Body.Gram) || !slices.Equal(got.Held.Sum, part(x).Held.Sum) {
		t.Fatalf("read back other sums: %v", err)
	}
	var merged [2]*Stats
	for i, pair := range [][2]*Stats{{a, b}, {b, a}} {
		path := filepath.Join(dir, fmt.Sprint("m", i))
		if err := MergeStats(path, pair[0], pair[1]); err != nil {
			t.Fatal(err)
		}
		if merged[i], err = OpenStats(path); err != nil {
			t.Fatal(err)
		}
		defer merged[i].Close()
	}
	one, _ := merged[0].Fingerprint()
	two, _ := merged[1].Fingerprint()
	if one != two || merged[0].Tokens() != 110 {
		t.Errorf("merged in the two orders: %s and %s, %d tokens", one, two, merged[0].Tokens())
	}
	all := slices.Concat(x[:40], y[:40])
	sum, err := merged[0].Layer(0)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range momentsOf(all, d).Gram {
		if math.Abs(sum.Body.Gram[i]-want) > 1e-12*(1+math.Abs(want)) {
			t.Fatalf("element %d of the merged sums is %v, want %v", i, sum.Body.Gram[i], want)
		}
	}
	if got.Body.Stream != part(x).Body.Stream || got.First.Stream != (Stream{50, 2}) || got.Held.Stream != (Stream{7, 4}) {
		t.Errorf("read back other sums of the stream: %v %v %v", got.Body.Stream, got.First.Stream, got.Held.Stream)
	}
	if want := (Stream{6 + x[0][0] + y[0][0], 2}); math.Abs(sum.Body.Stream.Energy-want.Energy) > 1e-12 || sum.Body.Stream.Weights != 2 || sum.First.Stream != (Stream{100, 4}) {
		t.Errorf("merged sums of the stream are %v and %v", sum.Body.Stream, sum.First.Stream)
	}
	if err := MergeStats(filepath.Join(dir, "c"), a, a); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("merging a text with itself: %v", err)
	}
	other := head("sha256:o")
	other.Model = "sha256:n"
	if err := MergeStats(filepath.Join(dir, "c"), a, writeStats(t, filepath.Join(dir, "o"), other, part(x))); err == nil {
		t.Error("statistics of two models were merged")
	}
}

func TestStatsOfAnotherModel(t *testing.T) {
	c := tiny(t, tensor.F32)
	st := writeStats(t, filepath.Join(t.TempDir(), "s"), StatsHead{Version: StatsVersion, Model: "sha256:x", Body: 1, Widths: []int{1}}, &LayerStats{1, momentsOf(activations(1, 1, 1), 1), NewMoments(1), NewMoments(1)})
	_, err := ComputeCalibrated(context.Background(), c, st, OBS, CalibratedOptions{Cap: 0.5, Damping: 1e-3, Threads: 1})
	if err == nil || !strings.Contains(err.Error(), "another model") {
		t.Error(err)
	}
}

// Statistics of another version are refused with what to do.
func TestStatsVersion(t *testing.T) {
	h := StatsHead{Version: 1, Body: 1, Widths: []int{1}}
	if err := h.check(); err == nil || !strings.Contains(err.Error(), "version 1") || !strings.Contains(err.Error(), "coppice calib") {
		t.Error(err)
	}
}
