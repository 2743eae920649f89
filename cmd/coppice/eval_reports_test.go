package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/tensor"
)

// What people reported of other tools that run models, each as a small model of which the
// log-likelihoods are known. The row eval/windows is in the script eval_length.

// rope_theta within rope_parameters is not read as 10000 (transformers#46082), and heads
// that do not divide hidden_size have the head_dim that is given.
func TestEvalConfigShape(t *testing.T) {
	flat := textModel(t, "heads=3", "kv=1", "head_dim=24", "rope_theta=500000")
	nested := textModel(t, "heads=3", "kv=1", "head_dim=24", "rope_theta=null", `rope_parameters={"rope_type":"default","rope_theta":500000.0}`)
	plain := textModel(t, "heads=3", "kv=1", "head_dim=24")
	want := scores(t, flat)
	within(t, want, scores(t, nested), 0)
	if cmp.Equal(want, scores(t, plain)) {
		t.Error("rope_theta has no effect")
	}

	scaled := textModel(t, `rope_scaling={"type":"linear","factor":4.0}`)
	parameters := textModel(t, `rope_parameters={"rope_type":"linear","factor":4.0,"rope_theta":10000.0}`)
	within(t, scores(t, scaled), scores(t, parameters), 0)

	given, null := textModel(t, "head_dim=16"), textModel(t, "head_dim=null")
	within(t, scores(t, given), scores(t, null), 0)
}

// A head that is not the embedding is used though the config says tied, and the user is
// told (vllm#51665).
func TestEvalHead(t *testing.T) {
	tied := textModel(t)
	withHead := func(settings map[string]any, factor float32) string {
		return rewrite(t, tied, settings, func(c *checkpoint.Checkpoint, info tensor.Info) []named {
			all := same(t, c, info)
			if info.Name == "model.embed_tokens.weight" {
				head := slices.Clone(all[0].values)
				for i := range head {
					head[i] *= factor
				}
				all = append(all, named{"lm_head.weight", info.Shape, head})
			}
			return all
		})
	}
	within(t, scores(t, tied), scores(t, withHead(nil, 1)), 0)
	other := withHead(nil, 2)
	within(t, scores(t, withHead(map[string]any{"tie_word_embeddings": false}, 2)), scores(t, other), 0)
	differs(t, scores(t, tied), scores(t, other))

	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("Some text."), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"eval", other, "--text", text, "--ctx", "4"}, {"generate", other, "--prompt", "a", "--max-tokens", "1"}} {
		if r := succeed(t, args...); !strings.Contains(r.stderr, "note: config.json says the head is tied to the embedding, but the file holds another lm_head.weight") {
			t.Errorf("%s does not say that the head is another: %s", args[0], r.stderr)
		}
	}
	c, err := arch.ParseConfig(open(t, tied).Config.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Set("tie_word_embeddings", false); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tied, "config.json"), c.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	refuse(t, exitInput, []string{`tensor "lm_head\.weight" is missing though config\.json does not tie it`}, "eval", tied, "--text", text, "--ctx", "4")
}

// phi3 keeps gate and up, and queries, keys and values, in one tensor each: the same
// weights as a llama give the same log-likelihoods, pruned too (onnxsim#1017).
func TestEvalFused(t *testing.T) {
	phi := textModel(t, "family=phi3", "tied=false", "pad_token_id=null")
	unfused := func(from string) string {
		settings := map[string]any{"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama"}
		return rewrite(t, from, settings, func(c *checkpoint.Checkpoint, info tensor.Info) []named {
			all := same(t, c, info)
			cols := info.RowElements()
			split := func(name string, parts ...named) []named {
				prefix := strings.TrimSuffix(info.Name, name)
				at := 0
				for i := range parts {
					rows := parts[i].shape[0]
					parts[i].name = prefix + parts[i].name
					parts[i].values = all[0].values[at*cols : (at+rows)*cols]
					at += rows
				}
				return parts
			}
			switch {
			case strings.HasSuffix(info.Name, "gate_up_proj.weight"):
				half := tensor.Shape{info.Rows() / 2, cols}
				return split("gate_up_proj.weight", named{name: "gate_proj.weight", shape: half}, named{name: "up_proj.weight", shape: half})
			case strings.HasSuffix(info.Name, "qkv_proj.weight"):
				q, kv := tensor.Shape{64, cols}, tensor.Shape{32, cols}
				return split("qkv_proj.weight", named{name: "q_proj.weight", shape: q}, named{name: "k_proj.weight", shape: kv}, named{name: "v_proj.weight", shape: kv})
			}
			return all
		})
	}
	within(t, scores(t, unfused(phi)), scores(t, phi), 0)
	pruned, prunedLlama := filepath.Join(t.TempDir(), "phi"), filepath.Join(t.TempDir(), "llama")
	succeed(t, "prune", phi, "-o", pruned, "--ratio", "0.5", "--quiet")
	succeed(t, "prune", unfused(phi), "-o", prunedLlama, "--ratio", "0.5", "--quiet")
	want := scores(t, prunedLlama)
	within(t, want, scores(t, pruned), 0)
	differs(t, want, scores(t, phi))
}

// All seven biases of a Llama with mlp_bias and attention_bias count, before and after
// pruning (mlc-llm#3494).
func TestEvalBias(t *testing.T) {
	m := textModel(t, "mlp_bias=true", "attention_bias=true")
	pruned := filepath.Join(t.TempDir(), "pruned")
	succeed(t, "prune", m, "-o", pruned, "--ratio", "0.5", "--quiet")
	for _, model := range []string{m, pruned} {
		want := scores(t, model)
		for _, name := range []string{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"} {
			without := rewrite(t, model, nil, func(c *checkpoint.Checkpoint, info tensor.Info) []named {
				all := same(t, c, info)
				if strings.HasSuffix(info.Name, name+".bias") {
					clear(all[0].values)
				}
				return all
			})
			got := scores(t, without)
			if name == "self_attn.k_proj" {
				// A bias of the keys shifts all scores of a query alike but for the
				// rotation: its effect is small.
				if cmp.Equal(want, got) {
					t.Errorf("%s: the bias of %s has no effect", model, name)
				}
				continue
			}
			differs(t, want, got)
		}
	}
	// Neurons whose weights and biases are zero may go: what is left must be the same, so
	// down_proj's bias stayed whole and the others were cut by the same index.
	dead := rewrite(t, m, nil, func(c *checkpoint.Checkpoint, info tensor.Info) []named {
		all := same(t, c, info)
		cols := info.RowElements()
		v := all[0].values
		switch {
		case strings.Contains(info.Name, "gate_proj"), strings.Contains(info.Name, "up_proj"):
			for i := 0; i < 96; i += 2 {
				clear(v[i*cols:][:cols])
			}
		}
		return all
	})
	cut := filepath.Join(t.TempDir(), "cut")
	succeed(t, "prune", dead, "-o", cut, "--width", "48", "--quiet")
	within(t, scores(t, dead), scores(t, cut), 1e-5)
}

// Layers of different widths are refused by their headers alone, and the way out works.
func TestEvalWidths(t *testing.T) {
	m := textModel(t, "width=48")
	narrow := func(c *checkpoint.Checkpoint, info tensor.Info) []named {
		all := same(t, c, info)
		layer, rest := arch.LayerOf(info.Name)
		widths := []int{48, 32, 40}
		if layer < 0 || !strings.HasPrefix(rest, "mlp.") {
			return all
		}
		n, w := &all[0], widths[layer]
		if strings.Contains(rest, "down_proj") {
			var v []float32
			for r := range info.Rows() {
				v = append(v, n.values[r*48:][:w]...)
			}
			n.values, n.shape = v, tensor.Shape{info.Rows(), w}
		} else {
			n.values, n.shape = n.values[:w*info.RowElements()], tensor.Shape{w, info.RowElements()}
		}
		return all
	}
	uneven := rewrite(t, m, nil, narrow)
	patterns := []string{`layer 1 is 32 neurons wide, but config\.json says intermediate_size 48`, "inspect", "pad"}
	refuse(t, exitInput, patterns, "eval", uneven, "--text", filepath.Join(m, "config.json"), "--ctx", "8")
	refuse(t, exitInput, patterns, "eval", uneven, "--baseline", m, "--text", filepath.Join(m, "config.json"), "--ctx", "8")
	refuse(t, exitInput, patterns, "generate", uneven, "--prompt", "x")
	// Filled up with zero neurons, as the message says, the model runs.
	padded := rewrite(t, uneven, nil, func(c *checkpoint.Checkpoint, info tensor.Info) []named {
		all := same(t, c, info)
		layer, rest := arch.LayerOf(info.Name)
		if layer < 0 || !strings.HasPrefix(rest, "mlp.") {
			return all
		}
		n, cols := &all[0], info.RowElements()
		if strings.Contains(rest, "down_proj") {
			v := make([]float32, info.Rows()*48)
			for r := range info.Rows() {
				copy(v[r*48:], n.values[r*cols:][:cols])
			}
			n.values, n.shape = v, tensor.Shape{info.Rows(), 48}
		} else {
			n.values, n.shape = append(n.values, make([]float32, (48-info.Rows())*cols)...), tensor.Shape{48, cols}
		}
		return all
	})
	scores(t, padded)
}

// Merges are read in both spellings (llama.cpp#9692), and ignore_merges is honoured
// (llama.cpp#7193): all three through the program.
func TestEvalMerges(t *testing.T) {
	m := textModel(t)
	// tokens are the first two of a text, by a tokenizer that change has been at.
	tokens := func(content string, change func(model map[string]any)) string {
		t.Helper()
		if err := writeTokenizer(m, []string{"merge=W a", "merge=Wa t"}); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(m, "tokenizer.json")
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var file map[string]any
		decode(t, string(b), &file)
		change(file["model"].(map[string]any))
		if b, err = json.Marshal(file); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o666); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), "out")
		text := filepath.Join(t.TempDir(), "text")
		if err := os.WriteFile(text, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
		succeed(t, "eval", m, "--text", text, "--ctx", "2", "-o", out, "--log-tokens", "--quiet")
		samples, err := filepath.Glob(filepath.Join(out, "samples_text_*.jsonl"))
		if err != nil || len(samples) != 1 {
			t.Fatal(samples, err)
		}
		if b, err = os.ReadFile(samples[0]); err != nil {
			t.Fatal(err)
		}
		var s struct {
			Context      [][]int `json:"context_ids"`
			Continuation [][]int `json:"continuation_ids"`
		}
		line, _, _ := strings.Cut(string(b), "\n")
		decode(t, line, &s)
		return fmt.Sprint(append(s.Context[0], s.Continuation[0]...))
	}
	want := fmt.Sprint([]int{258, 'e'}) // Wat, e, r
	if got := tokens("Water", func(map[string]any) {}); got != want {
		t.Errorf("merges as text: %s, want %s", got, want)
	}
	pairs := func(model map[string]any) { model["merges"] = [][]string{{"W", "a"}, {"Wa", "t"}} }
	if got := tokens("Water", pairs); got != want {
		t.Errorf("merges as pairs: %s, want %s", got, want)
	}
	word := func(ignore bool) func(map[string]any) {
		return func(model map[string]any) {
			model["merges"], model["ignore_merges"] = []string{}, ignore
			model["vocab"].(map[string]any)["Water"] = 290 // to which no merges lead
		}
	}
	if got, want := tokens("Water Water", word(false)), fmt.Sprint([]int{'W', 'a'}); got != want {
		t.Errorf("a word without a merge path: %s, want %s", got, want)
	}
	if got, want := tokens("Water Water", word(true)), fmt.Sprint([]int{290, ' '}); got != want {
		t.Errorf("the same with ignore_merges: %s, want %s", got, want)
	}
}
