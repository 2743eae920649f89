package export

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/internal/synth"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/tensor"
	"github.com/coppice-lm/coppice/tokenizer"
)

// model writes a checkpoint of random weights, whose layers have the widths, with a
// tokenizer, and opens it. Keys are set in its config.
func model(t *testing.T, widths []int, keys map[string]any) *checkpoint.Checkpoint {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "model")
	c, err := arch.ParseConfig(synth.Config(64, slices.Max(widths), len(widths), 4, 2, synth.VocabSize, true))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range keys {
		if err := c.Set(k, v); err != nil {
			t.Fatal(err)
		}
	}
	spec, err := arch.FromConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	spec = spec.WithWidths(widths)
	sink, err := checkpoint.Create(dir, "", false)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Abort()
	var infos []tensor.Info
	for _, x := range spec.Tensors() {
		infos = append(infos, tensor.Info{Name: x.Name, DType: tensor.F32, Shape: x.Shape})
	}
	if err := sink.Layout(infos, checkpoint.DefaultShardBytes); err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		if err := synth.Fill(i, 1, func(b []byte, off int64) error { return sink.WriteAt(i.Name, b, off) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := sink.Commit(c.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := synth.WriteTokenizer(dir); err != nil {
		t.Fatal(err)
	}
	m, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// written exports a model and opens the file.
func written(t *testing.T, c *checkpoint.Checkpoint, opt Options) *checkpoint.Checkpoint {
	t.Helper()
	p, err := Compile(c, opt)
	if err != nil {
		t.Fatal(err)
	}
	paths := p.Paths(filepath.Join(t.TempDir(), "m.gguf"))
	sink, err := checkpoint.CreateFiles(paths[0], paths, c.Path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Abort()
	if err := p.Run(t.Context(), sink, RunOptions{Threads: 2}); err != nil {
		t.Fatal(err)
	}
	m, err := checkpoint.Open(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func mix(t *testing.T, name string) Mix {
	t.Helper()
	m, err := ParseMix(name)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// values are a tensor's elements.
func values(t *testing.T, c *checkpoint.Checkpoint, name string) []float32 {
	t.Helper()
	info, ok := c.Lookup(name)
	if !ok {
		t.Fatalf("%s: no tensor %q", c.Path, name)
	}
	b, v := make([]byte, info.RowBytes()*int64(info.Rows())), make([]float32, info.RowElements()*info.Rows())
	if err := c.ReadRows(name, b, 0, info.Rows()); err != nil {
		t.Fatal(err)
	}
	if err := tensor.Decode(v, b, info.DType); err != nil {
		t.Fatal(err)
	}
	return v
}

// sublayers are the keys of a config with an MLP and an attention of its own size in each layer.
func sublayers(widths, heads, kvHeads []int) map[string]any {
	return map[string]any{"model_type": "coppice_llama", "intermediate_sizes": widths, "num_attention_heads_per_layer": heads, "num_key_value_heads_per_layer": kvHeads}
}

func biased(keys map[string]any) map[string]any {
	keys["attention_bias"], keys["mlp_bias"] = true, true
	return keys
}

// What llama.cpp needs where the model has nothing is zeros that add nothing.
func TestZeroSublayers(t *testing.T) {
	c := model(t, []int{96, 0, 64, 32}, sublayers([]int{96, 0, 64, 32}, []int{0, 4, 2, 0}, []int{0, 2, 1, 0}))
	p, err := Compile(c, Options{Mix: mix(t, "q8_0")})
	if err != nil || p.Architecture != "deci" || len(p.Notes) != 1 || !strings.Contains(p.Notes[0], "1 layers get 32 neurons, and 1 a head, of zeros") {
		t.Fatalf("%v, %v", p, err)
	}
	if _, n := p.Parameters(); n != parameters(&c.Spec) {
		t.Errorf("%d parameters, the model has %d", n, parameters(&c.Spec))
	}
	back := written(t, c, Options{Mix: mix(t, "f16")})
	if want := []arch.HeadCount{{Queries: 1, KV: 1}, {Queries: 4, KV: 2}, {Queries: 2, KV: 1}, {}}; !slices.Equal(back.Spec.Attention, want) || !slices.Equal(back.Spec.Widths, []int{96, 32, 64, 32}) {
		t.Errorf("attention %v, widths %v", back.Spec.Attention, back.Spec.Widths)
	}
	for _, x := range back.Spec.Tensors() {
		if _, had := c.Lookup(x.Name); had {
			continue
		}
		want := float32(0)
		if x.Role == arch.Norm {
			want = 1
		}
		if slices.ContainsFunc(values(t, back, x.Name), func(v float32) bool { return v != want }) {
			t.Errorf("%s is not all %v", x.Name, want)
		}
	}
}

func parameters(s *arch.Spec) int64 {
	_, n := s.Parameters()
	return n
}

// Every family comes back as it was, a llama with a width a layer as deci.
func TestComesBack(t *testing.T) {
	for _, test := range []struct {
		name   string
		widths []int
		keys   map[string]any
		want   string
	}{
		{"llama", []int{96, 96, 96}, map[string]any{"attention_bias": true, "mlp_bias": true}, "llama"},
		{"untied", []int{96, 96}, map[string]any{"tie_word_embeddings": false}, "llama"},
		{"llama3", []int{96, 96}, map[string]any{"rope_theta": 500000.0, "rope_scaling": map[string]any{"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}, "llama"},
		{"widths", []int{96, 32, 64, 1}, nil, "deci"},
		{"attention", []int{96, 32, 64}, sublayers([]int{96, 32, 64}, []int{4, 0, 2}, []int{2, 0, 1}), "deci"},
		{"biased attention", []int{96, 96, 96}, biased(sublayers([]int{96, 96, 96}, []int{4, 4, 0}, []int{2, 1, 0})), "deci"},
		{"mistral", []int{96, 96}, map[string]any{"model_type": "mistral", "sliding_window": nil}, "llama"},
		{"qwen2", []int{96, 96}, map[string]any{"model_type": "qwen2"}, "qwen2"},
		{"qwen3", []int{96, 96}, map[string]any{"model_type": "qwen3", "head_dim": 32}, "qwen3"},
		{"gemma2", []int{96, 96}, map[string]any{"model_type": "gemma2", "head_dim": 32, "query_pre_attn_scalar": 32}, "gemma2"},
		{"gemma3", []int{96, 96}, map[string]any{"model_type": "gemma3_text", "head_dim": 32, "query_pre_attn_scalar": 32}, "gemma3"},
		{"phi3", []int{96, 96}, map[string]any{"model_type": "phi3", "sliding_window": nil}, "phi3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := model(t, test.widths, test.keys)
			p, err := Compile(c, Options{Mix: mix(t, "f32")})
			if err != nil {
				t.Fatal(err)
			}
			if p.Architecture != test.want {
				t.Errorf("architecture %s, want %s", p.Architecture, test.want)
			}
			back := written(t, c, Options{Mix: mix(t, "f32"), PartBytes: 100 << 10})
			if !slices.Equal(back.Spec.Widths, test.widths) || !slices.Equal(back.Spec.Attention, c.Spec.Attention) || back.Spec.AttentionBias != c.Spec.AttentionBias || back.Spec.MLPBias != c.Spec.MLPBias {
				t.Errorf("widths %v, want %v", back.Spec.Widths, test.widths)
			}
			for _, x := range c.Spec.Tensors() {
				got, want := values(t, back, x.Name), values(t, c, x.Name)
				for i := range want {
					// A norm plus and less one has lost what is below the last place of one.
					if d := math.Abs(float64(got[i] - want[i])); d > 0 && (!c.Spec.Family.GGUFNormPlus || x.Role != arch.Norm || d > 3e-7) {
						t.Fatalf("%s: element %d is %v, want %v", x.Name, i, got[i], want[i])
					}
				}
			}
			a, err1 := c.Spec.Transformer(c.Config)
			b, err2 := back.Spec.Transformer(back.Config)
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			if test.name == "llama3" { // factors in the place of settings, of the same frequencies
				was, wasScale := a.Ropes[0].Frequencies(1)
				is, isScale := b.Ropes[0].Frequencies(1)
				if len(a.Ropes) != 1 || len(b.Ropes) != 1 || wasScale != isScale {
					t.Errorf("ropes %+v, want %+v", b.Ropes, a.Ropes)
				}
				for i, f := range was {
					if !nearly(float64(is[i]), float64(f)) {
						t.Errorf("frequency %d is %v, want %v", i, is[i], f)
					}
				}
				a.Ropes, b.Ropes = nil, nil
			}
			if diff := cmp.Diff(a, b); diff != "" {
				t.Errorf("what is computed (-was +is):\n%s", diff)
			}
		})
	}
}

func TestCompileRefuses(t *testing.T) {
	for _, test := range []struct {
		widths []int
		keys   map[string]any
		want   string
	}{
		{[]int{96, 32}, map[string]any{"model_type": "qwen2"}, "one width for all; carry its plan out with --form padded"},
		{[]int{96, 96}, map[string]any{"model_type": "coppice_qwen2", "intermediate_sizes": []int{96, 96}, "num_attention_heads_per_layer": []int{4, 0}, "num_key_value_heads_per_layer": []int{2, 0}}, "the attention of its layers differs"},
		{[]int{96, 96}, map[string]any{"model_type": "granite"}, `"granite" is a family that export does not cover`},
		{[]int{96, 96}, map[string]any{"model_type": "gemma2", "head_dim": 32, "query_pre_attn_scalar": 32, "tie_word_embeddings": false}, "gemma2 has no head of its own"},
		{[]int{96, 96}, map[string]any{"model_type": "gemma2", "head_dim": 32, "query_pre_attn_scalar": 8}, "query_pre_attn_scalar"},
		{[]int{96, 96}, map[string]any{"model_type": "gemma2", "head_dim": 32, "query_pre_attn_scalar": 32, "layer_types": []string{"full_attention", "full_attention"}}, "layer 0 slides: false"},
		{[]int{96, 96}, map[string]any{"model_type": "gemma3_text", "head_dim": 32, "query_pre_attn_scalar": 32, "rope_local_base_freq": 500.0}, "rope_local_base_freq is 500"},
		{[]int{96, 96}, map[string]any{"model_type": "phi3", "sliding_window": nil, "partial_rotary_factor": 0.5}, "partial_rotary_factor"},
		{[]int{96, 96}, map[string]any{"model_type": "qwen2", "rope_scaling": map[string]any{"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}}, "no llama3 scaling"},
	} {
		if _, err := Compile(model(t, test.widths, test.keys), Options{Mix: mix(t, "f16")}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: error %v, want one that says %q", test.keys, err, test.want)
		}
	}
	c := model(t, []int{96}, nil)
	if _, err := Compile(c, Options{Mix: mix(t, "f16"), Name: "small-Phi-3-like"}); err == nil || !strings.Contains(err.Error(), "looks for the token </s>") {
		t.Errorf("a name of Phi-3: %v", err)
	}
	c = model(t, []int{96}, map[string]any{"model_type": "mistral", "sliding_window": 8})
	p, err := Compile(c, Options{Mix: mix(t, "f16")})
	if err != nil || len(p.Notes) != 1 || !strings.Contains(p.Notes[0], "the same up to 8 tokens") {
		t.Errorf("a window: %v, %v", p.Notes, err)
	}
}

// The rule of more bits: the first and last eighth, and every third between.
func TestMoreBits(t *testing.T) {
	var got []int
	for i := range 30 {
		if moreBits(i, 30) {
			got = append(got, i)
		}
	}
	if want := []int{0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestFit(t *testing.T) {
	for _, test := range []struct {
		d    tensor.DType
		n    int
		want tensor.DType
	}{{tensor.Q4_K, 512, tensor.Q4_K}, {tensor.Q4_K, 544, tensor.Q5_0}, {tensor.Q5_K, 32, tensor.Q5_1}, {tensor.Q6_K, 96, tensor.Q8_0}, {tensor.Q6_K, 100, tensor.F16}} {
		if got, err := fit(test.d, test.n); got != test.want || err != nil {
			t.Errorf("%v in rows of %d: %v, %v, want %v", test.d, test.n, got, err, test.want)
		}
	}
	if _, err := fit(tensor.Q8_0, 100); err == nil {
		t.Error("rows of 100 in Q8_0: no error")
	}
}

// Statistics weigh the errors of down_proj and of nothing else.
func TestImportance(t *testing.T) {
	c := model(t, []int{96, 96}, nil)
	fingerprint, err := c.Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	head := score.StatsHead{Version: score.StatsVersion, Model: fingerprint, Body: 10, Widths: c.Spec.Widths}
	path := filepath.Join(t.TempDir(), "stats")
	w, err := score.CreateStats(path, head)
	if err != nil {
		t.Fatal(err)
	}
	for l := range 2 {
		s := score.NewLayerStats(96)
		s.Body.N = 10
		for i := range 96 {
			s.Body.Gram[(i+1)*(i+2)/2-1] = math.Exp2(float64(i%12)) - 1
		}
		if err := w.WriteLayer(l, s); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	st, err := score.OpenStats(path)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	plain, weighted := written(t, c, Options{Mix: mix(t, "q4_k_m")}), written(t, c, Options{Mix: mix(t, "q4_k_m"), Stats: st})
	loss := func(m *checkpoint.Checkpoint, name string) (sum float64) {
		got, want := values(t, m, name), values(t, c, name)
		for i := range want {
			e := float64(got[i] - want[i])
			sum += e * e * (math.Exp2(float64(i%96%12)) - 1)
		}
		return sum
	}
	const down, up = "model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.up_proj.weight"
	if a, b := loss(plain, down), loss(weighted, down); b > 0.95*a {
		t.Errorf("the weighted error is %v with statistics, %v without", b, a)
	}
	if !slices.Equal(values(t, plain, up), values(t, weighted, up)) {
		t.Error("statistics changed another tensor")
	}
	other := model(t, []int{96, 96, 96}, nil)
	if _, err := Compile(other, Options{Mix: mix(t, "q4_0"), Stats: st}); err == nil || !strings.Contains(err.Error(), "of another model") {
		t.Errorf("statistics of another model: %v", err)
	}
}

func TestSizeLabel(t *testing.T) {
	for n, want := range map[int64]string{134_515_008: "135M", 1_944_443_904: "1.9B", 3_212_749_824: "3.2B", 86_770_368: "87M", 109_056: "109K", 7_000: "7.0K", 70_553_706_496: "71B"} {
		if got := sizeLabel(n); got != want {
			t.Errorf("%d parameters: %s, want %s", n, got, want)
		}
	}
}

const chatML = `{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}`

// speaking is a tokenizer with a chat template.
func speaking(t *testing.T, template string) *tokenizer.Tokenizer {
	t.Helper()
	config, err := json.Marshal(map[string]string{"eos_token": synth.EndOfText, "chat_template": template})
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Load(synth.Tokenizer(), config)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// The template that is found writes the chats that the model's own writes.
func TestModelfile(t *testing.T) {
	withDefault := `{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe good.<|im_end|>\n' }}{% endif %}` + chatML
	for _, test := range []struct{ source, system string }{{chatML, ""}, {withDefault, "Be good."}} {
		tok := speaking(t, strings.ReplaceAll(test.source, "<|im_end|>", synth.EndOfText))
		v, err := probe(tok)
		if err != nil {
			t.Fatal(err)
		}
		if v.system != test.system {
			t.Errorf("system %q, want %q", v.system, test.system)
		}
		parsed, err := template.New("").Parse(v.template())
		if err != nil {
			t.Fatal(err)
		}
		chat := []tokenizer.Message{{Role: "system", Content: "S"}, {Role: "user", Content: "U"}, {Role: "assistant", Content: "A"}, {Role: "user", Content: "V"}}
		for from := range 2 { // with and without the system message
			want, err := tok.Chat(chat[from:], true)
			if err != nil {
				t.Fatal(err)
			}
			system := test.system
			if from == 0 {
				system = "S"
			}
			var got strings.Builder
			if err := parsed.Execute(&got, map[string]any{"System": system, "Messages": chat[from:]}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got.String()); diff != "" {
				t.Errorf("from turn %d (-model's +Modelfile's):\n%s", from, diff)
			}
		}
		p := &Program{Chat: tok, Card: Card{Text: `a """ b`}}
		text, notes := p.Modelfile("m.gguf")
		for _, want := range []string{"FROM ./m.gguf\n", "TEMPLATE \"\"\"", "PARAMETER stop \"" + synth.EndOfText + "\"\n", "LICENSE \"\"\"a \" \" \" b\"\"\"\n"} {
			if !strings.Contains(text, want) || notes != nil {
				t.Errorf("the Modelfile lacks %q: %s %v", want, text, notes)
			}
		}
		p.Chat = speaking(t, `{{ messages[0]['content'] }}`)
		if text, notes := p.Modelfile("m.gguf"); len(notes) != 1 || strings.Contains(text, "TEMPLATE") {
			t.Errorf("a template that drops turns: %s %v", text, notes)
		}
	}
}

// What is in the way of a file stays as it is.
func TestRunAborts(t *testing.T) {
	c := model(t, []int{96}, nil)
	p, err := Compile(c, Options{Mix: mix(t, "q8_0")})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	sink, err := checkpoint.CreateFiles(filepath.Join(dir, "m.gguf"), []string{filepath.Join(dir, "m.gguf")}, c.Path, false)
	if err != nil {
		t.Fatal(err)
	}
	c.Close() // reading fails
	if err := p.Run(t.Context(), sink, RunOptions{Threads: 2}); err == nil {
		t.Error("no error")
	}
	sink.Abort()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
