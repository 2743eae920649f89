package export

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/arch"
)

// llama.cpp has no key for much of what a config can say: it computes an architecture in
// its one way. What a model's config asks for is compared with that way here, and a
// difference is an error, since the file would load and compute something else.

// architecture is general.architecture, or an error that says what cannot be said.
func (p *Program) architecture(t *arch.Transformer) (string, error) {
	s := &p.from.Spec
	name := s.Family.GGUF
	if name == "" {
		return "", fmt.Errorf("model_type %q is a family that export does not cover; it covers %s", s.Family.ModelType, strings.Join(covered(), ", "))
	}
	if !s.Uniform() {
		switch {
		case name == "llama":
			name = arch.GGUFPerLayer
		case s.Attention != nil:
			return "", fmt.Errorf("the attention of its layers differs, and llama.cpp's %s has the same in all", name)
		default:
			return "", fmt.Errorf("its layers are %d to %d neurons wide, and llama.cpp's %s has one width for all; carry its plan out with --form padded, or prune to one width", slices.Min(s.Widths), slices.Max(s.Widths), name)
		}
	}
	if err := checkRope(t, name); err != nil {
		return "", err
	}
	if err := checkAttention(t, name, s); err != nil {
		return "", err
	}
	if name == "gemma2" && !s.Tied {
		return "", fmt.Errorf("tie_word_embeddings is false, and llama.cpp's gemma2 has no head of its own (output.weight)")
	}
	if want := defaultActivation(name); t.Activation != want {
		return "", fmt.Errorf("hidden_act is %v, and llama.cpp's %s computes %v", t.Activation, name, want)
	}
	if err := p.checkWindows(t, name); err != nil {
		return "", err
	}
	return name, nil
}

// inFile is the model as the file says it, which has two things that llama.cpp's deci needs
// where the model has nothing: an attention in layer 0, of which the size of a head is taken,
// and an MLP beside every attention, since it leaves out a layer of width 0 whole. They are
// as small as can be, of zeros, and add nothing to the residual stream.
func (p *Program) inFile() arch.Spec {
	s := &p.from.Spec
	if p.Architecture != arch.GGUFPerLayer {
		return *s
	}
	widths, attention := slices.Clone(s.Widths), make([]arch.HeadCount, s.Layers)
	neurons, heads := 0, 0
	for l := range s.Layers {
		attention[l] = s.AttentionAt(l)
		if l == 0 && attention[l].Queries == 0 {
			attention[l] = arch.HeadCount{Queries: 1, KV: 1}
			heads++
		}
		if widths[l] == 0 && attention[l].Queries > 0 {
			widths[l] = zeroWidth
			neurons++
		}
	}
	if neurons+heads > 0 {
		p.Notes = append(p.Notes, fmt.Sprintf("llama.cpp needs an MLP beside every attention, and an attention in layer 0: %d layers get %d neurons, and %d a head, of zeros, which add nothing", neurons, zeroWidth, heads))
	}
	return s.WithLayers(widths, attention)
}

// zeroWidth is the width of an MLP of zeros: a whole block.
const zeroWidth = 32

// covered lists the model types that can be exported.
func covered() []string {
	var names []string
	for i := range arch.Families {
		if f := &arch.Families[i]; f.GGUF != "" {
			names = append(names, f.ModelType)
		}
	}
	return names
}

func defaultActivation(name string) arch.Activation {
	if strings.HasPrefix(name, "gemma") {
		return arch.GELUTanh
	}
	return arch.SiLU
}

// checkRope refuses rotary embeddings that have no keys.
func checkRope(t *arch.Transformer, name string) error {
	r := &t.Ropes[0]
	switch {
	case r.Dim != t.HeadDim:
		return fmt.Errorf("partial_rotary_factor: %d of the %d values of a head are rotated, which export does not cover", r.Dim, t.HeadDim)
	case r.Type == arch.RopeLlama3 && name != "llama" && name != arch.GGUFPerLayer:
		return fmt.Errorf("rope_scaling: llama.cpp's %s has no llama3 scaling", name)
	case r.Type != arch.RopeDefault && r.Type != arch.RopeLinear && r.Type != arch.RopeLlama3:
		return fmt.Errorf("rope_scaling: export covers default, linear and llama3, not %s", r.Type)
	}
	if len(t.Ropes) > 1 { // gemma3's sliding layers
		if near := &t.Ropes[1]; near.Type != arch.RopeDefault || near.Theta != 1e4 || near.Dim != t.HeadDim {
			return fmt.Errorf("rope_local_base_freq is %v (%s), and llama.cpp's %s rotates sliding layers by 10000, unscaled", near.Theta, near.Type, name)
		}
	}
	return nil
}

// checkAttention refuses scales that llama.cpp derives otherwise.
func checkAttention(t *arch.Transformer, name string, s *arch.Spec) error {
	dim := float64(s.HeadDim)
	if name == "gemma2" && s.Layers == 46 || name == "gemma3" && s.Layers == 62 { // the 27B models, as llama.cpp knows them
		dim = float64(s.Hidden / s.Heads)
	}
	if want := 1 / math.Sqrt(dim); !nearly(float64(t.AttentionScale), want) {
		return fmt.Errorf("attention is scaled by %v (query_pre_attn_scalar), and llama.cpp's %s of %d layers scales it by %v", t.AttentionScale, name, s.Layers, want)
	}
	if name == "gemma3" && (t.AttentionCap != 0 || t.LogitCap != 0) {
		return fmt.Errorf("attn_logit_softcapping or final_logit_softcapping is set, which llama.cpp's gemma3 does not compute")
	}
	if name == "gemma2" && (t.AttentionCap == 0 || t.LogitCap == 0) {
		return fmt.Errorf("attn_logit_softcapping or final_logit_softcapping is not set, and llama.cpp's gemma2 always computes both")
	}
	if s.AttentionBias && name != "llama" && name != "deci" && name != "qwen2" {
		return fmt.Errorf("attention_bias: llama.cpp's %s has no biases in its attention", name)
	}
	return nil
}

// checkWindows compares the layers that slide with those that llama.cpp lets slide: all
// but every second (gemma2) or sixth (gemma3). In other architectures none does, which
// makes a difference behind the window only: the user is told.
func (p *Program) checkWindows(t *arch.Transformer, name string) error {
	every := map[string]int{"gemma2": 2, "gemma3": 6}[name]
	window := 0
	for l, layer := range t.Layers {
		if every == 0 {
			window = max(window, layer.Window)
			continue
		}
		if slides := (l+1)%every != 0; slides != (layer.Window > 0) {
			return fmt.Errorf("layer_types: layer %d slides: %v, and in llama.cpp's %s: %v (layers were dropped?)", l, layer.Window > 0, name, slides)
		}
	}
	if window > 0 && window < t.MaxPositions {
		p.Notes = append(p.Notes, fmt.Sprintf("llama.cpp's %s knows no sliding window: the same up to %d tokens, and beyond it attends to all", name, window))
	}
	return nil
}
