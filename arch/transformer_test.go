package arch

import (
	"encoding/json"
	"maps"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// transformerOf reads a config that has the given keys beside a small Llama's.
func transformerOf(t *testing.T, keys map[string]any) (*Transformer, error) {
	t.Helper()
	all := map[string]any{
		"model_type": "llama", "vocab_size": 48, "hidden_size": 32, "intermediate_size": 48,
		"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
	}
	maps.Copy(all, keys)
	raw, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseConfig(raw)
	if err != nil {
		t.Fatal(err)
	}
	s, err := FromConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	return s.Transformer(c)
}

// That each family computes what transformers computes is tested with recorded logits
// in engine/enginetest. Here: what is wrong is an error that names the key.
func TestTransformerErrors(t *testing.T) {
	scaling := func(kv ...any) map[string]any {
		m := map[string]any{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i].(string)] = kv[i+1]
		}
		return map[string]any{"rope_scaling": m}
	}
	with := func(m map[string]any, kv ...any) map[string]any {
		for i := 0; i < len(kv); i += 2 {
			m[kv[i].(string)] = kv[i+1]
		}
		return m
	}
	keys := func(kv ...any) map[string]any { return with(map[string]any{}, kv...) }
	list := func(n int, v any) []any {
		l := make([]any, n)
		for i := range l {
			l[i] = v
		}
		return l
	}
	for _, tt := range []struct {
		name string
		keys map[string]any
		want []string
	}{
		{"activation", keys("hidden_act", "relu6"), []string{"hidden_act", "relu6"}},
		{"gemma's activation", keys("model_type", "gemma2", "hidden_activation", "tanh"), []string{"hidden_activation", "tanh"}},
		{"epsilon", keys("rms_norm_eps", -1), []string{"rms_norm_eps"}},
		{"epsilon's type", keys("rms_norm_eps", "small"), []string{"rms_norm_eps"}},
		{"rope type", scaling("rope_type", "spiral"), []string{"rope_scaling", "spiral"}},
		{"rope type, old key", scaling("type", "spiral"), []string{"rope_scaling", "spiral"}},
		{"rope type, new key", keys("rope_parameters", map[string]any{"rope_type": "spiral"}), []string{"rope_parameters", "spiral"}},
		{"no factor", scaling("rope_type", "linear"), []string{"rope_scaling", "factor", "missing"}},
		{"factor 0", scaling("rope_type", "linear", "factor", 0), []string{"factor"}},
		{"negative factor", scaling("rope_type", "dynamic", "factor", -2), []string{"factor"}},
		{"llama3 without frequencies", scaling("rope_type", "llama3", "factor", 8), []string{"low_freq_factor"}},
		{"llama3 upside down", scaling("rope_type", "llama3", "factor", 8, "low_freq_factor", 4, "high_freq_factor", 1), []string{"high_freq_factor"}},
		{"yarn's beta", scaling("rope_type", "yarn", "factor", 4, "beta_fast", -1), []string{"beta_fast"}},
		{"longrope without lists", scaling("rope_type", "longrope"), []string{"short_factor", "missing"}},
		{"longrope's length", scaling("rope_type", "longrope", "short_factor", []int{1}, "long_factor", []int{1, 1, 1, 1}), []string{"short_factor", "4"}},
		{"longrope's numbers", scaling("rope_type", "longrope", "short_factor", []int{1, 0, 1, 1}, "long_factor", []int{1, 1, 1, 1}), []string{"short_factor"}},
		{"theta", keys("rope_theta", 0), []string{"rope_theta"}},
		{"theta's type", keys("rope_theta", "1e4"), []string{"rope_theta"}},
		{"no rotated pair", keys("partial_rotary_factor", 0.1), []string{"rotated"}},
		{"odd rotation", keys("partial_rotary_factor", 0.4), []string{"3 of the 8"}},
		{"rope per layer type", keys("rope_parameters", map[string]any{"full_attention": map[string]any{}}), []string{"rope_parameters", "layer type"}},
		{"layer type", keys("model_type", "gemma2", "layer_types", list(4, "global")), []string{"layer_types", "layer 0", "global"}},
		{"too few layer types", keys("model_type", "gemma2", "layer_types", list(3, "full_attention")), []string{"layer_types", "3", "4"}},
		{"layer types' type", keys("model_type", "gemma2", "layer_types", "full_attention"), []string{"layer_types"}},
		{"window", keys("model_type", "mistral", "sliding_window", -4), []string{"sliding_window"}},
		{"pattern", keys("model_type", "gemma3_text", "sliding_window_pattern", 0), []string{"sliding_window_pattern"}},
		{"too few no_rope_layers", keys("model_type", "smollm3", "no_rope_layers", list(2, 1)), []string{"no_rope_layers"}},
		{"no_rope_layers' type", keys("model_type", "smollm3", "no_rope_layers", list(4, "yes")), []string{"no_rope_layers"}},
		{"no_rope_layer_interval", keys("model_type", "smollm3", "no_rope_layer_interval", 0), []string{"no_rope_layer_interval"}},
		{"soft cap", keys("model_type", "gemma2", "final_logit_softcapping", -3), []string{"cap"}},
		{"granite's logits", keys("model_type", "granite", "logits_scaling", -3), []string{"logits_scaling"}},
	} {
		_, err := transformerOf(t, tt.keys)
		if err == nil {
			t.Errorf("%s: no error", tt.name)
			continue
		}
		for _, w := range tt.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: the error %q does not name %q", tt.name, err, w)
			}
		}
	}
}

// Which layers see how far and are rotated how.
func TestTransformerLayers(t *testing.T) {
	for _, tt := range []struct {
		name    string
		keys    map[string]any
		windows []int
		ropes   []int
	}{
		{"llama ignores a window", map[string]any{"sliding_window": 8}, []int{0, 0, 0, 0}, []int{0, 0, 0, 0}},
		{"mistral", map[string]any{"model_type": "mistral", "sliding_window": 8}, []int{8, 8, 8, 8}, []int{0, 0, 0, 0}},
		{"mistral's default", map[string]any{"model_type": "mistral"}, []int{4096, 4096, 4096, 4096}, []int{0, 0, 0, 0}},
		{"mistral, null", map[string]any{"model_type": "mistral", "sliding_window": nil}, []int{0, 0, 0, 0}, []int{0, 0, 0, 0}},
		{"qwen2, not switched on", map[string]any{"model_type": "qwen2", "sliding_window": 8, "max_window_layers": 1}, []int{0, 0, 0, 0}, []int{0, 0, 0, 0}},
		{"qwen2", map[string]any{"model_type": "qwen2", "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1}, []int{0, 8, 8, 8}, []int{0, 0, 0, 0}},
		{"gemma2", map[string]any{"model_type": "gemma2", "sliding_window": 8}, []int{8, 0, 8, 0}, []int{0, 0, 0, 0}},
		{"gemma3", map[string]any{"model_type": "gemma3_text", "sliding_window": 8, "sliding_window_pattern": 3}, []int{8, 8, 0, 8}, []int{1, 1, 0, 1}},
		{"smollm3", map[string]any{"model_type": "smollm3"}, []int{0, 0, 0, 0}, []int{0, 0, 0, -1}},
		{"smollm3 within a window", map[string]any{"model_type": "smollm3", "use_sliding_window": true, "sliding_window": 8, "no_rope_layer_interval": 2},
			[]int{0, 8, 0, 8}, []int{0, -1, 0, -1}},
	} {
		tr, err := transformerOf(t, tt.keys)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var windows, ropes []int
		for _, l := range tr.Layers {
			windows, ropes = append(windows, l.Window), append(ropes, l.Rope)
		}
		if d := cmp.Diff(tt.windows, windows); d != "" {
			t.Errorf("%s: windows (-want +got):\n%s", tt.name, d)
		}
		if d := cmp.Diff(tt.ropes, ropes); d != "" {
			t.Errorf("%s: rotary embeddings (-want +got):\n%s", tt.name, d)
		}
	}
}

// A fused tensor is taken apart where the family's projections begin and end.
func TestTransformerProjections(t *testing.T) {
	tr, err := transformerOf(t, map[string]any{"model_type": "phi3"})
	if err != nil {
		t.Fatal(err)
	}
	const p = "model.layers.2."
	l := tr.Layers[2]
	got := []Projection{l.Q, l.K, l.V, l.Out, l.Gate, l.Up, l.Down}
	want := []Projection{
		{Weight: p + "self_attn.qkv_proj.weight", FirstRow: 0, Rows: 32, OfRows: 64},
		{Weight: p + "self_attn.qkv_proj.weight", FirstRow: 32, Rows: 16, OfRows: 64},
		{Weight: p + "self_attn.qkv_proj.weight", FirstRow: 48, Rows: 16, OfRows: 64},
		{Weight: p + "self_attn.o_proj.weight", Rows: 32, OfRows: 32},
		{Weight: p + "mlp.gate_up_proj.weight", FirstRow: 0, Rows: 48, OfRows: 96},
		{Weight: p + "mlp.gate_up_proj.weight", FirstRow: 48, Rows: 48, OfRows: 96},
		{Weight: p + "mlp.down_proj.weight", Rows: 32, OfRows: 32},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("projections (-want +got):\n%s", d)
	}
}

// Frequencies at points where each scaling has a value that can be worked out by hand.
func TestRopeFrequencies(t *testing.T) {
	base := Rope{Dim: 4, Theta: 10000, OriginalLength: 100}
	for _, tt := range []struct {
		name   string
		rope   func(r Rope) Rope
		length int
		want   [2]float64
	}{
		{"default", func(r Rope) Rope { return r }, 1000, [2]float64{1, 0.01}},
		{"linear", func(r Rope) Rope { r.Type, r.Factor = RopeLinear, 4; return r }, 1, [2]float64{0.25, 0.0025}},
		{"dynamic, within", func(r Rope) Rope { r.Type, r.Factor = RopeDynamic, 4; return r }, 100, [2]float64{1, 0.01}},
		// theta * (4*200/100 - 3)^(4/2) = 250,000
		{"dynamic, beyond", func(r Rope) Rope { r.Type, r.Factor = RopeDynamic, 4; return r }, 200, [2]float64{1, 0.002}},
		// 100 positions are 15.9 turns of the first pair (kept), 0.159 of the second (divided).
		{"llama3", func(r Rope) Rope { r.Type, r.Factor, r.LowFreq, r.HighFreq = RopeLlama3, 8, 1, 4; return r }, 1, [2]float64{1, 0.00125}},
		{"longrope, short", func(r Rope) Rope {
			r.Type, r.ShortFactors, r.LongFactors = RopeLong, []float64{1, 2}, []float64{4, 5}
			return r
		}, 100, [2]float64{1, 0.005}},
		{"longrope, long", func(r Rope) Rope {
			r.Type, r.ShortFactors, r.LongFactors = RopeLong, []float64{1, 2}, []float64{4, 5}
			return r
		}, 101, [2]float64{0.25, 0.002}},
	} {
		r := tt.rope(base)
		got, scale := r.Frequencies(tt.length)
		for i, w := range tt.want {
			if d := math.Abs(float64(got[i])/w - 1); d > 1e-6 {
				t.Errorf("%s: pair %d turns by %v, expected %v", tt.name, i, got[i], w)
			}
		}
		if scale != 1 {
			t.Errorf("%s: scale %v, expected 1", tt.name, scale)
		}
	}
}

func TestRegimes(t *testing.T) {
	dynamic := Rope{Type: RopeDynamic, OriginalLength: 100}
	long := Rope{Type: RopeLong, OriginalLength: 100}
	for _, tt := range []struct{ length, dynamic, long int }{{1, 0, 0}, {100, 0, 0}, {101, 101, 1}, {102, 102, 1}} {
		if d, l := dynamic.Regime(tt.length), long.Regime(tt.length); d != tt.dynamic || l != tt.long {
			t.Errorf("length %d: dynamic %d, longrope %d, expected %d, %d", tt.length, d, l, tt.dynamic, tt.long)
		}
	}
}
