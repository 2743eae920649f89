package plan

import (
	"cmp"
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

// Unit is a kind of part that can go under a budget of parameters besides neurons.
type Unit string

// The units.
const (
	AttentionUnit Unit = "attention" // of a layer
	HeadUnit      Unit = "heads"     // a key-value head with the query heads that share it
	LayerUnit     Unit = "layers"    // a whole layer
)

// Units lists the units.
var Units = []Unit{AttentionUnit, HeadUnit, LayerUnit}

// ParseUnit returns the unit of that name.
func ParseUnit(name string) (Unit, error) {
	if slices.Contains(Units, Unit(name)) {
		return Unit(name), nil
	}
	return "", fmt.Errorf("unknown unit %q; units are %v", name, Units)
}

// Part is one unit of a model.
type Part struct {
	Unit        Unit
	Layer, Head int // Head of HeadUnit, a key-value head
}

// String is the part in words.
func (p Part) String() string {
	switch p.Unit {
	case AttentionUnit:
		return fmt.Sprintf("the attention of layer %d", p.Layer)
	case HeadUnit:
		return fmt.Sprintf("key-value head %d of layer %d", p.Head, p.Layer)
	}
	return fmt.Sprintf("layer %d", p.Layer)
}

// Parts lists the parts of a model that a rule leaves and that can go one at a time; where
// the rule names layers to prune, those of these layers.
func (r *Rule) Parts(spec *arch.Spec, units []Unit) []Part {
	var all []Part
	for l := range spec.Layers {
		if slices.Contains(r.Drop, l) || len(r.Layers) > 0 && !slices.Contains(r.Layers, l) {
			continue
		}
		for _, u := range units {
			switch {
			case u == LayerUnit, u == AttentionUnit && !r.LeavesNoAttention(l, spec):
				all = append(all, Part{Unit: u, Layer: l})
			case u == HeadUnit && !r.LeavesNoAttention(l, spec):
				for h := range spec.AttentionAt(l).KV {
					if !slices.Contains(r.DropHeads, KVHead{l, h}) {
						all = append(all, Part{u, l, h})
					}
				}
			}
		}
	}
	return slices.DeleteFunc(all, func(p Part) bool {
		without := r.Without(p)
		return without.CheckFor(spec) != nil
	})
}

// Without is the rule with a part dropped besides.
func (r *Rule) Without(p Part) Rule {
	w := *r
	heads := func(h KVHead) bool { return h.Layer == p.Layer }
	layer := func(l int) bool { return l == p.Layer }
	add := func(layers []int) []int {
		layers = append(slices.Clone(layers), p.Layer)
		slices.Sort(layers)
		return layers
	}
	switch p.Unit {
	case AttentionUnit:
		w.DropAttention = add(r.DropAttention)
		w.DropHeads = slices.DeleteFunc(slices.Clone(r.DropHeads), heads)
	case HeadUnit:
		w.DropHeads = append(slices.Clone(r.DropHeads), KVHead{p.Layer, p.Head})
		sortHeads(w.DropHeads)
	case LayerUnit:
		w.Drop = add(r.Drop)
		w.DropAttention = slices.DeleteFunc(slices.Clone(r.DropAttention), layer)
		w.DropMLP = slices.DeleteFunc(slices.Clone(r.DropMLP), layer)
		w.DropHeads = slices.DeleteFunc(slices.Clone(r.DropHeads), heads)
	}
	return w
}

// SameParts reports whether both rules drop the same parts.
func (r *Rule) SameParts(other *Rule) bool {
	return slices.Equal(r.Drop, other.Drop) && slices.Equal(r.DropAttention, other.DropAttention) &&
		slices.Equal(r.DropMLP, other.DropMLP) && slices.Equal(r.DropHeads, other.DropHeads)
}

// HeadColumns lists the columns of the output projection of a layer, as the plan leaves it,
// that are a part's: all of them, or those of the query heads of a key-value head that stays.
func (l *Layer) HeadColumns(spec *arch.Spec, p Part) []int {
	has := spec.AttentionAt(l.Layer)
	if has.KV == 0 {
		return nil
	}
	size := has.Queries / has.KV * spec.HeadDim
	first, n := 0, l.Attention(has).KV
	if p.Unit == HeadUnit {
		first, n = p.Head, 1
		if l.KeepHeads != nil {
			first = slices.Index(l.KeepHeads, p.Head)
		}
	}
	columns := make([]int, n*size)
	for i := range columns {
		columns[i] = first*size + i
	}
	return columns
}

// Parameters is how many a model has after the rule.
func (r *Rule) Parameters(spec *arch.Spec) (int64, error) {
	p, err := outline(spec, *r)
	if err != nil {
		return 0, err
	}
	after := p.Spec(spec)
	_, n := after.Parameters()
	return n, nil
}

// neuronsBelow is how many more neurons than the rule's a model may have so that it has no
// more parameters than by the other rule.
func (r *Rule) neuronsBelow(budget *Rule, spec *arch.Spec) (int, error) {
	most, err := budget.Parameters(spec)
	if err != nil {
		return 0, err
	}
	n, err := r.Parameters(spec)
	if err != nil {
		return 0, err
	}
	each := int64(3 * spec.Hidden)
	if spec.MLPBias {
		each += 2
	}
	return int(max(0, most-n) / each), nil
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
	sortHeads(heads)
	return slices.Compact(heads), nil
}

func sortHeads(heads []KVHead) {
	slices.SortFunc(heads, func(a, b KVHead) int { return cmp.Or(a.Layer-b.Layer, a.Head-b.Head) })
}

// joinHeads is a list as the flag takes it.
func joinHeads(list []KVHead) string {
	words := make([]string, len(list))
	for i, h := range list {
		words[i] = fmt.Sprintf("%d:%d", h.Layer, h.Head)
	}
	return strings.Join(words, ",")
}
