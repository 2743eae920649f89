package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/coppice-lm/coppice/arch"
)

// What of a layer goes besides neurons: the attention, key-value heads with the query heads
// that share them, or the whole MLP.

// LeavesNoMLP reports whether a layer has no MLP after the rule.
func (r *Rule) LeavesNoMLP(layer int, spec *arch.Spec) bool {
	return spec.Widths[layer] == 0 || slices.Contains(r.Drop, layer) || slices.Contains(r.DropMLP, layer)
}

// LeavesNoAttention reports whether a layer has no attention after the rule.
func (r *Rule) LeavesNoAttention(layer int, spec *arch.Spec) bool {
	return spec.AttentionAt(layer).Queries == 0 || slices.Contains(r.Drop, layer) || slices.Contains(r.DropAttention, layer)
}

// keepHeads lists the key-value heads of a layer of n that stay; nil for all.
func (r *Rule) keepHeads(layer, n int) []int {
	gone := make([]bool, n)
	for _, d := range r.DropHeads {
		if d.Layer == layer {
			gone[d.Head] = true
		}
	}
	var keep []int
	for h := range n {
		if !gone[h] {
			keep = append(keep, h)
		}
	}
	if len(keep) == n {
		return nil
	}
	return keep
}

// checkParts is an error if a model does not have the parts that the rule drops, or if what
// is left of it is no model.
func (r *Rule) checkParts(spec *arch.Spec) error {
	for _, d := range r.DropHeads {
		if d.Layer < 0 || d.Layer >= spec.Layers {
			return ruleErrorf("--drop-heads: there is no layer %d; the model has layers 0 to %d", d.Layer, spec.Layers-1)
		}
		n := spec.AttentionAt(d.Layer).KV
		switch {
		case d.Head < 0 || d.Head >= n:
			return ruleErrorf("--drop-heads: layer %d has no key-value head %d; it has %d", d.Layer, d.Head, n)
		case r.LeavesNoAttention(d.Layer, spec):
			return ruleErrorf("--drop-heads names a head of layer %d, whose attention is dropped", d.Layer)
		case len(r.keepHeads(d.Layer, n)) == 0:
			return ruleErrorf("--drop-heads names all %d key-value heads of layer %d; name the layer in --drop-attention", n, d.Layer)
		}
	}
	if len(r.DropHeads) > 0 && !spec.Family.HeadsApart() {
		return ruleErrorf("--drop-heads: %s normalises the queries of all heads together, so that heads cannot go without changing what is left", spec.Family.ModelType)
	}
	for _, part := range []struct {
		flag   string
		layers []int
		has    func(int) bool
	}{
		{"--drop-attention", r.DropAttention, func(l int) bool { return spec.AttentionAt(l).Queries > 0 }},
		{"--drop-mlp", r.DropMLP, func(l int) bool { return spec.Widths[l] > 0 }},
	} {
		for _, l := range part.layers {
			if slices.Contains(r.Drop, l) || !part.has(l) {
				return ruleErrorf("%s names layer %d, which is dropped whole or has none", part.flag, l)
			}
		}
	}
	attention, mlp := 0, 0
	for l := range spec.Layers {
		noAttention, noMLP := r.LeavesNoAttention(l, spec), r.LeavesNoMLP(l, spec)
		if noAttention && noMLP && !slices.Contains(r.Drop, l) {
			return ruleErrorf("nothing would be left of layer %d; name it in --drop-layers", l)
		}
		if !noAttention {
			attention++
		}
		if !noMLP {
			mlp++
		}
	}
	if mlp == 0 || attention == 0 && len(r.DropAttention) > 0 {
		return ruleErrorf("%d layers with attention and %d with an MLP would be left: a model needs one of each", attention, mlp)
	}
	return nil
}

// ParseHeads reads a list of key-value heads such as 3:0,3:2,7:1, each as layer:head; the
// result is ascending and holds each head once.
func ParseHeads(s string) ([]KVHead, error) {
	var heads []KVHead
	for part := range strings.SplitSeq(s, ",") {
		layer, head, ok := strings.Cut(strings.TrimSpace(part), ":")
		a, err1 := strconv.ParseUint(layer, 10, 31)
		b, err2 := strconv.ParseUint(head, 10, 31)
		if !ok || err1 != nil || err2 != nil {
			return nil, fmt.Errorf("%q is not a list of key-value heads such as 3:0,7:1 (layer:head)", s)
		}
		heads = append(heads, KVHead{int(a), int(b)})
	}
	slices.SortFunc(heads, func(a, b KVHead) int {
		if a.Layer != b.Layer {
			return a.Layer - b.Layer
		}
		return a.Head - b.Head
	})
	return slices.Compact(heads), nil
}

// joinHeads is a list as the flag takes it.
func joinHeads(list []KVHead) string {
	words := make([]string, len(list))
	for i, h := range list {
		words[i] = fmt.Sprintf("%d:%d", h.Layer, h.Head)
	}
	return strings.Join(words, ",")
}
