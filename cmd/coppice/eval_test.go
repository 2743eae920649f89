package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/parquet-go/parquet-go"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/tensor"
)

// The tests of this file change a model in a way whose effect on log-likelihoods is known,
// and hold the program to it from end to end.

// evalRecords are questions whose choices share a context, as a tree of requests has them.
const evalRecords = `{"question":"Why is the sky blue?","choices":{"text":["Light is scattered","Paint","Water"],"label":["A","B","C"]},"answerKey":"A"}
{"question":"What is ice?","choices":{"text":["Water","Fire","Water, frozen"],"label":["A","B","C"]},"answerKey":"C"}
{"question":"What do bees make?","choices":{"text":["Glass","Honey"],"label":["A","B"]},"answerKey":"B"}
`

// answer is what a ledger holds of a request.
type answer struct {
	LogLikelihood float64 `json:"loglikelihood"`
	Greedy        bool    `json:"greedy"`
}

// scores evaluates a model and returns the answers to all requests by their name.
func scores(t testing.TB, model string, args ...string) map[string]answer {
	t.Helper()
	dir := t.TempDir()
	data, out := filepath.Join(dir, "arc.jsonl"), filepath.Join(dir, "out")
	if err := os.WriteFile(data, []byte(evalRecords), 0o666); err != nil {
		t.Fatal(err)
	}
	succeed(t, append([]string{"eval", model, "--tasks", "arc_easy", "--data", "arc_easy=" + data, "-o", out, "--quiet"}, args...)...)
	answers := ledgerAnswers(t, out)
	if len(answers) != 8 {
		t.Fatalf("%d answers, want 8", len(answers))
	}
	return answers
}

// ledgerAnswers reads the ledger of an output.
func ledgerAnswers(t testing.TB, out string) map[string]answer {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(out, "ledger.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	answers := map[string]answer{}
	for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n")[1:] {
		var l struct {
			answer
			Task         string
			Doc, Request int
		}
		decode(t, line, &l)
		answers[fmt.Sprintf("%s %d.%d", l.Task, l.Doc, l.Request)] = l.answer
	}
	return answers
}

// within fails the test where two log-likelihoods differ by more than the tolerance,
// relative to the larger; 0 asks for the same bits.
func within(t testing.TB, want, got map[string]answer, tolerance float64) {
	t.Helper()
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))); diff != "" {
		t.Fatal(diff)
	}
	for key, w := range want {
		a, b := w.LogLikelihood, got[key].LogLikelihood
		if !(math.Abs(a-b) <= tolerance*max(math.Abs(a), math.Abs(b))) {
			t.Errorf("%s: log-likelihood %v, want %v", key, b, a)
		}
	}
}

// textModel makes a model with a tokenizer, in float32.
func textModel(t testing.TB, settings ...string) string {
	t.Helper()
	dir := makeModel(t, filepath.Join(t.TempDir(), "m"), append([]string{"vocab=300", "dtype=f32"}, settings...)...)
	if err := writeTokenizer(dir, nil); err != nil {
		t.Fatal(err)
	}
	return dir
}

// values decodes a tensor of a checkpoint whose weights are F32.
func values(t testing.TB, c *checkpoint.Checkpoint, name string) []float32 {
	t.Helper()
	_, b := readTensor(t, c, name)
	return floats(t, b)
}

// rewrite makes a checkpoint whose tensors are what f returns, with the config and the
// tokenizer of its origin, settings of the config changed. A nil slice leaves a tensor out.
func rewrite(t testing.TB, from string, settings map[string]any, f func(c *checkpoint.Checkpoint, info tensor.Info) []named) string {
	t.Helper()
	c := open(t, from)
	config, err := arch.ParseConfig(c.Config.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		if err := config.Set(key, settings[key]); err != nil {
			t.Fatal(err)
		}
	}
	var infos []tensor.Info
	data := map[string][]byte{}
	for _, info := range c.Tensors() {
		for _, n := range f(c, info) {
			infos = append(infos, tensor.Info{Name: n.name, DType: tensor.F32, Shape: n.shape})
			data[n.name] = encode(t, n.values)
		}
	}
	dir := writeModel(t, filepath.Join(t.TempDir(), "m"), config.Bytes(), infos, func(i tensor.Info) []byte { return data[i.Name] })
	if err := writeTokenizer(dir, nil); err != nil {
		t.Fatal(err)
	}
	return dir
}

// named is a tensor to write.
type named struct {
	name   string
	shape  tensor.Shape
	values []float32
}

// same returns a tensor as it is.
func same(t testing.TB, c *checkpoint.Checkpoint, info tensor.Info) []named {
	return []named{{info.Name, info.Shape, values(t, c, info.Name)}}
}

// What a request is asked together with, and by how many threads, changes no bit.
func TestEvalAlone(t *testing.T) {
	m := textModel(t)
	want := scores(t, m, "--threads", "2")
	within(t, want, scores(t, m, "--threads", "1"), 0)
	data := filepath.Join(t.TempDir(), "arc.jsonl")
	if err := os.WriteFile(data, []byte(evalRecords), 0o666); err != nil {
		t.Fatal(err)
	}
	alone := map[string]answer{}
	for i := range 3 {
		out := filepath.Join(t.TempDir(), "out")
		succeed(t, "eval", m, "--tasks", "arc_easy", "--data", "arc_easy="+data, "-o", out, "--quiet", "--samples", fmt.Sprintf(`{"arc_easy":[%d]}`, i))
		maps.Copy(alone, ledgerAnswers(t, out))
	}
	within(t, want, alone, 0)
}

// A model out of a GGUF file, with its tokenizer, is the model that import makes of it.
func TestEvalGGUF(t *testing.T) {
	dir := t.TempDir()
	file, imported := filepath.Join(dir, "m.gguf"), filepath.Join(dir, "m")
	if err := synthGGUF(file, []string{"vocabulary=true", "matrices=q8_0"}); err != nil {
		t.Fatal(err)
	}
	succeed(t, "import", file, "-o", imported, "--dtype", "f32", "--quiet")
	within(t, scores(t, imported), scores(t, file), 0)
}

// Records out of Parquet, whatever the file is called, are those of JSON Lines.
func TestEvalParquet(t *testing.T) {
	type choices struct {
		Text  []string `parquet:"text,list"`
		Label []string `parquet:"label,list"`
	}
	type question struct {
		Question  string  `parquet:"question"`
		Choices   choices `parquet:"choices"`
		AnswerKey string  `parquet:"answerKey"`
	}
	var rows []question
	for _, line := range strings.Split(strings.TrimSpace(evalRecords), "\n") {
		var q question
		decode(t, line, &q)
		rows = append(rows, q)
	}
	m, dir := textModel(t), t.TempDir()
	data, out := filepath.Join(dir, "arc.data"), filepath.Join(dir, "out")
	if err := parquet.WriteFile(data, rows); err != nil {
		t.Fatal(err)
	}
	succeed(t, "eval", m, "--tasks", "arc_easy", "--data", "arc_easy="+data, "-o", out, "--quiet")
	within(t, scores(t, m), ledgerAnswers(t, out), 0)
	b, err := os.ReadFile(data)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(data, b[:len(b)-9], 0o666); err != nil {
		t.Fatal(err)
	}
	refuse(t, exitInput, []string{`task arc_easy: .*arc\.data: `}, "eval", m, "--tasks", "arc_easy", "--data", "arc_easy="+data)
}

// A text ends before the first stop string that would be in it.
func TestGenerateStop(t *testing.T) {
	m := textModel(t)
	var whole, cut struct {
		Text, Reason string
		Tokens       []int
	}
	args := []string{"generate", m, "--prompt", "on and on", "--max-tokens", "40", "--temperature", "0.7", "--seed", "5", "--json", "--quiet"}
	decode(t, succeed(t, args...).stdout, &whole)
	runes := []rune(whole.Text)
	stop := string(runes[len(runes)/2:][:2])
	decode(t, succeed(t, append(args, "--stop", "not in it", "--stop", stop)...).stdout, &cut)
	if want, _, _ := strings.Cut(whole.Text, stop); cut.Text != want || cut.Reason != "stop" {
		t.Errorf("stopped by %q at %q, want %q by a stop string", cut.Reason, cut.Text, want)
	}
	if len(cut.Tokens) >= len(whole.Tokens) {
		t.Errorf("%d tokens were made, %d without a stop string", len(cut.Tokens), len(whole.Tokens))
	}
}

// Progress has requests, speed, time left, without what came from the ledger, and the
// running accuracy.
func TestRequestProgress(t *testing.T) {
	var out bytes.Buffer
	p := (&app{stderr: &out}).requestProgress("smol")
	p.show(eval.Progress{Task: "boolq", Requests: 1, Total: 100, TotalTokens: 1000})
	if out.Len() > 0 {
		t.Errorf("short work is over before a line is of use: %q", &out)
	}
	p.start, p.last = time.Now().Add(-time.Minute), time.Now().Add(-time.Minute)
	s := eval.Progress{Task: "boolq", Requests: 60, Total: 100, Tokens: 700, ResumedTokens: 100, TotalTokens: 1000, Name: "acc", Metric: 0.625, Finished: 30}
	p.show(s)
	if want := "smol boolq: 60 of 100 requests, 10 tokens/s, acc 0.625, 30s left\n"; out.String() != want {
		t.Errorf("said %q, want %q", &out, want)
	}
	out.Reset()
	p.show(s) // not again at once
	p.finish()
	quiet := (&app{stderr: &out, quiet: true}).requestProgress("smol")
	quiet.start, quiet.last = p.start, time.Now().Add(-time.Minute)
	quiet.show(s)
	if out.Len() > 0 {
		t.Errorf("said %q", &out)
	}
}

// A prune that keeps all neurons changes no bit of any log-likelihood.
func TestEvalKeepAll(t *testing.T) {
	m := textModel(t)
	out := filepath.Join(t.TempDir(), "out")
	succeed(t, "prune", m, "-o", out, "--width", "96", "--quiet")
	within(t, scores(t, m), scores(t, out), 0)
}

// Neurons in another order are the same sum in another order.
func TestEvalPermuted(t *testing.T) {
	m := textModel(t)
	const width = 96
	permuted := rewrite(t, m, nil, func(c *checkpoint.Checkpoint, info tensor.Info) []named {
		v := values(t, c, info.Name)
		p := slices.Clone(v)
		cols := info.RowElements()
		switch {
		case strings.HasSuffix(info.Name, "gate_proj.weight"), strings.HasSuffix(info.Name, "up_proj.weight"):
			for i := range width {
				copy(p[(i*35+7)%width*cols:][:cols], v[i*cols:][:cols])
			}
		case strings.HasSuffix(info.Name, "down_proj.weight"):
			for r := range info.Rows() {
				for i := range width {
					p[r*cols+(i*35+7)%width] = v[r*cols+i]
				}
			}
		}
		return []named{{info.Name, info.Shape, p}}
	})
	want, got := scores(t, m), scores(t, permuted)
	within(t, want, got, 1e-4)
	// A permutation of gate and up alone is another model: the tolerance tells them apart.
	broken := rewrite(t, permuted, nil, func(c *checkpoint.Checkpoint, info tensor.Info) []named {
		if strings.HasSuffix(info.Name, "down_proj.weight") {
			return same(t, open(t, m), info)
		}
		return same(t, c, info)
	})
	differs(t, want, scores(t, broken))
}

// differs fails the test if the log-likelihoods are the same: then what is compared
// elsewhere would tell nothing.
func differs(t testing.TB, a, b map[string]answer) {
	t.Helper()
	for key := range a {
		if math.Abs(a[key].LogLikelihood-b[key].LogLikelihood) > 1e-2 {
			return
		}
	}
	t.Error("a model with other weights gives the same log-likelihoods")
}

// Zero neurons, by which --pad and --align-mode pad fill up a layer, add nothing.
func TestEvalZeroPadding(t *testing.T) {
	m := textModel(t)
	dir := t.TempDir()
	plain, aligned := filepath.Join(dir, "plain"), filepath.Join(dir, "aligned")
	succeed(t, "prune", m, "-o", plain, "--width", "50", "--quiet")
	succeed(t, "prune", m, "-o", aligned, "--width", "50", "--align", "32", "--align-mode", "pad", "--quiet")
	if w := open(t, aligned).Spec.Intermediate; w != 64 {
		t.Fatalf("padded to %d, want 64", w)
	}
	want := scores(t, plain)
	within(t, want, scores(t, aligned), 0)
	differs(t, want, scores(t, m))

	// Some layers only, the others filled up to them.
	padded := filepath.Join(dir, "padded")
	succeed(t, "prune", m, "-o", padded, "--width", "50", "--layers", "1", "--pad", "--quiet")
	cut := rewrite(t, m, nil, func(c *checkpoint.Checkpoint, info tensor.Info) []named {
		p := open(t, padded)
		if strings.HasPrefix(info.Name, "model.layers.1.mlp") {
			return same(t, p, info)
		}
		return same(t, c, info)
	})
	within(t, scores(t, cut), scores(t, padded), 0)
}

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
