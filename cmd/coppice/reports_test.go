package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/tensor"
)

// The tests of this file are failures that people reported of other tools, by the
// repository and number of the report. What they say of logits comes with the engine.

// optipfair#27: a small ratio and rounding made the model bigger, or pruned nothing, in
// silence.
func TestReportAlign(t *testing.T) {
	dir := t.TempDir()
	small := makeModel(t, filepath.Join(dir, "small"), "width=250", "layers=1")
	wide := makeModel(t, filepath.Join(dir, "wide"), "width=1536", "layers=1")
	out := filepath.Join(dir, "out")
	for _, tc := range []struct{ model, ratio, align, mode, becomes string }{
		{small, "0.1", "128", "nearest", "225 neurons become 256"},
		{small, "0.1", "128", "pad", "225 neurons become 256"},
		{wide, "0.05", "256", "nearest", "1460 neurons become 1536"},
	} {
		refuse(t, exitUsage, []string{"--ratio " + tc.ratio, "--align " + tc.align, tc.becomes},
			"prune", tc.model, "-o", out, "--ratio", tc.ratio, "--align", tc.align, "--align-mode", tc.mode)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("something was written")
	}
	// The width that was asked for as a number may be the model's.
	succeed(t, "prune", wide, "-o", out, "--width", "1536", "--align", "256")
	var r inspection
	decode(t, succeed(t, "inspect", small, "--json").stdout, &r)
	for _, row := range r.Ratios {
		if row.AlignedWidth > 250 || row.Width > 250 {
			t.Errorf("inspect shows widths %d and %d for a model of 250", row.Width, row.AlignedWidth)
		}
	}
}

// optipfair#20: layers were dropped, but lists with an entry a layer kept their length.
func TestReportDepth(t *testing.T) {
	for _, tc := range []struct {
		name, family, key string
		before, after     string // the list; "" where the config leaves it out
	}{
		{"layer_types", "gemma3_text", "layer_types", `["a","b","c","d"]`, `["a","d"]`},
		{"layer_types derived", "gemma3_text", "layer_types", "", `["sliding_attention","sliding_attention"]`},
		{"no_rope_layers", "smollm3", "no_rope_layers", `[1,0,1,0]`, `[1,0]`},
		{"no_rope_layers derived", "smollm3", "no_rope_layers", "", `[1,0]`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			settings := []string{"family=" + tc.family, "layers=4", "head_dim=16"}
			if tc.before != "" {
				settings = append(settings, tc.key+"="+tc.before)
			}
			in, out := makeModel(t, filepath.Join(dir, "in"), settings...), filepath.Join(dir, "out")
			succeed(t, "prune", in, "-o", out, "--drop-layers", "1,2")
			succeed(t, "verify", out, "--against", in)
			before, after := open(t, in), open(t, out)
			if n, err := after.Config.Int("num_hidden_layers", 0); n != 2 || err != nil {
				t.Errorf("num_hidden_layers is %d, %v", n, err)
			}
			if list, _ := after.Config.Raw(tc.key); string(list) != tc.after {
				t.Errorf("%s is %s, want %s", tc.key, list, tc.after)
			}
			for _, i := range after.Tensors() {
				_, got := readTensor(t, after, i.Name)
				_, want := readTensor(t, before, strings.Replace(i.Name, "layers.1.", "layers.3.", 1))
				if !bytes.Equal(got, want) {
					t.Errorf("tensor %q is not that of its layer", i.Name)
				}
			}
			// verify finds a list that was forgotten.
			if err := after.Config.Set(tc.key, []int{1, 1, 1, 1}); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(out, "config.json"), after.Config.Bytes(), 0o666); err != nil {
				t.Fatal(err)
			}
			refuse(t, exitInput, []string{`config\.json: key "` + tc.key + `" has 4 entries, but num_hidden_layers is 2`}, "verify", out)
		})
	}
}

// mlc-llm#3494: the biases of Llama variants were lost without a word.
func TestReportBias(t *testing.T) {
	dir := t.TempDir()
	in := makeModel(t, filepath.Join(dir, "in"), "layers=1", "hidden=8", "width=12", "heads=2", "kv=1", "mlp_bias=true", "attention_bias=true")
	out := filepath.Join(dir, "out")
	succeed(t, "prune", in, "-o", out, "--ratio", "0.5")
	keep := readPlan(t, filepath.Join(out, checkpoint.PlanName)).Layers[0].Keep
	if len(keep) != 6 {
		t.Fatalf("kept %v", keep)
	}
	before, after := open(t, in), open(t, out)
	for name, cut := range map[string]bool{
		"mlp.gate_proj": true, "mlp.up_proj": true, "mlp.down_proj": false,
		"self_attn.q_proj": false, "self_attn.k_proj": false, "self_attn.v_proj": false, "self_attn.o_proj": false,
	} {
		name = "model.layers.0." + name + ".bias"
		_, want := readTensor(t, before, name)
		if cut {
			want = rowsOf(want, 2, keep)
		} else if strings.Contains(name, "down") && len(want) != 2*8 {
			t.Errorf("%s has %d bytes", name, len(want))
		}
		if bytes.Equal(want, make([]byte, len(want))) {
			t.Errorf("%s is zero, which tests nothing", name)
		}
		if _, got := readTensor(t, after, name); !bytes.Equal(got, want) {
			t.Errorf("%s: got %x, want %x", name, got, want)
		}
	}
}

// onnxsim#1017: in a fused gate_up tensor a neuron is two rows, one in each half.
func TestReportFused(t *testing.T) {
	dir := t.TempDir()
	settings := []string{"layers=1", "hidden=8", "width=6", "heads=2", "kv=2", "vocab=16", "tied=false", "pad_token_id=0"}
	config, err := synthConfig(append(settings, "family=phi3"))
	if err != nil {
		t.Fatal(err)
	}
	// Each row is filled with its number, each column of down with its own.
	spec := specOf(t, string(config.Bytes()))
	var infos []tensor.Info
	for _, at := range spec.Tensors() {
		infos = append(infos, tensor.Info{Name: at.Name, DType: tensor.F32, Shape: at.Shape})
	}
	in := writeModel(t, filepath.Join(dir, "in"), config.Bytes(), infos, func(i tensor.Info) []byte {
		v := make([]float32, i.Rows()*i.RowElements())
		for k := range v {
			v[k] = float32(k / i.RowElements())
			if strings.Contains(i.Name, "down_proj") {
				v[k] = float32(k % i.RowElements())
			}
		}
		return encode(t, v)
	})
	planFile := filepath.Join(dir, "plan.json")
	succeed(t, "plan", in, "--width", "2", "-o", planFile)
	p := readPlan(t, planFile)
	if !slices.Equal(p.Layers[0].Keep, []int{4, 5}) { // the largest numbers
		t.Errorf("maxabs keeps %v", p.Layers[0].Keep)
	}
	p.Layers[0].Keep = []int{1, 4}
	writeJSON(t, planFile, p)
	out := filepath.Join(dir, "out")
	succeed(t, "apply", in, "--plan", planFile, "-o", out)
	c := open(t, out)
	info, fused := readTensor(t, c, "model.layers.0.mlp.gate_up_proj.weight")
	var want []float32
	for _, row := range []float32{1, 4, 7, 10} {
		want = append(want, slices.Repeat([]float32{row}, 8)...)
	}
	if !info.Shape.Equal(tensor.Shape{4, 8}) || !bytes.Equal(fused, encode(t, want)) {
		t.Errorf("gate_up_proj is %v %v", info.Shape, floats(t, fused))
	}
	if _, down := readTensor(t, c, "model.layers.0.mlp.down_proj.weight"); !bytes.Equal(down, encode(t, slices.Repeat([]float32{1, 4}, 8))) {
		t.Errorf("down_proj is %v", floats(t, down))
	}

	// Fused or not, the same weights have the same scores.
	phi := makeModel(t, filepath.Join(dir, "phi"), append(settings, "family=phi3", "dtype=f32")...)
	fusedModel := open(t, phi)
	config, err = synthConfig(settings)
	if err != nil {
		t.Fatal(err)
	}
	infos = nil
	spec = specOf(t, string(config.Bytes()))
	for _, at := range spec.Tensors() {
		infos = append(infos, tensor.Info{Name: at.Name, DType: tensor.F32, Shape: at.Shape})
	}
	llama := writeModel(t, filepath.Join(dir, "llama"), config.Bytes(), infos, func(i tensor.Info) []byte {
		_, both := readTensor(t, fusedModel, "model.layers.0.mlp.gate_up_proj.weight")
		switch {
		case strings.Contains(i.Name, "gate_proj"):
			return both[:len(both)/2]
		case strings.Contains(i.Name, "up_proj"):
			return both[len(both)/2:]
		}
		return random(t, i)
	})
	for _, m := range score.Methods {
		var s [2]score.Scores
		for k, model := range []string{phi, llama} {
			file := filepath.Join(dir, fmt.Sprintf("%s%d.json", m, k))
			succeed(t, "score", model, "--method", string(m), "-o", file)
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			decode(t, string(b), &s[k])
		}
		if diff := cmp.Diff(s[0].Layers, s[1].Layers); diff != "" {
			t.Errorf("%s: fused and unfused scores differ:\n%s", m, diff)
		}
	}
}

// vllm#31454: one intermediate_size in the config, another width in each layer.
func TestReportWidths(t *testing.T) {
	config, err := synthConfig([]string{"width=48"})
	if err != nil {
		t.Fatal(err)
	}
	spec := specOf(t, string(config.Bytes()))
	spec = spec.WithWidths([]int{48, 32, 40})
	var infos []tensor.Info
	for _, at := range spec.Tensors() {
		infos = append(infos, tensor.Info{Name: at.Name, DType: tensor.BF16, Shape: at.Shape})
	}
	dir := t.TempDir()
	in := writeModel(t, filepath.Join(dir, "in"), config.Bytes(), infos, func(i tensor.Info) []byte { return random(t, i) })
	var r inspection
	decode(t, succeed(t, "inspect", in, "--json").stdout, &r)
	if !slices.Equal(r.Widths, []int{48, 32, 40}) || r.Intermediate != 48 {
		t.Errorf("inspect says %v and %d", r.Widths, r.Intermediate)
	}
	if text := succeed(t, "inspect", in).stdout; !strings.Contains(text, "[48 32 40]: not what config.json says (48)") {
		t.Errorf("inspect prints\n%s", text)
	}
	// From the headers alone: the weights are cut off and nobody notices.
	file := filepath.Join(in, "model.safetensors")
	st, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 8192); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, st.Size()); err != nil {
		t.Fatal(err)
	}
	want := []string{"layer 1 is 32 neurons wide", "intermediate_size 48", "write one width for all layers into config.json, or pad"}
	out := filepath.Join(dir, "out")
	refuse(t, exitInput, want, "prune", in, "-o", out, "--ratio", "0.5")
	refuse(t, exitInput, want, "plan", in, "-o", out, "--ratio", "0.5")
	refuse(t, exitInput, want, "score", in, "-o", out)
	refuse(t, exitInput, want, "verify", in)
	if _, err := os.Stat(out); err == nil {
		t.Error("something was written")
	}

	// The way out: the widths, said in the config. A list that is not the tensors' is
	// refused as the single width was.
	say := func(widths string) string {
		c := config.Clone()
		for key, value := range map[string]string{"model_type": `"coppice_llama"`, "intermediate_sizes": widths} {
			if err := c.Set(key, rawJSON(value)); err != nil {
				t.Fatal(err)
			}
		}
		return writeModel(t, filepath.Join(t.TempDir(), "said"), c.Bytes(), infos, func(i tensor.Info) []byte { return random(t, i) })
	}
	said := say("[48,32,40]")
	succeed(t, "prune", said, "-o", out, "--ratio", "0.5")
	decode(t, succeed(t, "inspect", out, "--json").stdout, &r)
	if !slices.Equal(r.Widths, []int{24, 16, 20}) || !r.AsConfigured || r.Form != "transformers" {
		t.Errorf("pruned by half: %v, as configured %v, form %s", r.Widths, r.AsConfigured, r.Form)
	}
	wrong := say("[48,32,41]")
	want = []string{"layer 2 is 40 neurons wide", `41 \(key "intermediate_sizes"\)`, "correct config.json"}
	refuse(t, exitInput, want, "prune", wrong, "-o", out, "--ratio", "0.5", "--force")
	refuse(t, exitInput, want, "verify", wrong)
	if text := succeed(t, "inspect", wrong).stdout; !strings.Contains(text, "[48 32 40]: not what config.json says") {
		t.Errorf("inspect prints\n%s", text)
	}
	refuse(t, exitInput, []string{"has 2 entries, but num_hidden_layers is 3"}, "inspect", say("[48,32]"))
}

// The same for block_configs: an ffn_mult that means a width which the tensors lack.
func TestReportBlockWidths(t *testing.T) {
	dir := t.TempDir()
	m, deci := filepath.Join(dir, "m"), filepath.Join(dir, "deci")
	if err := synthModel(m, []string{"width=512"}); err != nil {
		t.Fatal(err)
	}
	succeed(t, "prune", m, "-o", deci, "--widths", "512,256,300", "--form", "decilm", "--quiet")
	file := filepath.Join(deci, "config.json")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(b), `"ffn_mult":6.0`, `"ffn_mult":6.1`, 1)
	if changed == string(b) {
		t.Fatalf("no ffn_mult 6.0 in\n%s", b)
	}
	if err := os.WriteFile(file, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	want := []string{"layer 1 is 256 neurons wide", `512 \(key "block_configs"\)`}
	refuse(t, exitInput, want, "verify", deci)
	refuse(t, exitInput, want, "prune", deci, "-o", filepath.Join(dir, "x"), "--ratio", "0.5")
	refuse(t, exitInput, want, "verify", deci, "--against", m)
}

// vllm#51665: a head that differs from the embedding it is said to be tied to was dropped.
func TestReportHead(t *testing.T) {
	const embed, head = "model.embed_tokens.weight", "lm_head.weight"
	// build makes a model whose head holds factor times the embedding, 0 for no head.
	build := func(t *testing.T, tied bool, factor float32, embedding bool) string {
		config, err := synthConfig([]string{fmt.Sprintf("tied=%v", tied), "layers=1"})
		if err != nil {
			t.Fatal(err)
		}
		spec := specOf(t, string(config.Bytes()))
		var infos []tensor.Info
		var e []byte
		for _, at := range spec.Tensors() {
			i := tensor.Info{Name: at.Name, DType: tensor.F32, Shape: at.Shape}
			if at.Name == embed {
				e = random(t, i)
			}
			if (at.Name != embed || embedding) && at.Name != head {
				infos = append(infos, i)
			}
		}
		if factor != 0 {
			infos = append(infos, tensor.Info{Name: head, DType: tensor.F32, Shape: tensor.Shape{spec.Vocab, spec.Hidden}})
		}
		return writeModel(t, filepath.Join(t.TempDir(), "in"), config.Bytes(), infos, func(i tensor.Info) []byte {
			if i.Name != head && i.Name != embed {
				return random(t, i)
			}
			v := floats(t, e)
			if i.Name == head {
				for k := range v {
					v[k] *= factor
				}
			}
			return encode(t, v)
		})
	}
	prune := func(t *testing.T, in string) (*checkpoint.Checkpoint, string) {
		out := filepath.Join(t.TempDir(), "out")
		r := succeed(t, "prune", in, "-o", out, "--ratio", "0.5")
		succeed(t, "verify", out, "--against", in)
		return open(t, out), r.stderr
	}
	tiedIn := func(t *testing.T, c *checkpoint.Checkpoint) bool {
		tied, err := c.Config.Bool("tie_word_embeddings", false)
		if err != nil {
			t.Fatal(err)
		}
		return tied
	}
	t.Run("another head", func(t *testing.T) {
		c, said := prune(t, build(t, true, 2, true))
		_, e := readTensor(t, c, embed)
		_, h := readTensor(t, c, head)
		if floats(t, h)[5] != 2*floats(t, e)[5] || tiedIn(t, c) {
			t.Errorf("the head is %v beside %v, tied %v", floats(t, h)[5], floats(t, e)[5], tiedIn(t, c))
		}
		if !strings.Contains(said, "note: config.json says the head is tied") || !strings.Contains(said, "tie_word_embeddings false") {
			t.Errorf("the user is told %q", said)
		}
	})
	t.Run("a copy", func(t *testing.T) {
		c, said := prune(t, build(t, true, 1, true))
		if _, ok := c.Lookup(head); ok || !tiedIn(t, c) || !strings.Contains(said, "is a copy of the tied embedding") {
			t.Errorf("head kept %v, tied %v, told %q", ok, tiedIn(t, c), said)
		}
	})
	t.Run("the head alone", func(t *testing.T) {
		c, _ := prune(t, build(t, true, 1, false))
		if _, ok := c.Lookup(head); ok {
			t.Error("the head kept its name")
		}
		if i, b := readTensor(t, c, embed); !bytes.Equal(b, random(t, i)) {
			t.Error("the embedding is not what the head was")
		}
	})
	t.Run("untied without a head", func(t *testing.T) {
		refuse(t, exitInput, []string{`tensor "lm_head\.weight" is missing`, "set tie_word_embeddings to true"}, "inspect", build(t, false, 0, true))
	})
}

// transformers#46082, vllm#28542: heads that do not divide the hidden size.
func TestReportShape(t *testing.T) {
	dir := t.TempDir()
	in := makeModel(t, filepath.Join(dir, "in"), "heads=3", "kv=1", "head_dim=24")
	var r inspection
	decode(t, succeed(t, "inspect", in, "--json").stdout, &r)
	if r.HeadDim != 24 || r.Heads != 3 || r.KVHeads != 1 {
		t.Errorf("inspect says %d heads, %d for keys and values, of %d", r.Heads, r.KVHeads, r.HeadDim)
	}
	out := filepath.Join(dir, "out")
	succeed(t, "prune", in, "-o", out, "--ratio", "0.5")
	if i, _ := open(t, out).Lookup("model.layers.0.self_attn.q_proj.weight"); !i.Shape.Equal(tensor.Shape{72, 64}) {
		t.Errorf("q_proj is %v", i.Shape)
	}
	decode(t, succeed(t, "inspect", makeModel(t, filepath.Join(dir, "null"), "head_dim=null"), "--json").stdout, &r)
	if r.HeadDim != 16 {
		t.Errorf("head_dim null means %d, want 64/4", r.HeadDim)
	}
}

// tensai#37, vllm#31464: one rule for the layout of all architectures.
func TestReportGGUFLayout(t *testing.T) {
	for _, tc := range []struct {
		name     string
		settings []string
	}{
		{"llama", []string{"family=llama", "heads=4", "kv=2"}},
		{"llama with biases", []string{"family=llama", "heads=4", "kv=2", "attention_bias=true", "mlp_bias=true", "tied=false"}},
		{"qwen2", []string{"family=qwen2", "heads=4", "kv=2"}},
		{"gemma2", []string{"family=gemma2", "heads=4", "kv=2", "head_dim=16"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			// Values of BF16 have room for the one that gemma's norms are stored with.
			hf := open(t, makeModel(t, filepath.Join(dir, "hf"), append(tc.settings, "dtype=bf16")...))
			b, err := ggufOf(hf, tensor.F32, false)
			if err != nil {
				t.Fatal(err)
			}
			file, out := filepath.Join(dir, "model.gguf"), filepath.Join(dir, "out")
			if err := os.WriteFile(file, b, 0o666); err != nil {
				t.Fatal(err)
			}
			succeed(t, "import", file, "-o", out, "--dtype", "bf16")
			got := open(t, out)
			if len(got.Tensors()) != len(hf.Tensors()) {
				t.Errorf("%d tensors, want %d", len(got.Tensors()), len(hf.Tensors()))
			}
			for _, i := range hf.Tensors() {
				_, a := readTensor(t, hf, i.Name)
				info, b := readTensor(t, got, i.Name)
				if !info.Shape.Equal(i.Shape) || !bytes.Equal(a, b) {
					t.Errorf("tensor %q %v is not the original %v", i.Name, info.Shape, i.Shape)
				}
			}
			if got.Spec.Family != hf.Spec.Family || got.Spec.MLPBias != hf.Spec.MLPBias || got.Spec.Tied != hf.Spec.Tied {
				t.Errorf("config.json says\n%s", got.Config.Bytes())
			}
		})
	}
}

func readPlan(t testing.TB, path string) *plan.Plan {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// rowsOf picks rows of size bytes.
func rowsOf(b []byte, size int, rows []int) []byte {
	var out []byte
	for _, r := range rows {
		out = append(out, b[r*size:][:size]...)
	}
	return out
}

// encode and floats go from float32 to the bytes of F32 and back.
func encode(t testing.TB, v []float32) []byte {
	t.Helper()
	b, err := binary.Append(nil, binary.LittleEndian, v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func floats(t testing.TB, b []byte) []float32 {
	t.Helper()
	v := make([]float32, len(b)/4)
	if _, err := binary.Decode(b, binary.LittleEndian, v); err != nil {
		t.Fatal(err)
	}
	return v
}
