package arch

import (
	"slices"
	"testing"
)

// FuzzTransformer: no config makes Transformer or Frequencies panic, and what is
// accepted is within bounds.
func FuzzTransformer(f *testing.F) {
	const shape = `"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 5, "intermediate_size": 4`
	for _, more := range []string{
		`"model_type": "llama", "rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}`,
		`"model_type": "llama", "rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 1}`,
		`"model_type": "qwen3", "head_dim": 4, "layer_types": ["sliding_attention", "full_attention", "full_attention"], "use_sliding_window": true`,
		`"model_type": "gemma3_text", "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8}, "sliding_attention": null}`,
		`"model_type": "phi3", "rope_scaling": {"type": "su", "short_factor": [1, 2], "long_factor": [3, 4]}, "original_max_position_embeddings": 2`,
		`"model_type": "smollm3", "no_rope_layers": [1, 0, 1]`,
		`"model_type": "granite", "attention_multiplier": 1e-3, "logits_scaling": 0`,
		`"model_type": "coppice_qwen2", "intermediate_sizes": [4, 1, 3], "auto_map": {"AutoConfig": "a--b.C", "AutoTokenizer": [null, "d.E"]}`,
		`"model_type": "nemotron-nas", "block_configs": [{"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 1.5}}, {"attention": {"n_heads_in_group": 2}, "ffn": {"intermediate_size": 3}}, {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 96.0}}]`,
		`"model_type": "llama", "rope_scaling": {"rope_type": "dynamic", "factor": 1e300}, "max_position_embeddings": 2`,
	} {
		f.Add([]byte("{" + shape + ", " + more + "}"))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := ParseConfig(raw)
		if err != nil {
			return
		}
		s, err := FromConfig(c)
		if err != nil || s.Layers > 64 || s.HeadDim > 1024 {
			return
		}
		for _, form := range []Form{PerLayer, Plain, DeciLM} {
			to := s
			if to.Form = form; to.CanBe(form) != nil || form == DeciLM && slices.ContainsFunc(s.Widths, func(w int) bool { return w%DeciMultiple != 0 }) {
				continue
			}
			changed := c.Clone()
			if SetForm(changed, &s, &to) != nil {
				continue // an auto_map that is no object
			}
			got, err := FromConfig(changed)
			if err != nil || got.Form != form || form != Plain && !slices.Equal(got.Widths, s.Widths) {
				t.Fatalf("in the form %v: %v of widths %v, %v\n%s", form, got.Form, got.Widths, err, changed.Bytes())
			}
		}
		tr, err := s.Transformer(c)
		if err != nil {
			return
		}
		for i, l := range tr.Layers {
			if l.Rope >= len(tr.Ropes) || l.Window < 0 || l.Width != s.Widths[i] {
				t.Fatalf("layer %d is out of bounds: %+v", i, l)
			}
		}
		for i := range tr.Ropes {
			for _, length := range []int{1, tr.MaxPositions, tr.MaxPositions + 1} {
				if got, _ := tr.Ropes[i].Frequencies(length); 2*len(got) > tr.HeadDim {
					t.Fatalf("%d frequencies for a head of %d", len(got), tr.HeadDim)
				}
			}
		}
	})
}
