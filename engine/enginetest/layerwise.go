package enginetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/coppice-lm/coppice/engine"
)

// LayerwiseOpener opens a model to be run layer by layer, or fails the test.
type LayerwiseOpener func(t *testing.T, m *Model, opt Options) engine.Layerwise

// RunLayerwise runs the suite of engine.Layerwise: layer after layer gives the bits of
// the engine that open opens.
func RunLayerwise(t *testing.T, open Opener, layerwise LayerwiseOpener) {
	for _, part := range []struct {
		name string
		test func(*testing.T, Opener, LayerwiseOpener)
	}{
		{"families", testLayerwiseFamilies},
		{"precisions", testLayerwisePrecisions},
		{"another MLP", testWithMLP},
		{"another output projection", testWithAttentionOut},
		{"divergence", testDivergence},
		{"gradient", testGradient},
		{"refusals", testLayerwiseRefusals},
		{"cancelled", testLayerwiseCancelled},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, open, layerwise) })
	}
}

// seenRow is where values were observed.
type seenRow struct {
	layer int
	engine.Row
}

// seen are copies of what an observer was shown of each row: heads, input, activations,
// output and residual, one after another.
type seen map[seenRow][]float32

// take is an observer. Nodes are counted from first, for parts of a batch.
func (s seen) take(first int) engine.MLPObserver {
	return func(m engine.MLP) error {
		for i, r := range m.Rows {
			r.Node += first
			at := seenRow{m.Layer, r}
			if s[at] != nil {
				return fmt.Errorf("%v was seen twice", at)
			}
			h, w := m.Hidden, m.Width
			s[at] = slices.Concat(m.Heads[i*len(m.Heads)/len(m.Rows):][:len(m.Heads)/len(m.Rows)],
				m.Input[i*h:][:h], m.Activations[i*w:][:w], m.Output[i*h:][:h], m.Residual[i*h:][:h])
		}
		return nil
	}
}

// same fails the test unless both saw the same rows with the same bits.
func (s seen) same(t *testing.T, what string, want seen) {
	t.Helper()
	if len(s) != len(want) || len(want) == 0 {
		t.Fatalf("%s: %d rows seen, expected %d", what, len(s), len(want))
	}
	for at, w := range want {
		if !slices.EqualFunc(s[at], w, equalBits) {
			t.Fatalf("%s: %v has other bits", what, at)
		}
	}
}

func equalBits(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }

// whole is what the engine shows of a batch.
func whole(t *testing.T, e engine.Engine, batch engine.Batch) seen {
	t.Helper()
	s := seen{}
	if _, err := e.Score(context.Background(), batch, s.take(0)); err != nil {
		t.Fatal(err)
	}
	return s
}

// layered runs batches through all layers and returns what was shown, and the streams
// after the last layer.
func layered(t *testing.T, l engine.Layerwise, change func(int, engine.Layer) engine.Layer, batches ...engine.Batch) (seen, [][]float32) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	s := seen{}
	streams := make([][]float32, len(batches))
	for i, b := range batches {
		streams[i] = make([]float32, b.Tokens()*l.Model().Hidden)
		must(l.Embed(context.Background(), b, streams[i]))
	}
	for index := range l.Model().Layers {
		layer, err := l.Layer(context.Background(), index)
		must(err)
		if change != nil {
			layer = change(index, layer)
		}
		first := 0
		for i, b := range batches {
			must(layer.Run(context.Background(), b, streams[i], s.take(first)))
			first += len(b.Nodes)
		}
	}
	return s, streams
}

// sameScores fails the test unless the targets of the batches have the scores that the
// engine gives them.
func sameScores(t *testing.T, what string, e engine.Engine, l engine.Layerwise, batches []engine.Batch, streams [][]float32) {
	t.Helper()
	for i, b := range batches {
		want, err := e.Score(context.Background(), b, nil)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the stream is left as it is
			got, err := l.Score(context.Background(), b, streams[i])
			if err != nil {
				t.Fatal(err)
			}
			if !slices.EqualFunc(got, want, slices.Equal) || len(want[0]) == 0 {
				t.Fatalf("%s: scores %v, expected %v", what, got, want)
			}
		}
	}
}

// forest is a batch with a shared prefix, and the same nodes in two batches.
func forest(n int) (engine.Batch, []engine.Batch) {
	child := next(sequence(2, n/8+1))
	child.Parent = 0
	nodes := []engine.Node{next(sequence(1, n)), child, next(sequence(3, n-3))}
	return engine.Batch{Nodes: nodes}, []engine.Batch{{Nodes: nodes[:2]}, {Nodes: nodes[2:]}}
}

// testLayerwiseFamilies: for every family, each layer sees and shows the bits that it
// does in the whole forward pass, whatever the batches; in a family without a norm after
// the MLP, what Run leaves is the residual plus the output.
func testLayerwiseFamilies(t *testing.T, open Opener, layerwise LayerwiseOpener) {
	cases, err := Recordings()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		m := model(t, string(c.Config))
		batch, parts := forest(20)
		opt := Options{MaxLength: 64}
		e := open(t, m, opt)
		want := whole(t, e, batch)
		opt.Threads = 3
		l := layerwise(t, m, opt)
		got, streams := layered(t, l, nil, parts...)
		got.same(t, c.Name, want)
		sameScores(t, c.Name, e, l, parts, streams)
		last := len(m.Transformer.Layers) - 1
		if m.Transformer.Layers[last].MLPOut != "" || m.Transformer.ResidualScale != 1 {
			continue
		}
		h := m.Transformer.Hidden
		at := 0
		for j := range parts[1].Nodes[0].Tokens {
			v := got[seenRow{last, engine.Row{Node: 2, Index: j, Position: j}}]
			residual, output := v[len(v)-h:], v[len(v)-2*h:]
			for i := range h {
				if !equalBits(streams[1][at], residual[i]+output[i]) {
					t.Fatalf("%s: token %d leaves %v, residual and output give %v", c.Name, j, streams[1][at], residual[i]+output[i])
				}
				at++
			}
		}
	}
}

// testLayerwisePrecisions: the same in every precision.
func testLayerwisePrecisions(t *testing.T, open Opener, layerwise LayerwiseOpener) {
	for name, m := range variety(t) {
		for _, precision := range precisionsFor(name) {
			batch, parts := forest(170)
			opt := Options{Precision: precision, Threads: 2}
			what := fmt.Sprint(name, ", ", precision)
			e, l := open(t, m, opt), layerwise(t, m, opt)
			want := whole(t, e, batch)
			got, streams := layered(t, l, nil, parts...)
			got.same(t, what, want)
			sameScores(t, what, e, l, parts, streams)
		}
	}
}

// testWithMLP: a layer with another MLP gives the bits of a model that has it, biases
// included, and leaves the layer that it was made from as it was.
func testWithMLP(t *testing.T, open Opener, layerwise LayerwiseOpener) {
	for _, biased := range []bool{false, true} {
		for _, precision := range precisions {
			config := With(TinyLlama, map[string]any{"mlp_bias": biased})
			m, narrow := model(t, config), model(t, config, 48, 17, 64)
			batch, parts := forest(60)
			opt := Options{Precision: precision, Threads: 2}
			what := fmt.Sprintf("%v, biases %v", precision, biased)
			want := whole(t, open(t, narrow, opt), batch)
			plain := whole(t, open(t, m, opt), batch)
			h := m.Transformer.Hidden
			got, _ := layered(t, layerwise(t, m, opt), func(index int, l engine.Layer) engine.Layer {
				if index == 0 {
					return l
				}
				bias := func(name string) []float32 { return narrow.Weights[mlpName(index, name+"_proj.bias")] }
				weight := func(name string) []float32 { return narrow.Weights[mlpName(index, name+"_proj.weight")] }
				other, err := l.WithMLP(context.Background(), engine.MLPWeights{
					Width: narrow.Transformer.Layers[index].Width,
					Gate:  weight("gate"), Up: weight("up"), Down: weight("down"),
					GateBias: bias("gate"), UpBias: bias("up"), DownBias: bias("down"),
				})
				if err != nil {
					t.Fatal(err)
				}
				if index == 1 { // its input is that of the plain model
					s, stream := seen{}, make([]float32, batch.Tokens()*h)
					afterLayer0(t, layerwise(t, m, opt), batch, stream)
					if err := l.Run(context.Background(), batch, stream, s.take(0)); err != nil {
						t.Fatal(err)
					}
					s.same(t, what+", the layer itself", plain.of(1))
				}
				return other
			}, parts...)
			got.same(t, what, want)
		}
	}
}

// testWithAttentionOut: a layer with another output projection gives the bits of a model
// that has it, its bias kept, also together with another MLP.
func testWithAttentionOut(t *testing.T, open Opener, layerwise LayerwiseOpener) {
	for _, precision := range precisions {
		config := With(TinyLlama, map[string]any{"attention_bias": true})
		m, other := model(t, config), model(t, config, 48, 17, 48)
		const name = "model.layers.1.self_attn.o_proj.weight"
		w := other.Weights[name]
		for i := range w {
			w[i] = -w[len(w)-1-i] * 0.5
		}
		batch, parts := forest(60)
		opt := Options{Precision: precision, Threads: 2}
		want := whole(t, open(t, other, opt), batch)
		got, _ := layered(t, layerwise(t, m, opt), func(index int, l engine.Layer) engine.Layer {
			if index != 1 {
				return l
			}
			l, err := l.WithAttentionOut(context.Background(), w)
			if err != nil {
				t.Fatal(err)
			}
			weight := func(name string) []float32 { return other.Weights[mlpName(index, name+"_proj.weight")] }
			l, err = l.WithMLP(context.Background(), engine.MLPWeights{Width: 17, Gate: weight("gate"), Up: weight("up"), Down: weight("down")})
			if err != nil {
				t.Fatal(err)
			}
			return l
		}, parts...)
		got.same(t, precision.String(), want)
	}
}

// of is what was seen of one layer.
func (s seen) of(layer int) seen {
	part := seen{}
	for at, v := range s {
		if at.layer == layer {
			part[at] = v
		}
	}
	return part
}

// afterLayer0 stores the stream after layer 0.
func afterLayer0(t *testing.T, l engine.Layerwise, batch engine.Batch, stream []float32) {
	t.Helper()
	if err := l.Embed(context.Background(), batch, stream); err != nil {
		t.Fatal(err)
	}
	layer, err := l.Layer(context.Background(), 0)
	if err == nil {
		err = layer.Run(context.Background(), batch, stream, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// testLayerwiseRefusals: what cannot be run is an error; values that are not finite are
// none.
func testLayerwiseRefusals(t *testing.T, _ Opener, layerwise LayerwiseOpener) {
	m := model(t, With(TinyLlama, map[string]any{"max_position_embeddings": 16}))
	l := layerwise(t, m, Options{})
	h := m.Transformer.Hidden
	layer, err := l.Layer(context.Background(), 1)
	if err != nil {
		t.Fatal(err)
	}
	ok := engine.Batch{Nodes: []engine.Node{{Parent: -1, Tokens: []int32{1, 2}}}}
	for name, c := range map[string]struct {
		batch engine.Batch
		size  int
	}{
		"no tokens":         {engine.Batch{Nodes: []engine.Node{{Parent: -1}}}, 0},
		"a token too large": {engine.Batch{Nodes: []engine.Node{{Parent: -1, Tokens: []int32{48}}}}, h},
		"17 tokens of 16":   {engine.Batch{Nodes: []engine.Node{{Parent: -1, Tokens: sequence(1, 17)}}}, 17 * h},
		"a short stream":    {ok, 2*h - 1},
		"a long stream":     {ok, 2*h + 1},
	} {
		if err := l.Embed(context.Background(), c.batch, make([]float32, c.size)); err == nil {
			t.Errorf("%s: embedded", name)
		}
		if err := layer.Run(context.Background(), c.batch, make([]float32, c.size), nil); err == nil {
			t.Errorf("%s: run", name)
		}
		if _, err := l.Score(context.Background(), c.batch, make([]float32, c.size)); err == nil {
			t.Errorf("%s: scored", name)
		}
		right := make([]float32, c.batch.Tokens()*h)
		if _, err := l.Divergence(context.Background(), c.batch, right, make([]float32, c.size)); err == nil {
			t.Errorf("%s: compared", name)
		}
		if _, err := l.Divergence(context.Background(), c.batch, make([]float32, c.size), right); err == nil {
			t.Errorf("%s: compared with", name)
		}
	}
	for _, index := range []int{-1, 3} {
		if _, err := l.Layer(context.Background(), index); err == nil {
			t.Errorf("layer %d of 3 was loaded", index)
		}
	}
	w := func(n int) []float32 { return make([]float32, n) }
	for name, mlp := range map[string]engine.MLPWeights{
		"no neurons":      {},
		"a short gate":    {Width: 5, Gate: w(5*h - 1), Up: w(5 * h), Down: w(5 * h)},
		"a long down":     {Width: 5, Gate: w(5 * h), Up: w(5 * h), Down: w(5*h + 1)},
		"a short bias":    {Width: 5, Gate: w(5 * h), Up: w(5 * h), Down: w(5 * h), UpBias: w(4)},
		"no up":           {Width: 5, Gate: w(5 * h), Down: w(5 * h)},
		"a width below 0": {Width: -1},
	} {
		if _, err := layer.WithMLP(context.Background(), mlp); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := layer.WithAttentionOut(context.Background(), w(5)); err == nil {
		t.Error("an output projection of 5 values: no error")
	}
	stream := make([]float32, 2*h)
	stream[0] = float32(math.NaN())
	if err := layer.Run(context.Background(), ok, stream, nil); err != nil {
		t.Errorf("a NaN: %v", err)
	}
	if v := stream[0]; v == v {
		t.Errorf("a NaN in the stream became %v", v)
	}
	wants := engine.Batch{Nodes: []engine.Node{next([]int32{1, 2})}}
	var bad *engine.NonFiniteError
	if _, err := l.Score(context.Background(), wants, stream); !errors.As(err, &bad) || bad.Index != 0 || bad.Layer != 3 {
		t.Errorf("the scores of a NaN: %v", err)
	}
	if _, err := l.Divergence(context.Background(), wants, make([]float32, 2*h), stream); !errors.As(err, &bad) || bad.Index != 0 || bad.Layer != 3 {
		t.Errorf("the divergence of a NaN: %v", err)
	}
	if err := layer.Run(context.Background(), engine.Batch{}, nil, nil); err != nil {
		t.Errorf("an empty batch: %v", err)
	}
	stop := errors.New("enough")
	if err := layer.Run(context.Background(), ok, stream, func(engine.MLP) error { return stop }); err != stop {
		t.Errorf("an observer's error came back as %v", err)
	}
}

// testDivergence: divergences are those of the log-probabilities of all tokens of the
// vocabulary, mixed with labels' where there are any, whatever parts it is computed in, and none where the streams are equal.
func testDivergence(t *testing.T, _ Opener, layerwise LayerwiseOpener) {
	const vocab = 2500
	l := layerwise(t, model(t, With(TinyLlama, map[string]any{"vocab_size": vocab, "final_logit_softcapping": 30.0})), Options{Threads: 2})
	batch := engine.Batch{Nodes: []engine.Node{{Parent: -1, Tokens: sequence(1, 70)}, {Parent: 0, Tokens: sequence(2, 3)}}}
	_, streams := layered(t, l, nil, batch)
	stream, other := streams[0], slices.Clone(streams[0])
	for i := range other {
		other[i] += 0.3 * other[(i*7+5)%len(other)]
	}
	for i, n := range batch.Nodes {
		for at := range n.Tokens {
			for token := range vocab {
				batch.Nodes[i].Targets = append(batch.Nodes[i].Targets, engine.Target{Index: at, Token: int32(token)})
			}
		}
	}
	scores := func(stream []float32) []float64 {
		nodes, err := l.Score(context.Background(), batch, stream)
		if err != nil {
			t.Fatal(err)
		}
		var all []float64
		for _, n := range nodes {
			for _, s := range n {
				all = append(all, float64(s.LogProb))
			}
		}
		return all
	}
	p, q := scores(stream), scores(other)
	token := func(at int) int32 { return int32(at*977+2) % vocab } // in all parts of the vocabulary
	share := func(at int) float32 { return float32(at%3) / 2 }
	for i := range batch.Nodes {
		n := &batch.Nodes[i]
		n.Targets = nil
		for at := range n.Tokens { // out of order, and some twice
			last := len(n.Tokens) - 1 - at
			n.Targets = append(n.Targets, engine.Target{Index: last, Token: token(last), Label: share(last)}, engine.Target{Index: at / 2, Token: token(at / 2), Label: share(at / 2)})
		}
	}
	got, err := l.Divergence(context.Background(), batch, stream, other)
	if err != nil {
		t.Fatal(err)
	}
	at := make([]int, 0, len(got)) // in its node
	for _, n := range batch.Nodes {
		for i := range n.Tokens {
			at = append(at, i)
		}
	}
	if len(got) != 73 {
		t.Fatalf("%d divergences of 73 tokens", len(got))
	}
	least := math.Inf(1)
	for i := range got {
		want := 0.0
		for k := i * vocab; k < (i+1)*vocab; k++ {
			want += math.Exp(p[k]) * (p[k] - q[k])
		}
		part := float64(share(at[i]))
		want = (1-part)*want - part*q[i*vocab+int(token(at[i]))]
		if math.Abs(got[i]-want) > 1e-5*(1+want) {
			t.Errorf("token %d: divergence %v, want %v", i, got[i], want)
		}
		least = min(least, want)
	}
	if least < 1e-3 {
		t.Errorf("the least divergence is %v: this checks little", least)
	}
	for _, n := range batch.Nodes {
		for i := range n.Targets {
			n.Targets[i].Label = 0
		}
	}
	same, err := l.Divergence(context.Background(), batch, stream, stream)
	if err != nil || slices.ContainsFunc(same, func(d float64) bool { return d != 0 }) {
		t.Errorf("of a stream from itself: %v, %v", same, err)
	}
}

// testLayerwiseCancelled: a context that has ended stops every call.
func testLayerwiseCancelled(t *testing.T, _ Opener, layerwise LayerwiseOpener) {
	m := model(t, TinyLlama)
	l := layerwise(t, m, Options{})
	layer, err := l.Layer(context.Background(), 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	batch := engine.Batch{Nodes: []engine.Node{next(sequence(1, 4))}}
	stream := make([]float32, 4*m.Transformer.Hidden)
	if err := layer.Run(ctx, batch, stream, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
	if err := l.Embed(ctx, batch, stream); !errors.Is(err, context.Canceled) {
		t.Errorf("Embed: %v", err)
	}
	if _, err := l.Layer(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("Layer: %v", err)
	}
	for range 2 { // before the head is loaded, and after
		if _, err := l.Score(ctx, batch, stream); !errors.Is(err, context.Canceled) {
			t.Errorf("Score: %v", err)
		}
		if _, err := l.Score(context.Background(), batch, stream); err != nil {
			t.Errorf("Score after a cancelled one: %v", err)
		}
	}
}
