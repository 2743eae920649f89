package enginetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/coppice-lm/coppice/engine"
)

// variety is models that differ in what they do across positions: plain, within a
// window that is shorter than the sequences, with soft caps and norms of queries.
func variety(t *testing.T) map[string]*Model {
	window := With(TinyLlama, map[string]any{"model_type": "mistral", "sliding_window": 150})
	gemma := With(TinyLlama, map[string]any{
		"model_type": "gemma3_text", "head_dim": 24, "sliding_window": 20, "sliding_window_pattern": 2,
		"attn_logit_softcapping": 5.0,
	})
	return map[string]*Model{"llama": model(t, TinyLlama), "window": model(t, window), "gemma3": model(t, gemma),
		"sublayers": model(t, withSublayers([]int{48, 0, 32}, []int{0, 4, 2}, []int{0, 2, 1}))}
}

// precisions are those whose weights depend on the values of the file alone. The widths
// of some of the tiny models are no whole number of blocks: Q4_0 then runs in F16, too.
var precisions = []engine.Precision{engine.F32, engine.BF16, engine.F16, engine.Q8_0, engine.Q4_0, engine.Q4_1}

// precisionsFor are those that a model of a variety runs in: the plain one in all, the
// others in those that do attention in different ways.
func precisionsFor(name string) []engine.Precision {
	if name == "llama" || name == "sublayers" {
		return precisions
	}
	return precisions[:2]
}

// testThreads: any number of threads gives the same bits.
func testThreads(t *testing.T, open Opener) {
	nodes := []engine.Node{next(sequence(1, 200)), next(sequence(2, 3)), next(sequence(3, 77))}
	for name, m := range variety(t) {
		for _, precision := range precisionsFor(name) {
			want := score(t, open(t, m, Options{Precision: precision}), nodes...)
			for _, threads := range []int{2, 3, 8} {
				got := score(t, open(t, m, Options{Precision: precision, Threads: threads}), nodes...)
				for i := range want {
					sameBits(t, fmt.Sprintf("%s, %v, %d threads, node %d", name, precision, threads, i), got[i], want[i])
				}
			}
		}
	}
}

// testBatch: what else is in a batch, and where, changes nothing.
func testBatch(t *testing.T, open Opener) {
	var nodes []engine.Node
	for i, n := range []int{1, 130, 2, 64, 17, 200, 5} {
		nodes = append(nodes, next(sequence(i, n)))
	}
	for name, m := range variety(t) {
		for _, precision := range precisionsFor(name) {
			e := open(t, m, Options{Precision: precision, Threads: 2})
			together := score(t, e, nodes...)
			reversed := slices.Clone(nodes)
			slices.Reverse(reversed)
			backwards := score(t, e, reversed...)
			for i := range nodes {
				what := fmt.Sprintf("%s, %v, node %d", name, precision, i)
				alone := score(t, e, nodes[i])
				sameBits(t, what+" among others", together[i], alone[0])
				sameBits(t, what+" in another order", backwards[len(nodes)-1-i], alone[0])
			}
			// A single target of many: nothing but that position's logits is wanted.
			one := nodes[5]
			one.Targets = one.Targets[150:151]
			sameBits(t, name+", one target", score(t, e, one)[0], together[5][150:151])
		}
	}
}

// testSharedPrefix: a tree gives the bits of its sequences.
func testSharedPrefix(t *testing.T, open Opener) {
	stem, branch := sequence(1, 140), sequence(2, 9)
	leaves := [][]int32{sequence(3, 1), sequence(4, 30), sequence(5, 65)}
	nodes := []engine.Node{next(stem), next(branch)}
	nodes[1].Parent = 0
	for _, l := range leaves {
		for parent := range 2 {
			n := next(l)
			n.Parent = parent
			nodes = append(nodes, n)
		}
	}
	for name, m := range variety(t) {
		for _, precision := range precisionsFor(name) {
			e := open(t, m, Options{Precision: precision, Threads: 2})
			batch := engine.Batch{Nodes: nodes}
			tree := score(t, e, nodes...)
			for i, n := range nodes {
				alone := engine.Node{Parent: -1, Tokens: batch.Path(i)}
				for _, target := range n.Targets {
					target.Index += len(alone.Tokens) - len(n.Tokens)
					alone.Targets = append(alone.Targets, target)
				}
				sameBits(t, fmt.Sprintf("%s, %v, node %d", name, precision, i), tree[i], score(t, e, alone)[0])
			}
		}
	}
}

// testRegimes: where the rotary embedding depends on the length, each tree of a batch
// is rotated as its longest sequence is.
func testRegimes(t *testing.T, open Opener) {
	config := With(TinyLlama, map[string]any{
		"max_position_embeddings": 32, "rope_scaling": map[string]any{"rope_type": "dynamic", "factor": 2.0}})
	e := open(t, model(t, config), Options{Threads: 2, MaxLength: 64})
	nodes := []engine.Node{next(sequence(1, 32)), next(sequence(1, 33)), next(sequence(1, 50))}
	together := score(t, e, nodes...)
	for i, n := range nodes {
		sameBits(t, fmt.Sprintf("node %d", i), together[i], score(t, e, n)[0])
	}
	if d := near(together[1][:31], together[0][:31]); d == 0 {
		t.Error("33 tokens of a model of 32 are rotated as 32 are")
	}
}

// testConcurrent: calls from several goroutines do not disturb one another.
func testConcurrent(t *testing.T, open Opener) {
	e := open(t, model(t, TinyLlama), Options{Threads: 2})
	var want [][]engine.Score
	for i := range 4 {
		want = append(want, score(t, e, next(sequence(i, 20+i)))[0])
	}
	var wg sync.WaitGroup
	got := make([][][]engine.Score, 4)
	errs := make([]error, 4)
	for i := range 4 {
		wg.Go(func() {
			got[i], errs[i] = e.Score(context.Background(), engine.Batch{Nodes: []engine.Node{next(sequence(i, 20+i))}}, nil)
		})
	}
	wg.Wait()
	for i := range 4 {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		sameBits(t, fmt.Sprintf("call %d", i), got[i][0], want[i])
	}
}
