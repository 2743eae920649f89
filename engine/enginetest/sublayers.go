package enginetest

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/coppice-lm/coppice/engine"
)

// withSublayers is the config of TinyLlama with heads of 32 values, and with an MLP and an
// attention of its own size in each layer; 0 is none.
func withSublayers(widths, heads, kvHeads []int) string {
	return With(TinyLlama, map[string]any{"model_type": "coppice_llama", "head_dim": 32,
		"intermediate_sizes": widths, "num_attention_heads_per_layer": heads, "num_key_value_heads_per_layer": kvHeads})
}

// testSublayers: a layer without attention gives the bits of one whose attention puts out
// zeros, one with fewer heads those of one whose other heads count with zeros, and one
// without MLP those of an MLP of zero neurons; in scoring, whichever layer is the last, and
// in decoding.
func testSublayers(t *testing.T, open Opener) {
	whole := withSublayers([]int{32, 32, 32}, []int{4, 4, 4}, []int{2, 2, 2})
	for _, test := range []struct{ widths, heads, kvHeads []int }{
		{[]int{32, 32, 32}, []int{0, 4, 4}, []int{0, 2, 2}},
		{[]int{32, 32, 32}, []int{4, 4, 0}, []int{2, 2, 0}},
		{[]int{0, 32, 0}, []int{4, 0, 4}, []int{2, 0, 2}},
		{[]int{0, 32, 0}, []int{0, 4, 0}, []int{0, 2, 0}},
		{[]int{32, 0, 32}, []int{2, 4, 2}, []int{1, 2, 1}},
	} {
		for _, precision := range precisions {
			what := fmt.Sprint(test, ", ", precision)
			cut, zeroed := model(t, withSublayers(test.widths, test.heads, test.kvHeads)), model(t, whole)
			zeroSublayers(cut, zeroed)
			opt := Options{Precision: precision, Threads: 2}
			a, b := open(t, cut, opt), open(t, zeroed, opt)
			node := next(sequence(1, 60))
			one := next(sequence(1, 60))
			one.Targets = one.Targets[57:58]
			got, want := score(t, a, node, one), score(t, b, node, one)
			for i := range want {
				sameBits(t, what, got[i], want[i])
			}
			logits := [2][]float32{make([]float32, 48), make([]float32, 48)}
			for i, e := range []engine.Engine{a, b} {
				cache := e.NewCache()
				for _, tokens := range [][]int32{node.Tokens[:50], node.Tokens[50:51], node.Tokens[51:]} {
					if err := cache.Append(context.Background(), tokens, logits[i]); err != nil {
						t.Fatal(err)
					}
				}
			}
			if !slices.EqualFunc(logits[0], logits[1], equalBits) {
				t.Errorf("%s: decoding gives other bits", what)
			}
		}
	}
}

// zeroSublayers gives whole the weights of cut, and what cut lacks no effect: the columns
// of output and down projections that it does not have are zeros. Others of its weights
// stay, since they must not count.
func zeroSublayers(cut, whole *Model) {
	h := whole.Transformer.Hidden
	for name, to := range whole.Weights {
		w, has := cut.Weights[name]
		switch {
		case hasSuffix(name, "o_proj.weight"), hasSuffix(name, "down_proj.weight"):
			from, into := len(w)/h, len(to)/h
			clear(to)
			for r := range h {
				copy(to[r*into:], w[r*from:(r+1)*from])
			}
		case has:
			copy(to, w) // the first rows, where there are more
		}
	}
}
