package surgery

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/linalg"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/tensor"
)

// vectors are made-up activations, correlated and with a mean.
func vectors(seed uint64, n, d int) [][]float64 {
	r := rand.New(rand.NewPCG(seed, 1))
	mix := make([]float64, d)
	for j := range mix {
		mix[j] = r.NormFloat64()
	}
	x := make([][]float64, n)
	for i := range x {
		x[i] = make([]float64, d)
		common := r.NormFloat64()
		for j := range d {
			x[i][j] = r.NormFloat64() + common*mix[j] + 0.5
		}
	}
	return x
}

func moments(x [][]float64, d int) score.Moments {
	m := score.NewMoments(d)
	m.N = int64(len(x))
	for _, a := range x {
		for i := range d {
			m.Sum[i] += a[i]
			for j := 0; j <= i; j++ {
				m.Gram[i*(i+1)/2+j] += a[i] * a[j]
			}
		}
	}
	return m
}

// statsOf makes a file of statistics for a model: body and held-back vectors of each
// layer, which change may edit.
func statsOf(t *testing.T, c *checkpoint.Checkpoint, seed uint64, change func(layer int, x [][]float64)) *score.Stats {
	t.Helper()
	model, err := c.Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	head := score.StatsHead{Version: score.StatsVersion, Model: model, Text: fmt.Sprint("sha256:", seed), Rows: "packed", Context: 8, Body: 200, First: 2, Held: 50, Widths: c.Spec.Widths}
	path := filepath.Join(t.TempDir(), "stats")
	w, err := score.CreateStats(path, head)
	if err != nil {
		t.Fatal(err)
	}
	for l, d := range head.Widths {
		x := vectors(seed+uint64(l), 252, d)
		if change != nil {
			change(l, x)
		}
		if err := w.WriteLayer(l, &score.LayerStats{Width: d, Body: moments(x[:200], d), First: moments(x[200:202], d), Held: moments(x[202:], d)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	st, err := score.OpenStats(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

func half(t *testing.T, c *checkpoint.Checkpoint) *plan.Plan {
	t.Helper()
	s, err := score.Compute(context.Background(), c, score.Random, score.Options{Seed: 3, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	ratio := 0.5
	p, err := plan.Build(s, &c.Spec, plan.Rule{Ratio: &ratio, Align: 1, AlignMode: plan.Nearest})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// objective is what least squares minimises: the mean of |(W_K' - W) a|^2, where W_K' acts
// on the kept values alone, plus l |W_K' - W_K|^2; straight from the vectors.
func objective(w, fitted *linalg.Matrix, x [][]float64, keep []int, l float64) float64 {
	sum := 0.0
	for _, a := range x {
		for i := range w.Rows {
			y := 0.0
			for j, v := range a {
				y -= w.At(i, j) * v
			}
			for k, j := range keep {
				y += fitted.At(i, k) * a[j]
			}
			sum += y * y / float64(len(x))
		}
	}
	for i := range w.Rows {
		for k, j := range keep {
			d := fitted.At(i, k) - w.At(i, j)
			sum += l * d * d
		}
	}
	return sum
}

// No small change of any weight makes the objective smaller, and its gradient vanishes.
func TestLeastSquaresIsTheMinimum(t *testing.T) {
	const d, h = 14, 5
	x := vectors(3, 80, d)
	keep := []int{0, 2, 3, 7, 8, 13}
	s := &score.LayerStats{Width: d, Body: moments(x, d), First: score.NewMoments(d), Held: score.NewMoments(d)}
	H, _ := s.Second(score.AllTokens, 1, 1)
	r := rand.New(rand.NewPCG(2, 2))
	w := linalg.New(h, d)
	for i := range w.Data {
		w.Data[i] = r.NormFloat64()
	}
	for _, damping := range []float64{1e-6, 1e-2, 1} {
		fitted, err := leastSquares(w, H, keep, damping, 2)
		if err != nil {
			t.Fatal(err)
		}
		l := damping * H.Trace() / d
		best := objective(w, fitted, x, keep, l)
		for i := range fitted.Data {
			const step = 1e-4
			at := fitted.Data[i]
			fitted.Data[i] = at + step
			more := objective(w, fitted, x, keep, l)
			fitted.Data[i] = at - step
			less := objective(w, fitted, x, keep, l)
			fitted.Data[i] = at
			if gradient := (more - less) / (2 * step); math.Abs(gradient) > 1e-7*best/step || more < best || less < best {
				t.Fatalf("damping %g: weight %d: gradient %g at an objective of %g", damping, i, gradient, best)
			}
		}
	}
	// The error on other vectors is the definition's.
	fitted, _ := leastSquares(w, H, keep, 1e-2, 1)
	y := vectors(9, 30, d)
	hy, _ := (&score.LayerStats{Width: d, Body: moments(y, d), First: score.NewMoments(d), Held: score.NewMoments(d)}).Second(score.AllTokens, 1, 1)
	if got, want := errorsOf(w, hy, keep, 1).of(fitted), objective(w, fitted, y, keep, 0); math.Abs(got-want) > 1e-9*want {
		t.Errorf("output error %v, want %v", got, want)
	}
}

func TestRefitOfEverythingChangesNothing(t *testing.T) {
	c := model(t, tensor.BF16, nil)
	p := keepAll(t, c)
	if err := PlanRefit(context.Background(), p, c, statsOf(t, c, 1, nil), RefitOptions{Method: plan.LeastSquares, Cap: 0.5, Threads: 1}); err != nil {
		t.Fatal(err)
	}
	out := run(t, c, p, tensor.Invalid) // needs no statistics
	for _, i := range c.Tensors() {
		want, _ := values(t, c, i.Name)
		if got, _ := values(t, out, i.Name); !bytes.Equal(want, got) {
			t.Errorf("%s differs", i.Name)
		}
	}
}

// runWith runs a program that refits, at a number of threads.
func runWith(t *testing.T, c *checkpoint.Checkpoint, p *plan.Plan, st *score.Stats, threads int) *checkpoint.Checkpoint {
	t.Helper()
	prog, err := Compile(p, c, tensor.Invalid)
	if err != nil {
		t.Fatal(err)
	}
	if !prog.NeedsStats() {
		t.Fatal("the program needs no statistics")
	}
	if err := prog.Attach(st, threads); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "out")
	sink, err := checkpoint.Create(dir, c.Path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Abort()
	o := Options{Threads: threads, ShardBytes: 20_000}
	if err := prog.Run(context.Background(), c, sink, nil, o); err != nil {
		t.Fatal(err)
	}
	out := open(t, dir)
	if err := prog.Verify(context.Background(), c, out, o); err != nil {
		t.Error(err)
	}
	return out
}

func floats(t *testing.T, c *checkpoint.Checkpoint, name string) []float32 {
	t.Helper()
	b, info := values(t, c, name)
	v := make([]float32, info.Rows()*info.RowElements())
	if err := tensor.Decode(v, b, info.DType); err != nil {
		t.Fatal(err)
	}
	return v
}

// The plan's refit comes out of the program, on all threads the same, padded and with a
// layer dropped; other statistics are refused.
func TestRefitProgram(t *testing.T) {
	c := model(t, tensor.F32, nil)
	st := statsOf(t, c, 5, nil)
	p := half(t, c)
	p.Layers[1] = plan.Layer{Layer: 1, Drop: true, Keep: []int{}}
	for _, l := range []int{0, 2} {
		p.Layers[l].Width += 4 // zero neurons
	}
	if err := PlanRefit(context.Background(), p, c, st, RefitOptions{Method: plan.LeastSquares, Cap: 0.5, Threads: 2}); err != nil {
		t.Fatal(err)
	}
	for l, layer := range p.Layers {
		if !layer.Drop && !slices.Contains(Dampings, layer.Damping) {
			t.Errorf("layer %d: damping %v", l, layer.Damping)
		}
	}
	b, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if p, err = plan.Decode(b); err != nil {
		t.Fatal(err)
	}
	a, other := runWith(t, c, p, st, 1), runWith(t, c, p, st, 4)
	const name = "model.layers.1.mlp.down_proj.weight" // layer 2 of the input
	got := floats(t, a, name)
	if !slices.Equal(got, floats(t, other, name)) {
		t.Error("the weights depend on the number of threads")
	}
	layer := p.Layers[2]
	w, err := score.DownProj(c, 2)
	if err != nil {
		t.Fatal(err)
	}
	s, err := st.Layer(2)
	if err != nil {
		t.Fatal(err)
	}
	H, _ := s.Second(score.AllTokens, 0.5, 1)
	want, err := leastSquares(w, H, layer.Keep, layer.Damping, 1)
	if err != nil {
		t.Fatal(err)
	}
	for i := range want.Rows {
		for j := range layer.Width {
			x := float32(0)
			if j < want.Cols {
				x = float32(want.At(i, j))
			}
			if got[i*layer.Width+j] != x {
				t.Fatalf("element %d, %d is %v, want %v", i, j, got[i*layer.Width+j], x)
			}
		}
	}
	prog, err := Compile(p, c, tensor.Invalid)
	if err != nil {
		t.Fatal(err)
	}
	if err := prog.Attach(statsOf(t, c, 6, nil), 1); err == nil || !strings.Contains(err.Error(), "not the statistics") {
		t.Errorf("other statistics: %v", err)
	}
	sink, err := checkpoint.Create(filepath.Join(t.TempDir(), "x"), c.Path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Abort()
	if err := prog.Run(context.Background(), c, sink, nil, opt); err == nil || !strings.Contains(err.Error(), "--stats") {
		t.Errorf("without statistics: %v", err)
	}
}

// A damping that is chosen has the least error on held-back vectors that are unlike the
// body: here the body says nothing about them, so the most damping wins.
func TestDampingIsChosenOnHeldBackText(t *testing.T) {
	c := model(t, tensor.F32, nil)
	unlike := statsOf(t, c, 5, func(layer int, x [][]float64) {
		other := vectors(uint64(100+layer), len(x), len(x[0]))
		r := rand.New(rand.NewPCG(uint64(layer), 8))
		for i := range x {
			for j := range x[i] {
				if i >= 202 {
					x[i][j] = r.NormFloat64() // uncorrelated: a refit can only do harm
				} else {
					x[i][j] = other[i][j]
				}
			}
		}
	})
	alike := statsOf(t, c, 5, func(_ int, x [][]float64) {
		for i := range x {
			x[i] = x[i%50]
		}
	})
	chosen := func(st *score.Stats) []float64 {
		p := half(t, c)
		if err := PlanRefit(context.Background(), p, c, st, RefitOptions{Method: plan.LeastSquares, Cap: 0.5, Threads: 1}); err != nil {
			t.Fatal(err)
		}
		var d []float64
		for _, l := range p.Layers {
			d = append(d, l.Damping)
		}
		return d
	}
	if got := chosen(unlike); slices.Min(got) != slices.Max(Dampings) {
		t.Errorf("held-back text unlike the rest: dampings %v", got)
	}
	if got := chosen(alike); slices.Max(got) != slices.Min(Dampings) {
		t.Errorf("held-back text that is the rest again: dampings %v", got)
	}
}

// Report calib/dead: neurons that never fire, in one layer one, in another all.
func TestDeadNeurons(t *testing.T) {
	c := model(t, tensor.F32, nil)
	st := statsOf(t, c, 5, func(layer int, x [][]float64) {
		for i := range x {
			switch layer {
			case 0:
				x[i][3] = 0
			case 1:
				clear(x[i])
			}
		}
	})
	for _, method := range score.CalibratedMethods {
		var notes []string
		note := func(s string) { notes = append(notes, s) }
		s, err := score.ComputeCalibrated(context.Background(), c, st, method, score.CalibratedOptions{Cap: 0.5, Damping: 1e-3, Threads: 1, Note: note})
		if err != nil {
			t.Fatal(err)
		}
		ratio := 0.5
		p, err := plan.Build(s, &c.Spec, plan.Rule{Ratio: &ratio, Align: 1, AlignMode: plan.Nearest})
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(p.Layers[0].Keep, 3) {
			t.Errorf("%s keeps a dead neuron", method)
		}
		if err := PlanRefit(context.Background(), p, c, st, RefitOptions{Method: plan.LeastSquares, Cap: 0.5, Threads: 1, Note: note}); err != nil {
			t.Fatal(err)
		}
		out := runWith(t, c, p, st, 2)
		if err := CheckWeights(context.Background(), out, opt); err != nil {
			t.Error(err)
		}
		if all := strings.Join(notes, "\n"); !strings.Contains(all, "layer 1: no neuron fires") || !strings.Contains(all, "49 neurons never fire") {
			t.Errorf("%s: noted %q", method, notes)
		}
	}
}

// The bias of a layer is what its lost neurons add on average; the other biases that
// mlp_bias brings are zero, and a bias that was there is added to.
func TestBias(t *testing.T) {
	for _, had := range []bool{false, true} {
		c := model(t, tensor.F32, map[string]any{"mlp_bias": had})
		st := statsOf(t, c, 5, nil)
		p := half(t, c)
		if err := PlanRefit(context.Background(), p, c, st, RefitOptions{Method: plan.Bias, Cap: 1, Threads: 2}); err != nil {
			t.Fatal(err)
		}
		out := runWith(t, c, p, st, 2)
		if on, err := out.Config.Bool("mlp_bias", false); err != nil || !on || !out.Spec.MLPBias {
			t.Errorf("mlp_bias is %v, %v", on, err)
		}
		const layer = 1
		prefix := "model.layers.1.mlp."
		got := floats(t, out, prefix+"down_proj.bias")
		w, _ := score.DownProj(c, layer)
		s, _ := st.Layer(layer)
		for i := range got {
			want := 0.0
			if had {
				want = float64(floats(t, c, prefix+"down_proj.bias")[i])
			}
			for j := range w.Cols {
				if !slices.Contains(p.Layers[layer].Keep, j) {
					want += w.At(i, j) * (s.Body.Sum[j] + s.First.Sum[j] + s.Held.Sum[j]) / 252
				}
			}
			if math.Abs(float64(got[i])-want) > 1e-6*(1+math.Abs(want)) {
				t.Fatalf("element %d is %v, want %v", i, got[i], want)
			}
		}
		for _, name := range []string{"gate_proj.bias", "up_proj.bias"} {
			v := floats(t, out, prefix+name)
			if len(v) != len(p.Layers[layer].Keep) || !had && (slices.Min(v) != 0 || slices.Max(v) != 0) {
				t.Errorf("%s: %v", name, v)
			}
		}
	}
	c := model(t, tensor.F32, map[string]any{"model_type": "gemma2"})
	if err := CheckRefit(&c.Spec, plan.Bias); err == nil || !strings.Contains(err.Error(), "gemma2") {
		t.Errorf("a family without biases: %v", err)
	}
}
