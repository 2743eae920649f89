package enginetest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/coppice-lm/coppice/engine"
)

// probe is the sequence that equivalent models are compared on.
func probe(t *testing.T, open Opener, m *Model) []engine.Score {
	t.Helper()
	return score(t, open(t, m, Options{}), next(sequence(1, 60)))[0]
}

func mlpName(layer int, name string) string {
	return fmt.Sprintf("model.layers.%d.mlp.%s", layer, name)
}

// testPermuted: the order of neurons does not matter but for rounding.
func testPermuted(t *testing.T, open Opener) {
	m := model(t, TinyLlama)
	want := probe(t, open, m)
	h := m.Transformer.Hidden
	for l := range m.Transformer.Layers {
		width := m.Transformer.Layers[l].Width
		for _, name := range []string{"gate_proj.weight", "up_proj.weight"} {
			w := m.Weights[mlpName(l, name)]
			old := slices.Clone(w)
			for j := range width {
				copy(w[j*h:(j+1)*h], old[(width-1-j)*h:])
			}
		}
		down := m.Weights[mlpName(l, "down_proj.weight")]
		for o := range h {
			slices.Reverse(down[o*width : (o+1)*width])
		}
	}
	if d := near(probe(t, open, m), want); d > 1e-4 {
		t.Errorf("permuted neurons change log-probabilities by %.2g of the largest", d)
	}
}

// testZeroNeurons: neurons of zeros at the end of an MLP change no bit. Of weights in
// blocks this holds for whole blocks of them.
func testZeroNeurons(t *testing.T, open Opener) {
	pairs := [][2][]int{{{48, 48, 48}, {64, 48, 80}}, {{32, 64, 96}, {64, 64, 160}}}
	for _, precision := range precisions {
		for i, widths := range pairs {
			if i == 0 && precision > engine.F16 {
				continue
			}
			m, wide := model(t, TinyLlama, widths[0]...), model(t, TinyLlama, widths[1]...)
			addZeros(m, wide)
			node := next(sequence(1, 60))
			want := score(t, open(t, m, Options{Precision: precision}), node)
			got := score(t, open(t, wide, Options{Precision: precision}), node)
			sameBits(t, fmt.Sprint("zero neurons, ", precision), got[0], want[0])
		}
	}
}

// addZeros gives wide the weights of m, and zeros to its neurons beyond those.
func addZeros(m, wide *Model) {
	h := m.Transformer.Hidden
	for name, w := range m.Weights {
		to := wide.Weights[name]
		clear(to)
		from, into := len(w)/h, len(to)/h // columns, where rows are hidden
		for r := range h {
			if len(w) == len(to) {
				copy(to, w)
			} else if slices.Equal(wide.shapes[name][1:], m.shapes[name][1:]) {
				copy(to, w) // gate, up: more rows
			} else {
				copy(to[r*into:], w[r*from:(r+1)*from])
			}
		}
	}
}

// testWidths: layers of different widths run, and each layer's own neurons count.
func testWidths(t *testing.T, open Opener) {
	m := model(t, TinyLlama, 1, 48, 200)
	want := probe(t, open, m)
	for l, layer := range m.Transformer.Layers {
		w := m.Weights[mlpName(l, "up_proj.weight")]
		old := slices.Clone(w)
		clear(w[(layer.Width-1)*m.Transformer.Hidden:])
		if d := near(probe(t, open, m), want); d == 0 {
			t.Errorf("layer %d of width %d: its last neuron does not count", l, layer.Width)
		}
		copy(w, old)
	}
}

// testBiases: each of the seven biases of a layer has an effect, and where the config
// has none, none is needed.
func testBiases(t *testing.T, open Opener) {
	m := model(t, With(TinyLlama, map[string]any{"attention_bias": true, "mlp_bias": true}))
	want := probe(t, open, m)
	n := 0
	for name, w := range m.Weights {
		if !hasSuffix(name, ".bias") {
			continue
		}
		n++
		old := slices.Clone(w)
		for i := range w {
			w[i] += 0.5 + 0.01*float32(i)
		}
		got := probe(t, open, m)
		// A constant added to all keys of a position cancels in the softmax, but
		// rotated keys are not shifted alike.
		if d := near(got, want); d < 1e-6 {
			t.Errorf("%s has no effect", name)
		}
		copy(w, old)
	}
	if layers := len(m.Transformer.Layers); n != 7*layers {
		t.Errorf("%d biases in %d layers, expected 7 in each", n, layers)
	}
}

func hasSuffix(s, suffix string) bool {
	return len(s) >= len(suffix) && s[len(s)-len(suffix):] == suffix
}

// testSpellings: old and new ways to write the same rotary embedding give equal bits.
func testSpellings(t *testing.T, open Opener) {
	llama3 := map[string]any{"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
	with := func(more map[string]any) map[string]any {
		all := map[string]any{}
		for k, v := range llama3 {
			all[k] = v
		}
		for k, v := range more {
			all[k] = v
		}
		return all
	}
	for name, spellings := range map[string][]map[string]any{
		"theta": {
			{"rope_theta": 5e5},
			{"rope_parameters": map[string]any{"rope_theta": 5e5}},
			{"rope_parameters": map[string]any{"rope_theta": 5e5, "rope_type": "default"}, "rope_theta": nil},
		},
		"llama3": {
			{"rope_theta": 5e5, "rope_scaling": with(map[string]any{"rope_type": "llama3"})},
			{"rope_theta": 5e5, "rope_scaling": with(map[string]any{"type": "llama3"})},
			{"rope_parameters": with(map[string]any{"rope_type": "llama3", "rope_theta": 5e5})},
		},
	} {
		plain := probe(t, open, model(t, TinyLlama))
		want := probe(t, open, model(t, With(TinyLlama, spellings[0])))
		if near(want, plain) == 0 {
			t.Errorf("%s: the key has no effect", name)
		}
		for i, s := range spellings[1:] {
			sameBits(t, fmt.Sprintf("%s, spelling %d", name, i+1), probe(t, open, model(t, With(TinyLlama, s))), want)
		}
	}
}

// testFused: phi3's fused tensors give the bits of the same weights unfused.
func testFused(t *testing.T, open Opener) {
	plain := model(t, With(TinyLlama, map[string]any{"rms_norm_eps": 1e-5}))
	fused := model(t, With(TinyLlama, map[string]any{"model_type": "phi3", "rms_norm_eps": 1e-5}))
	for name, w := range plain.Weights {
		if to, ok := fused.Weights[name]; ok {
			copy(to, w)
		}
	}
	for l := range plain.Transformer.Layers {
		p := fmt.Sprintf("model.layers.%d.", l)
		join := func(to string, from ...string) {
			var all []float32
			for _, f := range from {
				all = append(all, plain.Weights[p+f+".weight"]...)
			}
			copy(fused.Weights[p+to+".weight"], all)
		}
		join("self_attn.qkv_proj", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
		join("mlp.gate_up_proj", "mlp.gate_proj", "mlp.up_proj")
	}
	sameBits(t, "fused", probe(t, open, fused), probe(t, open, plain))
}

// testHead: a tied model gives the bits of an untied one whose head is a copy, and not
// those of one whose head is not.
func testHead(t *testing.T, open Opener) {
	tied := model(t, With(TinyLlama, map[string]any{"tie_word_embeddings": true}))
	untied := model(t, TinyLlama)
	want := probe(t, open, tied)
	if near(probe(t, open, untied), want) == 0 {
		t.Error("a head of its own has no effect")
	}
	copy(untied.Weights["lm_head.weight"], untied.Weights["model.embed_tokens.weight"])
	sameBits(t, "a copied head", probe(t, open, untied), want)
}

// testHeadDim: heads need not divide hidden_size; head_dim null is hidden_size / heads.
func testHeadDim(t *testing.T, open Opener) {
	odd := model(t, With(TinyLlama, map[string]any{
		"hidden_size": 64, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 24}))
	if s := probe(t, open, odd); s[0].LogProb >= 0 {
		t.Errorf("a log-probability of %v", s[0].LogProb)
	}
	sameBits(t, "head_dim null", probe(t, open, model(t, With(TinyLlama, map[string]any{"head_dim": nil}))),
		probe(t, open, model(t, With(TinyLlama, map[string]any{"head_dim": 8}))))
}
