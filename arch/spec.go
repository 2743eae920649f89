// Package arch knows what a model is made of. A family (llama, qwen2, gemma2, ...) is
// a row of data: which tensors a layer holds, their extents in terms of config.json,
// which of them a neuron of the gated MLP runs through and along which axis. A Spec is
// a family with the numbers of one config filled in, and one MLP width per layer.
//
// Everything else asks the Spec: which tensors must a checkpoint hold, how many
// parameters have which role, what does a pruned layer look like. No code outside
// this package names a tensor of a family.
//
// Source of the tables: the configuration and modelling classes of transformers, one
// per model_type.
package arch

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/coppice-lm/coppice/tensor"
)

// Spec is a model's architecture: family, extents, and the MLP width of each layer.
type Spec struct {
	Family       *Family
	Hidden       int   // hidden_size
	Layers       int   // num_hidden_layers
	Heads        int   // num_attention_heads; no layer has more
	KVHeads      int   // num_key_value_heads; no layer has more
	HeadDim      int   // head_dim, or hidden_size / num_attention_heads
	Vocab        int   // vocab_size
	Intermediate int   // intermediate_size, as the config says; the widest layer's
	Widths       []int // MLP width of each layer, as the config says until a checkpoint's tensors are known; 0: the layer has no MLP
	// Attention is that of each layer; nil where all have Heads and KVHeads.
	Attention     []HeadCount
	Form          Form // how the config says widths and attention
	MaxPositions  int  // max_position_embeddings, 0 if not given
	Tied          bool // the head is the embedding
	AttentionBias bool
	MLPBias       bool
}

// HeadCount is the attention of a layer: Queries heads, of which each Queries/KV share a
// head of keys and values. Both are 0 where the layer has no attention.
type HeadCount struct{ Queries, KV int }

// AttentionAt is the attention of a layer.
func (s *Spec) AttentionAt(layer int) HeadCount {
	if s.Attention == nil {
		return HeadCount{s.Heads, s.KVHeads}
	}
	return s.Attention[layer]
}

// maxExtent is above any model's; it keeps one row of a hostile one small.
const maxExtent = 1 << 24

// FromConfig reads the architecture out of a config.json. Mixture-of-experts and
// quantised models and unknown families are refused with what was found.
func FromConfig(c *Config) (Spec, error) {
	fam, form, err := familyOf(c)
	if err != nil {
		return Spec{}, err
	}
	s := Spec{Family: fam, Form: form}
	narrowest := 1
	if form == DeciLM {
		narrowest = 0 // the blocks say it
	}
	for _, v := range []struct {
		key      string
		to       *int
		def, min int
	}{
		{"hidden_size", &s.Hidden, 0, 1},
		{"num_hidden_layers", &s.Layers, 0, 1},
		{"num_attention_heads", &s.Heads, 0, 1},
		{"vocab_size", &s.Vocab, 0, 1},
		{"intermediate_size", &s.Intermediate, 0, narrowest},
		{"max_position_embeddings", &s.MaxPositions, 0, 0},
		{"num_key_value_heads", &s.KVHeads, fam.kvHeads, 0},
		{"head_dim", &s.HeadDim, fam.headDim, 0},
	} {
		if *v.to, err = c.Int(v.key, v.def); err != nil {
			return Spec{}, err
		}
		if *v.to < v.min {
			if !c.Has(v.key) {
				return Spec{}, fmt.Errorf("key %q is missing; add it", v.key)
			}
			return Spec{}, fmt.Errorf("key %q is %d, expected at least %d", v.key, *v.to, v.min)
		}
		if *v.to > maxExtent {
			return Spec{}, fmt.Errorf("key %q is %d, more than the %d supported", v.key, *v.to, maxExtent)
		}
	}
	const maxLayers = 1 << 14 // far above any model; bounds what a hostile config makes us allocate
	if s.Layers > maxLayers {
		return Spec{}, fmt.Errorf("key \"num_hidden_layers\" is %d, more than the %d supported", s.Layers, maxLayers)
	}
	if s.KVHeads == 0 {
		s.KVHeads = s.Heads
	}
	if s.HeadDim == 0 {
		if s.Hidden%s.Heads != 0 {
			return Spec{}, fmt.Errorf("key \"hidden_size\" (%d) is not a multiple of \"num_attention_heads\" (%d) and \"head_dim\" is not given", s.Hidden, s.Heads)
		}
		s.HeadDim = s.Hidden / s.Heads
	}
	if s.Heads%s.KVHeads != 0 {
		return Spec{}, fmt.Errorf("key \"num_attention_heads\" (%d) is not a multiple of \"num_key_value_heads\" (%d)", s.Heads, s.KVHeads)
	}
	for _, v := range []struct {
		key string
		to  *bool
		def bool
	}{
		{"tie_word_embeddings", &s.Tied, fam.tied},
		{"attention_bias", &s.AttentionBias, false},
		{"mlp_bias", &s.MLPBias, false},
	} {
		if *v.to, err = c.Bool(v.key, v.def); err != nil {
			return Spec{}, err
		}
	}
	return s, s.readLayers(c)
}

// familyOf finds the row of Families that a config names by model_type, else by the
// class under architectures, and the form of the config.
func familyOf(c *Config) (*Family, Form, error) {
	if v, ok := c.Raw("quantization_config"); ok {
		method := "an unnamed method"
		if q, err := ParseConfig(v); err == nil {
			if m, err := q.Text("quant_method", ""); err == nil && m != "" {
				method = m
			}
		}
		return nil, Plain, fmt.Errorf("the checkpoint is quantised (quantization_config: %s); prune the unquantised original and quantise afterwards", method)
	}
	modelType, err := c.Text("model_type", "")
	if err != nil {
		return nil, Plain, err
	}
	for _, key := range []string{"num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"} {
		if n, err := c.Int(key, 0); err == nil && n > 1 {
			return nil, Plain, fmt.Errorf("model_type %q is a mixture of experts (%s = %d); only dense gated MLPs are supported", modelType, key, n)
		}
	}
	var classes []string
	if v, ok := c.Raw("architectures"); ok {
		if classes, err = parseStrings(v); err != nil {
			return nil, Plain, fmt.Errorf("key \"architectures\": %w", err)
		}
	}
	form, family := splitForm(modelType, classes)
	for i := range Families {
		f := &Families[i]
		if f.ModelType == family || modelType == "" && slices.Contains(classes, f.Architecture) {
			return f, form, nil
		}
	}
	var known []string
	for _, f := range Families {
		known = append(known, f.ModelType)
	}
	return nil, Plain, fmt.Errorf("model_type %q (architectures %v) is not a supported family; supported: %s", modelType, classes, strings.Join(known, ", "))
}

// Tensor is one tensor that a model of the family holds.
type Tensor struct {
	Name  string
	Shape tensor.Shape
	Role  Role
	Unit  Unit
	Layer int    // -1 outside the layers
	Of    Role   // Role, but of a norm in a layer: Attention or MLP, which it is before or after
	GGUF  string // its name in a GGUF file
}

// Tensors lists what a checkpoint of this Spec must hold, outer tensors first, then
// layer by layer. A layer without attention, or without MLP, has none of its tensors, nor
// the norms before and after it.
func (s *Spec) Tensors() []Tensor {
	var all []Tensor
	for _, t := range outer {
		all = s.appendTensor(all, t, -1)
	}
	for l := range s.Layers {
		for _, t := range s.Family.layer {
			if t.of(s.Family) == Attention && s.AttentionAt(l).Queries > 0 || t.of(s.Family) == MLP && s.Widths[l] > 0 {
				all = s.appendTensor(all, t, l)
			}
		}
	}
	return all
}

func (s *Spec) appendTensor(all []Tensor, t template, layer int) []Tensor {
	switch t.when {
	case ifUntied:
		if s.Tied {
			return all
		}
	case ifMLPBias:
		if !s.MLPBias {
			return all
		}
	case ifAttentionBias:
		if s.Family.attnBias != always && !s.AttentionBias {
			return all
		}
	}
	name, gguf, of := t.name, t.gguf+t.name[strings.LastIndexByte(t.name, '.'):], t.role
	if layer >= 0 {
		of = t.of(s.Family)
		name = LayerPrefix(layer) + name
		gguf = "blk." + strconv.Itoa(layer) + "." + gguf
	}
	shape := make(tensor.Shape, len(t.dims))
	for i, d := range t.dims {
		shape[i] = s.extent(d, layer)
	}
	return append(all, Tensor{name, shape, t.role, t.unit, layer, of, gguf})
}

func (s *Spec) extent(d Dim, layer int) int {
	switch d {
	case Vocab:
		return s.Vocab
	case Hidden:
		return s.Hidden
	case Queries:
		return s.AttentionAt(layer).Queries * s.HeadDim
	case KeyValues:
		return s.AttentionAt(layer).KV * s.HeadDim
	case QKV:
		return (s.AttentionAt(layer).Queries + 2*s.AttentionAt(layer).KV) * s.HeadDim
	case HeadDim:
		return s.HeadDim
	case Width:
		return s.Widths[layer]
	default: // TwoWidths
		return 2 * s.Widths[layer]
	}
}

// LayerPrefix is what the names of a layer's tensors begin with.
func LayerPrefix(layer int) string { return "model.layers." + strconv.Itoa(layer) + "." }

// LayerOf splits a tensor's name into its layer and the rest; -1 outside the layers.
func LayerOf(name string) (layer int, rest string) {
	s, ok := strings.CutPrefix(name, "model.layers.")
	if !ok {
		return -1, name
	}
	num, rest, ok := strings.Cut(s, ".")
	n, err := strconv.Atoi(num)
	if !ok || err != nil || n < 0 || strconv.Itoa(n) != num {
		return -1, name
	}
	return n, rest
}

// WithWidths is the Spec with other MLP widths, one for each of its layers. The
// intermediate size becomes the widest.
func (s *Spec) WithWidths(widths []int) Spec { return s.WithLayers(widths, s.Attention) }

// WithLayers is the Spec with other layers: their MLP widths and, unless it is nil, their
// attention. The intermediate size becomes the widest, and where all layers have the same
// heads, those are the model's.
func (s *Spec) WithLayers(widths []int, attention []HeadCount) Spec {
	t := *s
	t.Widths = slices.Clone(widths)
	t.Layers = len(widths)
	t.Intermediate = slices.Max(widths)
	if len(attention) > 0 && attention[0].Queries > 0 && !slices.ContainsFunc(attention, func(h HeadCount) bool { return h != attention[0] }) {
		t.Heads, t.KVHeads = attention[0].Queries, attention[0].KV
	}
	t.Attention = t.ownAttention(attention)
	return t
}

// ownAttention is attention in the form in which a Spec has it.
func (s *Spec) ownAttention(attention []HeadCount) []HeadCount {
	if !slices.ContainsFunc(attention, func(h HeadCount) bool { return h != HeadCount{s.Heads, s.KVHeads} }) {
		return nil
	}
	return slices.Clone(attention)
}

// Uniform reports whether all layers have the width and the attention that a plain config
// says.
func (s *Spec) Uniform() bool {
	return s.Attention == nil && !slices.ContainsFunc(s.Widths, func(w int) bool { return w != s.Intermediate })
}

// Parameters counts elements by role. A tied head counts once, as embedding.
func (s *Spec) Parameters() (byRole [NumRoles]int64, total int64) {
	for _, t := range s.Tensors() {
		n, err := t.Shape.Elements()
		if err != nil {
			continue // extents are below 2^31 and two at most: cannot overflow
		}
		byRole[t.Role] += n
		total += n
	}
	return byRole, total
}

// KVElements is the number of cached key and value elements per token.
func (s *Spec) KVElements() int64 {
	heads := 0
	for l := range s.Layers {
		heads += s.AttentionAt(l).KV
	}
	return 2 * int64(heads) * int64(s.HeadDim)
}
