package arch

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
)

// Transformer derives the computation from the family's row and the config that s was
// made of. Unknown activations, rope types and layer types, lists that are shorter than
// the model is deep, and numbers out of range are errors that name the key.
func (s *Spec) Transformer(c *Config) (*Transformer, error) {
	row, ok := computations[s.Family.ModelType]
	if !ok {
		return nil, fmt.Errorf("model_type %q can be read but not run", s.Family.ModelType)
	}
	r := &reader{c: c}
	t := &Transformer{
		Hidden: s.Hidden, Vocab: s.Vocab, MaxPositions: s.MaxPositions,
		Heads: s.Heads, KVHeads: s.KVHeads, HeadDim: s.HeadDim,
		NormEpsilon: float32(r.float("rms_norm_eps", row.eps)),
		NormPlusOne: row.plusOne, QKNorm: row.qkNorm,
		EmbeddingScale: 1, ResidualScale: 1, LogitScale: 1,
		AttentionScale: float32(1 / math.Sqrt(float64(s.HeadDim))),
		Layers:         make([]Layer, s.Layers),
	}
	if t.MaxPositions == 0 {
		t.MaxPositions = row.positions
	}
	t.readScales(r, row, s)
	var err error
	if t.Activation, err = s.activation(r); err != nil {
		return nil, err
	}
	sliding, window := slidingLayers(r, row, s)
	hasRope := ropeLayers(r, row, s.Layers)
	if row.window == windowNoRope && !r.c.Has("layer_types") {
		for i := range sliding {
			sliding[i] = sliding[i] && !hasRope[i]
		}
	}
	if r.err == nil {
		t.Ropes, r.err = readRopes(r, row, t)
	}
	if r.err != nil {
		return nil, r.err
	}
	for i := range t.Layers {
		l := &t.Layers[i]
		heads := s.AttentionAt(i)
		l.Heads, l.KVHeads, l.Width = heads.Queries, heads.KV, s.Widths[i]
		if sliding[i] {
			l.Window = window
		}
		switch {
		case !hasRope[i]:
			l.Rope = -1
		case row.dualRope && sliding[i]:
			l.Rope = 1
		}
	}
	t.nameTensors(s, row.norms)
	return t, nil
}

// readScales fills the factors and soft caps.
func (t *Transformer) readScales(r *reader, row computing, s *Spec) {
	switch row.embedBy {
	case scaleSqrtHidden:
		t.EmbeddingScale = float32(math.Sqrt(float64(s.Hidden)))
	case scaleByConfig:
		t.EmbeddingScale = float32(r.float("embedding_multiplier", 1))
	}
	switch row.attendBy {
	case scalePreAttnScalar:
		t.AttentionScale = float32(1 / math.Sqrt(r.positiveOr("query_pre_attn_scalar", 256)))
	case scaleByConfig:
		t.AttentionScale = float32(r.float("attention_multiplier", 1))
	}
	if row.scales {
		t.ResidualScale = float32(r.float("residual_multiplier", 1))
		t.LogitScale = float32(1 / r.positiveOr("logits_scaling", 1))
	}
	if row.caps {
		t.AttentionCap = float32(r.optional("attn_logit_softcapping", row.attentionCap))
		t.LogitCap = float32(r.optional("final_logit_softcapping", row.logitCap))
	}
	if t.AttentionCap < 0 || t.LogitCap < 0 {
		r.fail(fmt.Errorf("a soft cap is negative"))
	}
	if t.NormEpsilon < 0 {
		r.fail(fmt.Errorf("key %q is negative", "rms_norm_eps"))
	}
}

// activation reads hidden_act. The gemma families prefer hidden_activation, and the
// first gemma's "gelu" has always meant the tanh approximation.
func (s *Spec) activation(r *reader) (Activation, error) {
	key, name := "hidden_act", r.text("hidden_act", s.Family.Activation)
	if strings.HasPrefix(s.Family.ModelType, "gemma") {
		if v := r.text("hidden_activation", ""); v != "" {
			key, name = "hidden_activation", v
		} else if s.Family.ModelType != "gemma" || name == "gelu" {
			name = s.Family.Activation
		}
	}
	if r.err != nil {
		return 0, r.err
	}
	a, err := parseActivation(name)
	if err != nil {
		return 0, fmt.Errorf("key %q: %w", key, err)
	}
	return a, nil
}

// slidingLayers says which layers attend within a window, and how many tokens it has.
func slidingLayers(r *reader, row computing, s *Spec) (sliding []bool, window int) {
	sliding = make([]bool, s.Layers)
	if row.window == windowNever {
		return sliding, 0
	}
	window = int(r.optional("sliding_window", float64(row.windowSize)))
	if window < 0 {
		r.fail(fmt.Errorf("key \"sliding_window\" is %d, expected a positive number or null", window))
	}
	needsFlag := row.window == windowFromLayer || row.window == windowNoRope
	if needsFlag && !r.bool("use_sliding_window", false) {
		window = 0
	}
	if window == 0 {
		return sliding, 0
	}
	var types []string
	if row.window != windowAll {
		types = perLayer[string](r, "layer_types", s.Layers)
	}
	from, every := 0, 0
	switch row.window {
	case windowFromLayer:
		from = r.int("max_window_layers", 28)
	case windowAlternate:
		every = r.int("sliding_window_pattern", row.windowEvery)
		if every < 1 {
			r.fail(fmt.Errorf("key \"sliding_window_pattern\" is %d, expected at least 1", every))
			return sliding, 0
		}
	}
	for i := range sliding {
		switch {
		case types == nil:
			sliding[i] = i >= from && (every == 0 || (i+1)%every != 0)
		case types[i] == "sliding_attention":
			sliding[i] = true
		case types[i] != "full_attention":
			r.fail(fmt.Errorf("key \"layer_types\": layer %d is of the unknown type %q (known: full_attention, sliding_attention)", i, types[i]))
		}
	}
	return sliding, window
}

// ropeLayers says which layers rotate queries and keys: all, but for smollm3's list, in
// which 1 means that the layer does.
func ropeLayers(r *reader, row computing, layers int) []bool {
	has := make([]bool, layers)
	var list []int
	if row.noRope {
		list = perLayer[int](r, "no_rope_layers", layers)
	}
	interval := 0
	if row.noRope && list == nil {
		if interval = r.int("no_rope_layer_interval", 4); interval < 1 {
			r.fail(fmt.Errorf("key \"no_rope_layer_interval\" is %d, expected at least 1", interval))
			return has
		}
	}
	for i := range has {
		if list != nil {
			has[i] = list[i] != 0
		} else {
			has[i] = interval == 0 || (i+1)%interval != 0
		}
	}
	return has
}

// readRopes reads the rotary embeddings in both spellings: rope_theta with
// rope_scaling, and rope_parameters, which may hold one dictionary a layer type.
func readRopes(r *reader, row computing, t *Transformer) ([]Rope, error) {
	ctx := ropeContext{
		headDim: t.HeadDim, maxPositions: t.MaxPositions,
		theta: r.float("rope_theta", row.theta), partial: r.float("partial_rotary_factor", 1),
		original: r.int("original_max_position_embeddings", 0), suIsLong: row.suIsLong,
	}
	if r.err != nil {
		return nil, r.err
	}
	key := "rope_scaling"
	dict, ok := r.c.Raw(key)
	if !ok || string(dict) == "{}" {
		key = "rope_parameters"
		dict, _ = r.c.Raw(key)
	}
	var local json.RawMessage
	if dict != nil {
		c, err := ParseConfig(dict)
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", key, err)
		}
		if c.Has("full_attention") || c.Has("sliding_attention") {
			if !row.dualRope {
				return nil, fmt.Errorf("key %q holds one dictionary a layer type, which this family does not have", key)
			}
			dict, _ = c.Raw("full_attention")
			local, _ = c.Raw("sliding_attention")
		}
	}
	global, err := parseRope(dict, ctx)
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", key, err)
	}
	if !row.dualRope {
		return []Rope{global}, nil
	}
	if ctx.theta = r.float("rope_local_base_freq", row.localTheta); r.err != nil {
		return nil, r.err
	}
	near, err := parseRope(local, ctx)
	if err != nil {
		return nil, fmt.Errorf("key %q, sliding_attention: %w", key, err)
	}
	return []Rope{global, near}, nil
}
