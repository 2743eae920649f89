package enginetest

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
)

// testGradient compares gradients with differences of the loss, for every family; where
// time is short, for one model of each.
func testGradient(t *testing.T, _ Opener, layerwise LayerwiseOpener) {
	cases, err := Recordings()
	if err != nil {
		t.Fatal(err)
	}
	taken := map[string]bool{}
	for _, c := range cases {
		family, _, _ := strings.Cut(c.Name, "-")
		if testing.Short() && taken[family] {
			continue
		}
		taken[family] = true
		t.Run(c.Name, func(t *testing.T) {
			m := model(t, string(c.Config))
			batch, _ := forest(80) // more than a tile of queries
			label(batch)
			l := layerwise(t, m, Options{Threads: 2, MaxLength: 128}).(engine.Backward)
			checkGradient(t, l, batch)
			batch, _ = forest(9)
			label(batch)
			checkMLPGradient(t, m, l, batch)
		})
	}
	t.Run("large vocabulary", func(t *testing.T) {
		m := model(t, With(TinyLlama, map[string]any{"vocab_size": 2500, "final_logit_softcapping": 30.0}))
		batch, _ := forest(80)
		label(batch)
		checkGradient(t, layerwise(t, m, Options{Threads: 2}).(engine.Backward), batch)
	})
	t.Run("sampled", func(t *testing.T) { checkSampled(t, layerwise(t, model(t, TinyLlama), Options{}).(engine.Backward)) })
	t.Run("refusals", func(t *testing.T) { checkGradientRefusals(t, layerwise) })
}

// label gives every third target a label, from 0.3 to 1.
func label(b engine.Batch) {
	for _, n := range b.Nodes {
		for i := 0; i < len(n.Targets); i += 3 {
			n.Targets[i].Label = min(1, 0.3+0.1*float32(i))
		}
	}
}

// checkMLPGradient compares the gradients by the matrices of each MLP, which are made of
// what an observer sees, with differences of the loss.
func checkMLPGradient(t *testing.T, m *Model, l engine.Backward, batch engine.Batch) {
	t.Helper()
	ctx := context.Background()
	run := func(observe engine.MLPGradientObserver) float64 {
		streams := [][]float32{make([]float32, batch.Tokens()*l.Model().Hidden)}
		must(t, l.Embed(ctx, batch, streams[0]))
		for i := range l.Model().Layers {
			next := slices.Clone(streams[i])
			must(t, loaded(t, l, i).Run(ctx, batch, next, nil))
			streams = append(streams, next)
		}
		last := streams[len(streams)-1]
		reference := make([]float32, len(last))
		must(t, l.Embed(ctx, batch, reference)) // which the weights of layers do not change
		gradient := make([]float32, len(last))
		all, err := l.DivergenceGradient(ctx, batch, reference, last, gradient)
		must(t, err)
		for i := len(l.Model().Layers) - 1; observe != nil && i >= 0; i-- {
			must(t, loaded(t, l, i).Back(ctx, batch, streams[i], gradient, observe))
		}
		return sum(all)
	}
	type matrix struct {
		layer int
		what  string
	}
	gradients := map[matrix][]float64{}
	run(func(g engine.MLPGradient) error {
		for _, p := range []struct {
			what   string
			d, in  []float32
			out, n int
		}{{"gate", g.Gate, g.Input, g.Width, g.Hidden}, {"up", g.Up, g.Input, g.Width, g.Hidden}, {"down", g.Output, g.Activations, g.Hidden, g.Width}} {
			at := matrix{g.Layer, p.what}
			if gradients[at] == nil {
				gradients[at] = make([]float64, p.out*p.n)
			}
			for r := range g.Rows {
				for o, d := range p.d[r*p.out:][:p.out] {
					for i, x := range p.in[r*p.n:][:p.n] {
						gradients[at][o*p.n+i] += float64(d) * float64(x)
					}
				}
			}
		}
		return nil
	})
	for at, gradient := range gradients {
		from := &m.Transformer.Layers[at.layer]
		p := map[string]*arch.Projection{"gate": &from.Gate, "up": &from.Up, "down": &from.Down}[at.what]
		weights := m.Weights[p.Weight]
		weights = weights[len(weights)/p.OfRows*p.FirstRow:][:len(gradient)]
		norm, size := 0.0, 0.0
		for i, g := range gradient {
			norm += g * g
			size += float64(weights[i]) * float64(weights[i])
		}
		norm = math.Sqrt(norm)
		kept := slices.Clone(weights)
		slope := func(step float64) float64 {
			var loss [2]float64
			for side, sign := range []float64{1, -1} {
				for i, g := range gradient {
					weights[i] = kept[i] + float32(sign*step/norm*g)
				}
				loss[side] = run(nil)
			}
			copy(weights, kept)
			return (loss[0] - loss[1]) / (2 * step)
		}
		step := 1e-2 * math.Sqrt(size) // where gradients are small, less is noise
		if want := (4*slope(step/2) - slope(step)) / 3; math.Abs(norm-want) > 5e-3*want {
			t.Errorf("layer %d, %s: a gradient of length %v, differences give %v", at.layer, at.what, norm, want)
		}
	}
}

// checkSampled compares the mean of sampled gradients with what they are sampled from: a
// model's own predictions, by which the negative log-probability has the mean gradient 0,
// and the same for the same seed alone.
func checkSampled(t *testing.T, l engine.Backward) {
	ctx := context.Background()
	batch := engine.Batch{Nodes: []engine.Node{next(sequence(4, 20))}}
	_, streams := layered(t, l, nil, batch)
	mean, one, again := make([]float64, len(streams[0])), make([]float32, len(streams[0])), make([]float32, len(streams[0]))
	const n = 400
	size := 0.0
	for seed := range n {
		must(t, l.SampledGradient(ctx, batch, streams[0], uint64(seed), one))
		for i, g := range one {
			mean[i] += float64(g) / n
		}
		size += dot(one, one) / n
	}
	squares := 0.0
	for _, g := range mean {
		squares += g * g
	}
	// Of independent gradients the mean has 1/n of their squared length.
	if ratio := squares / (size / n); !(ratio > 0.7 && ratio < 1.4) {
		t.Errorf("the mean of %d sampled gradients has %v times the squared length that chance gives", n, ratio)
	}
	must(t, l.SampledGradient(ctx, batch, streams[0], n-1, again))
	if !slices.EqualFunc(one, again, equalBits) {
		t.Error("one seed gave two gradients")
	}
	must(t, l.SampledGradient(ctx, batch, streams[0], n, again))
	if slices.Equal(one, again) {
		t.Error("two seeds gave one gradient")
	}
}

// checkGradientRefusals: threads, and the batch that a sequence is in, change no bit of its
// gradient, and less precision changes little; what cannot be differentiated is an error.
func checkGradientRefusals(t *testing.T, layerwise LayerwiseOpener) {
	ctx := context.Background()
	whole, parts := forest(70)
	gradient := func(precision engine.Precision, threads int, batches ...engine.Batch) (all []float32) {
		l := layerwise(t, model(t, TinyLlama), Options{Precision: precision, Threads: threads}).(engine.Backward)
		_, streams := layered(t, l, nil, batches...)
		for i, b := range batches {
			x := make([]float32, len(streams[i]))
			must(t, l.Embed(ctx, b, x))
			g := make([]float32, len(x))
			_, err := l.DivergenceGradient(ctx, b, x, streams[i], g)
			must(t, err)
			must(t, loaded(t, l, 0).Back(ctx, b, x, g, nil))
			all = append(all, g...)
		}
		return all
	}
	want := gradient(engine.F32, 1, whole)
	for what, got := range map[string][]float32{"three threads": gradient(engine.F32, 3, whole), "two batches": gradient(engine.F32, 2, parts...)} {
		if !slices.EqualFunc(got, want, equalBits) {
			t.Errorf("%s: other bits", what)
		}
	}
	exact := math.Sqrt(square(want))
	for precision, tolerance := range map[engine.Precision]float64{engine.BF16: 0.03, engine.F16: 0.003} {
		got := gradient(precision, 2, whole)
		for i, v := range want {
			got[i] -= v
		}
		if off := math.Sqrt(square(got)) / exact; !(off > 0 && off < tolerance) {
			t.Errorf("%v: off by %v of the gradient's length", precision, off)
		}
	}
	l := layerwise(t, model(t, TinyLlama), Options{Precision: engine.Q8_0}).(engine.Backward)
	x := make([]float32, whole.Tokens()*l.Model().Hidden)
	if err := loaded(t, l, 0).Back(ctx, whole, x, x, nil); err == nil {
		t.Error("q8_0: no error")
	}
	l = layerwise(t, model(t, TinyLlama), Options{}).(engine.Backward)
	if err := loaded(t, l, 0).Back(ctx, whole, x[1:], x, nil); err == nil {
		t.Error("a stream that is too short: no error")
	}
	x[0] = float32(math.NaN())
	if _, err := l.DivergenceGradient(ctx, whole, make([]float32, len(x)), x, make([]float32, len(x))); !errors.As(err, new(*engine.NonFiniteError)) {
		t.Errorf("a stream that is no number: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := loaded(t, l, 0).Back(ended, whole, x, x, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// loaded is a layer of a model.
func loaded(t *testing.T, l engine.Layerwise, index int) engine.BackwardLayer {
	t.Helper()
	layer, err := l.Layer(context.Background(), index)
	must(t, err)
	return layer.(engine.BackwardLayer)
}

func square(x []float32) float64 { return dot(x, x) }

func sum(x []float64) (s float64) {
	for _, v := range x {
		s += v
	}
	return s
}

// checkGradient takes the gradient of the divergence from a stream that is a little off back
// through all layers.
func checkGradient(t *testing.T, l engine.Backward, batch engine.Batch) {
	t.Helper()
	ctx, layers := context.Background(), len(l.Model().Layers)
	streams := [][]float32{make([]float32, batch.Tokens()*l.Model().Hidden)}
	must(t, l.Embed(ctx, batch, streams[0]))
	for i := range layers {
		next := slices.Clone(streams[i])
		must(t, loaded(t, l, i).Run(ctx, batch, next, nil))
		streams = append(streams, next)
	}
	last := streams[layers]
	reference := noisy(last, float32(0.5*math.Sqrt(dot(last, last)/float64(len(last)))), 1)
	loss := func(from int, stream []float32) float64 {
		s := slices.Clone(stream)
		for i := from; i < layers; i++ {
			must(t, loaded(t, l, i).Run(ctx, batch, s, nil))
		}
		all, err := l.Divergence(ctx, batch, reference, s)
		must(t, err)
		return sum(all)
	}
	gradient := make([]float32, len(last))
	all, err := l.DivergenceGradient(ctx, batch, reference, last, gradient)
	must(t, err)
	if got, want := sum(all), loss(layers, last); math.Abs(got-want) > 1e-4*want {
		t.Errorf("a divergence of %v, Divergence says %v", got, want)
	}
	for i := layers; ; i-- {
		length := math.Sqrt(dot(gradient, gradient))
		for seed := range 3 {
			direction := gradient // first along itself
			if seed > 0 {
				direction = noisy(make([]float32, len(last)), 1, uint64(seed))
			}
			norm := math.Sqrt(dot(direction, direction))
			slope := func(step float64) float64 {
				ahead, back := slices.Clone(streams[i]), slices.Clone(streams[i])
				for k, d := range direction {
					ahead[k] += float32(step / norm * float64(d))
					back[k] -= float32(step / norm * float64(d))
				}
				return (loss(i, ahead) - loss(i, back)) / (2 * step)
			}
			step := 2e-3 * math.Sqrt(dot(streams[i], streams[i]))
			got, want := dot(gradient, direction)/norm, (4*slope(step/2)-slope(step))/3 // without the error of third order
			if math.Abs(got-want) > 5e-3*length {
				t.Errorf("before layer %d, direction %d: slope %v, differences give %v (a gradient of length %v)", i, seed, got, want, length)
			}
		}
		if i == 0 {
			return
		}
		must(t, loaded(t, l, i-1).Back(ctx, batch, streams[i-1], gradient, nil))
	}
}

// noisy is x with reproducible noise of that size.
func noisy(x []float32, size float32, seed uint64) []float32 {
	y := slices.Clone(x)
	z := seed
	for i := range y {
		z = z*6364136223846793005 + 1442695040888963407
		y[i] += size * (float32(z>>40)/(1<<23) - 1)
	}
	return y
}

func dot(x, y []float32) float64 {
	sum := 0.0
	for i, v := range x {
		sum += float64(v) * float64(y[i])
	}
	return sum
}
