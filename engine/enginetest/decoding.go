package enginetest

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/coppice-lm/coppice/engine"
)

// decodeTolerance bounds the difference between logits of decoding and scoring.
const decodeTolerance = 1e-4

// testDecoding: a cache that is filled in pieces, cut back and filled again gives the
// logits of scoring, also where the sequence grows into another regime of the rotary
// embedding.
func testDecoding(t *testing.T, open Opener) {
	models := decodingModels(t)
	tokens := sequence(1, 170)
	for name, m := range models {
		for _, precision := range precisionsFor(name) {
			e := open(t, m, Options{Precision: precision, Threads: 2, MaxLength: 256})
			cache := e.NewCache()
			at := func(n int) {
				t.Helper()
				if !slices.Equal(cache.Tokens(), tokens[:n]) {
					t.Fatalf("%s: the cache holds %d tokens, expected the first %d", name, len(cache.Tokens()), n)
				}
			}
			feed := func(to int) {
				t.Helper()
				logits := make([]float32, m.Transformer.Vocab)
				if err := cache.Append(context.Background(), tokens[len(cache.Tokens()):to], logits); err != nil {
					t.Fatal(err)
				}
				at(to)
				want := scoreAll(t, e, tokens[:to])
				got := logSoftmax(logits)
				for i := range want {
					if d := math.Abs(got[i] - want[i]); !(d <= decodeTolerance) {
						t.Fatalf("%s, %v, %d tokens, token %d: decoded log-probability %v, scored %v", name, precision, to, i, got[i], want[i])
					}
				}
			}
			for _, to := range []int{1, 2, 40, 41, 129, 130, 170} {
				feed(to)
			}
			cache.Truncate(90)
			at(90)
			feed(91)
			feed(170)
			cache.Truncate(0)
			feed(1)
		}
	}
}

// decodingModels is variety, and a model whose rotary embedding changes after 100 tokens.
func decodingModels(t *testing.T) map[string]*Model {
	models := variety(t)
	models["dynamic"] = model(t, With(TinyLlama, map[string]any{
		"max_position_embeddings": 100, "rope_scaling": map[string]any{"rope_type": "dynamic", "factor": 2.0}}))
	return models
}

// testDecodingTogether: sequences that are decoded in one pass, with prompts among them,
// get the bits that each gets alone.
func testDecodingTogether(t *testing.T, open Opener) {
	// Of each sequence, how many tokens it takes in each pass; one grows into another regime.
	passes := [][]int{{3, 70, 98, 1, 129}, {1, 1, 1, 1, 1}, {1, 1, 1, 1, 1}, {1, 66, 1, 0, 1}, {1, 0, 1, 2, 0}}
	for name, m := range decodingModels(t) {
		for _, precision := range precisionsFor(name) {
			e := open(t, m, Options{Precision: precision, Threads: 2, MaxLength: 256})
			var together, alone []engine.Cache
			for range passes[0] {
				together, alone = append(together, e.NewCache()), append(alone, e.NewCache())
			}
			for at, pass := range passes {
				var steps []engine.Step
				for i, n := range pass {
					if n > 0 {
						tokens := sequence(i, 256)[len(together[i].Tokens()):][:n]
						steps = append(steps, engine.Step{Cache: together[i], Tokens: tokens, Logits: make([]float32, m.Transformer.Vocab)})
					}
				}
				if err := e.Decode(context.Background(), steps); err != nil {
					t.Fatal(err)
				}
				for _, s := range steps {
					i, want := slices.Index(together, s.Cache), make([]float32, m.Transformer.Vocab)
					if err := alone[i].Append(context.Background(), s.Tokens, want); err != nil {
						t.Fatal(err)
					}
					if !slices.Equal(together[i].Tokens(), alone[i].Tokens()) {
						t.Fatalf("%s, %v, pass %d, sequence %d: the caches hold other tokens", name, precision, at, i)
					}
					if !slices.Equal(s.Logits, want) {
						t.Fatalf("%s, %v, pass %d, sequence %d: other logits than alone", name, precision, at, i)
					}
				}
			}
		}
	}
}

// scoreAll is the log-probability of every token after a sequence, as Score gives it.
func scoreAll(t *testing.T, e engine.Engine, tokens []int32) []float64 {
	t.Helper()
	node := engine.Node{Parent: -1, Tokens: tokens}
	for token := range e.Model().Vocab {
		node.Targets = append(node.Targets, engine.Target{Index: len(tokens) - 1, Token: int32(token)})
	}
	all := make([]float64, e.Model().Vocab)
	for i, s := range score(t, e, node)[0] {
		all[i] = float64(s.LogProb)
	}
	return all
}

// testBF16: the fast precision is near the precision of record, and is not it.
func testBF16(t *testing.T, open Opener) {
	m := model(t, TinyLlama)
	node := next(sequence(1, 100))
	want := score(t, open(t, m, Options{}), node)[0]
	got := score(t, open(t, m, Options{Precision: engine.BF16}), node)[0]
	if d := near(got, want); d == 0 || d > 0.05 {
		t.Errorf("bf16 differs from f32 by %.2g of the largest log-probability, expected more than 0 and at most 0.05", d)
	}
}

// testObserver: every row of every layer is seen once, and what is seen is what is
// computed: the output is the product of the activations with down_proj.
func testObserver(t *testing.T, open Opener) {
	m := model(t, TinyLlama, 48, 40, 56)
	e := open(t, m, Options{Threads: 2})
	child := next(sequence(2, 5))
	child.Parent = 0
	batch := engine.Batch{Nodes: []engine.Node{next(sequence(1, 300)[:250]), child, next(sequence(3, 200))}}
	want, err := e.Score(context.Background(), batch, nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	layer := 0
	got, err := e.Score(context.Background(), batch, func(l engine.MLP) error {
		if l.Layer < layer {
			return fmt.Errorf("layer %d after layer %d", l.Layer, layer)
		}
		layer = l.Layer
		down := m.Weights[fmt.Sprintf("model.layers.%d.mlp.down_proj.weight", l.Layer)]
		for r, row := range l.Rows {
			seen[fmt.Sprint(l.Layer, row)]++
			act, out := l.Activations[r*l.Width:(r+1)*l.Width], l.Output[r*l.Hidden:(r+1)*l.Hidden]
			for o, v := range out {
				sum := 0.0
				for i, a := range act {
					sum += float64(a) * float64(down[o*l.Width+i])
				}
				if math.Abs(sum-float64(v)) > 1e-4*(1+math.Abs(sum)) {
					return fmt.Errorf("layer %d, row %v: output %d is %v, activations and weights give %v", l.Layer, row, o, v, sum)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		sameBits(t, fmt.Sprintf("observed, node %d", i), got[i], want[i])
	}
	position := []int{0, 250, 0}
	for l := range m.Transformer.Layers {
		for i, n := range batch.Nodes {
			for j := range n.Tokens {
				row := engine.Row{Node: i, Index: j, Position: position[i] + j}
				if n := seen[fmt.Sprint(l, row)]; n != 1 {
					t.Fatalf("layer %d, row %v: seen %d times", l, row, n)
				}
			}
		}
	}
	if n := batch.Tokens() * len(m.Transformer.Layers); len(seen) != n {
		t.Errorf("%d rows seen, expected %d", len(seen), n)
	}
	stop := fmt.Errorf("enough")
	if _, err := e.Score(context.Background(), batch, func(engine.MLP) error { return stop }); err != stop {
		t.Errorf("an observer's error came back as %v", err)
	}
}

// testTies: of equal logits the token with the lowest id is greedy. With a head of
// equal rows for two tokens, the later one never is.
func testTies(t *testing.T, open Opener) {
	m := model(t, TinyLlama)
	h := m.Transformer.Hidden
	head := m.Weights["lm_head.weight"]
	for i := range head {
		head[i] = head[i%h] // every row is the first
	}
	node := engine.Node{Parent: -1, Tokens: sequence(1, 10)}
	for token := range int32(48) {
		node.Targets = append(node.Targets, engine.Target{Index: 9, Token: token})
	}
	for token, s := range score(t, open(t, m, Options{}), node)[0] {
		if s.Greedy != (token == 0) {
			t.Errorf("all logits are equal: token %d has greedy %v", token, s.Greedy)
		}
		if d := math.Abs(float64(s.LogProb) + math.Log(48)); d > 1e-6 {
			t.Errorf("all logits are equal: token %d has the log-probability %v, expected -ln 48", token, s.LogProb)
		}
	}
}
