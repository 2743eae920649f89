package enginetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/coppice-lm/coppice/engine"
)

// testRefusals: bad batches are errors that name the node, and a sequence beyond the
// model's length is accepted only where it was asked for.
func testRefusals(t *testing.T, open Opener) {
	m := model(t, With(TinyLlama, map[string]any{"max_position_embeddings": 16}))
	e := open(t, m, Options{})
	for name, nodes := range map[string][]engine.Node{
		"no tokens":             {{Parent: -1}},
		"a later parent":        {{Parent: 1, Tokens: []int32{1}}, {Parent: -1, Tokens: []int32{1}}},
		"its own parent":        {{Parent: 0, Tokens: []int32{1}}},
		"a parent below -1":     {{Parent: -2, Tokens: []int32{1}}},
		"a token too large":     {{Parent: -1, Tokens: []int32{48}}},
		"a negative token":      {{Parent: -1, Tokens: []int32{-1}}},
		"a target too large":    {{Parent: -1, Tokens: []int32{1}, Targets: []engine.Target{{Token: 48}}}},
		"a target past the end": {{Parent: -1, Tokens: []int32{1}, Targets: []engine.Target{{Index: 1}}}},
		"a label above 1":       {{Parent: -1, Tokens: []int32{1}, Targets: []engine.Target{{Label: 1.5}}}},
		"a negative label":      {{Parent: -1, Tokens: []int32{1}, Targets: []engine.Target{{Label: -0.5}}}},
	} {
		if _, err := e.Score(context.Background(), engine.Batch{Nodes: nodes}, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if got := score(t, e); len(got) != 0 {
		t.Errorf("an empty batch has %d results", len(got))
	}
	if got := score(t, e, engine.Node{Parent: -1, Tokens: []int32{1}}); len(got) != 1 || len(got[0]) != 0 {
		t.Errorf("a batch without targets has the results %v", got)
	}

	long := next(sequence(1, 10))
	tail := next(sequence(2, 7))
	tail.Parent = 0
	var tooLong *engine.LengthError
	_, err := e.Score(context.Background(), engine.Batch{Nodes: []engine.Node{long, tail}}, nil)
	if !errors.As(err, &tooLong) || *tooLong != (engine.LengthError{Node: 1, Length: 17, Max: 16}) {
		t.Errorf("17 tokens for a model of 16: %v", err)
	}
	cache := e.NewCache()
	logits := make([]float32, 48)
	if err := cache.Append(context.Background(), sequence(1, 16), logits); err != nil {
		t.Fatal(err)
	}
	if err := cache.Append(context.Background(), []int32{1}, logits); !errors.As(err, &tooLong) {
		t.Errorf("a 17th token in the cache of a model of 16: %v", err)
	}
	for name, tokens := range map[string][]int32{"no tokens": nil, "a token too large": {48}} {
		if err := cache.Append(context.Background(), tokens, logits); err == nil {
			t.Errorf("cache, %s: no error", name)
		}
	}
	if n := len(cache.Tokens()); n != 16 {
		t.Errorf("after errors the cache holds %d tokens, expected 16", n)
	}
	score(t, open(t, m, Options{MaxLength: 17}), long, tail)
}

// testRefusedSteps: a step that cannot be taken is an error that names it, and no cache of
// the pass changes.
func testRefusedSteps(t *testing.T, open Opener) {
	m := model(t, With(TinyLlama, map[string]any{"max_position_embeddings": 16}))
	m.Weights["model.embed_tokens.weight"][5*m.Transformer.Hidden] = float32(math.NaN())
	e := open(t, m, Options{})
	step := func(c engine.Cache, tokens ...int32) engine.Step {
		return engine.Step{Cache: c, Tokens: tokens, Logits: make([]float32, 48)}
	}
	one, other, foreign := e.NewCache(), e.NewCache(), open(t, m, Options{}).NewCache()
	if err := e.Decode(context.Background(), []engine.Step{step(one, 1, 2), step(other, 3)}); err != nil {
		t.Fatal(err)
	}
	if err := e.Decode(context.Background(), nil); err != nil {
		t.Errorf("no steps: %v", err)
	}
	short := step(other, 1)
	short.Logits = short.Logits[:47]
	for name, bad := range map[string]engine.Step{
		"no tokens": step(other), "a token too large": step(other, 48), "no cache": step(nil, 1),
		"another engine's cache": step(foreign, 1), "the same cache twice": step(one, 1), "no room for logits": short,
	} {
		if err := e.Decode(context.Background(), []engine.Step{step(one, 1), bad}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	err := e.Decode(context.Background(), []engine.Step{step(one, 1), step(other, make([]int32, 16)...)})
	var tooLong *engine.LengthError
	if !errors.As(err, &tooLong) || *tooLong != (engine.LengthError{Node: 1, Length: 17, Max: 16}) {
		t.Errorf("17 tokens for a model of 16: %v", err)
	}
	err = e.Decode(context.Background(), []engine.Step{step(one, 1), step(other, 4, 5)})
	var notFinite *engine.NonFiniteError
	if !errors.As(err, &notFinite) || *notFinite != (engine.NonFiniteError{Node: 1, Index: 2, Layer: -1, Layers: 3}) {
		t.Errorf("a NaN in the second step: %v", err)
	}
	if a, b := len(one.Tokens()), len(other.Tokens()); a != 2 || b != 1 {
		t.Errorf("after errors the caches hold %d and %d tokens, expected 2 and 1", a, b)
	}
}

// testNonFinite: a NaN is reported with the request it concerns and the first layer it
// comes from, while other sequences could be scored.
func testNonFinite(t *testing.T, open Opener) {
	for layer := -1; layer <= 3; layer++ {
		m := model(t, TinyLlama)
		switch name := fmt.Sprintf("model.layers.%d.mlp.up_proj.weight", layer); layer {
		case -1:
			m.Weights["model.embed_tokens.weight"][5*m.Transformer.Hidden] = float32(math.NaN())
		case 3:
			m.Weights["lm_head.weight"][0] = float32(math.NaN())
		default:
			m.Weights[name][0] = float32(math.Inf(1))
		}
		e := open(t, m, Options{Threads: 2})
		nodes := []engine.Node{
			{Parent: -1, Tokens: []int32{1, 2, 3}},
			{Parent: 0, Tokens: []int32{4, 5, 6}, Targets: []engine.Target{{Index: 1, Token: 1}}},
		}
		var bad *engine.NonFiniteError
		_, err := e.Score(context.Background(), engine.Batch{Nodes: nodes}, nil)
		if !errors.As(err, &bad) || *bad != (engine.NonFiniteError{Node: 1, Index: 1, Layer: layer, Layers: 3}) {
			t.Errorf("bad weights in layer %d: %v", layer, err)
		}
		cache := e.NewCache()
		err = cache.Append(context.Background(), []int32{1, 2, 3, 4, 5}, make([]float32, 48))
		if !errors.As(err, &bad) || bad.Layer != layer {
			t.Errorf("bad weights in layer %d, decoding: %v", layer, err)
		}
		if layer != -1 {
			continue
		}
		// Only sequences with token 5 are bad.
		nodes[1].Targets = nil
		score(t, e, append(nodes, next([]int32{1, 2, 3, 4}))...)
	}
}

// testCancelled: a context that has ended stops a call, and a cache keeps what it had.
func testCancelled(t *testing.T, open Opener) {
	e := open(t, model(t, TinyLlama), Options{})
	ctx, cancel := context.WithCancel(context.Background())
	cache := e.NewCache()
	logits := make([]float32, 48)
	if err := cache.Append(ctx, sequence(1, 4), logits); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := e.Score(ctx, engine.Batch{Nodes: []engine.Node{next(sequence(1, 4))}}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Score: %v", err)
	}
	if err := cache.Append(ctx, sequence(2, 4), logits); !errors.Is(err, context.Canceled) {
		t.Errorf("Append: %v", err)
	}
	if n := len(cache.Tokens()); n != 4 {
		t.Errorf("after a cancelled Append the cache holds %d tokens, expected 4", n)
	}
}
