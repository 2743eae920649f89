package main

import (
	"bytes"
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
	p.requests(eval.Progress{Task: "boolq", Requests: 1, Total: 100, TotalTokens: 1000})
	if out.Len() > 0 {
		t.Errorf("short work is over before a line is of use: %q", &out)
	}
	p.start, p.last = time.Now().Add(-time.Minute), time.Now().Add(-time.Minute)
	s := eval.Progress{Task: "boolq", Requests: 60, Total: 100, Tokens: 700, ResumedTokens: 100, TotalTokens: 1000, Name: "acc", Metric: 0.625, Finished: 30}
	p.requests(s)
	if want := "smol boolq: 60 of 100 requests, 10 tokens/s, acc 0.625, 30s left\n"; out.String() != want {
		t.Errorf("said %q, want %q", &out, want)
	}
	out.Reset()
	p.requests(s) // not again at once
	p.finish()
	quiet := (&app{stderr: &out, quiet: true}).requestProgress("smol")
	quiet.start, quiet.last = p.start, time.Now().Add(-time.Minute)
	quiet.requests(s)
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
	succeed(t, "prune", m, "-o", padded, "--width", "50", "--layers", "1", "--form", "padded", "--quiet")
	cut := rewrite(t, m, nil, func(c *checkpoint.Checkpoint, info tensor.Info) []named {
		p := open(t, padded)
		if strings.HasPrefix(info.Name, "model.layers.1.mlp") {
			return same(t, p, info)
		}
		return same(t, c, info)
	})
	within(t, scores(t, cut), scores(t, padded), 0)
}
