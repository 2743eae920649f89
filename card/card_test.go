package card

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/internal/frontmatter"
	"github.com/coppice-lm/coppice/internal/synth"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/study"
	"github.com/coppice-lm/coppice/tensor"
)

var update = flag.Bool("update", false, "write testdata/*.md anew")

// spec is a Llama of three layers of these widths.
func spec(t *testing.T, widths ...int) arch.Spec {
	t.Helper()
	c, err := arch.ParseConfig(synth.Config(64, 96, 3, 4, 2, 300, true))
	if err != nil {
		t.Fatal(err)
	}
	s, err := arch.FromConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	return s.WithWidths(widths)
}

// examplePlan keeps the first neurons of each layer.
func examplePlan(s arch.Spec) *plan.Plan {
	ratio := 0.5
	p := &plan.Plan{
		Version: plan.Version, Model: "sha256:dense", Family: "llama", Hidden: s.Hidden, Intermediate: 96,
		Method: score.MaxAbs, Rule: plan.Rule{Ratio: &ratio, Align: 1, AlignMode: plan.Nearest},
	}
	for l, w := range s.Widths {
		layer := plan.Layer{Layer: l, Width: w}
		for j := range w {
			layer.Keep = append(layer.Keep, j)
		}
		p.Layers = append(p.Layers, layer)
	}
	return p
}

// accuracyTask is a task of which so many records are right.
func accuracyTask(name string, right, n int, chance, majority float64) eval.TaskResult {
	t := eval.TaskResult{
		Name: name, Kind: eval.MultipleChoice, Version: 1, Source: name + ".jsonl", Records: n, Evaluated: n, Fingerprint: "f-" + name,
		Guessing: &eval.Guessing{Chance: chance, Majority: majority, MajorityName: "yes", Answers: []eval.AnswerRate{{Name: "no", Gold: 1 - majority, Chosen: 0.5}, {Name: "yes", Gold: majority, Chosen: 0.5}}},
	}
	scores := make([]float64, n)
	for i := range right {
		scores[i] = 1
	}
	for i, s := range scores {
		t.Samples = append(t.Samples, eval.Sample{DocID: i, Fingerprint: "x", Scores: []float64{s}, Weights: []float64{1}})
	}
	t.Metrics = []eval.Metric{{Name: eval.Acc, Value: float64(right) / float64(n), StdErr: 0.02}}
	return t
}

// clozeTask has a perplexity and an accuracy.
func clozeTask(name string, perplexity, log float64, right, n int) eval.TaskResult {
	t := eval.TaskResult{Name: name, Kind: eval.Cloze, Version: 1, Source: name + ".jsonl", Records: 5153, Evaluated: n, Fingerprint: "f-" + name}
	for i := range n {
		s := 0.0
		if i < right {
			s = 1
		}
		t.Samples = append(t.Samples, eval.Sample{DocID: i, Fingerprint: "x", Scores: []float64{-log + float64(i%3)/100, s}, Weights: []float64{1, 1}})
	}
	t.Metrics = []eval.Metric{
		{Name: eval.Perplexity, Value: perplexity, StdErr: perplexity / 10, Log: log},
		{Name: eval.Acc, Value: float64(right) / float64(n), StdErr: 0.02},
	}
	return t
}

func result(weights string, parameters int64, tasks ...eval.TaskResult) *eval.Result {
	return &eval.Result{
		Model: eval.ModelInfo{Name: "m", Parameters: parameters, DType: "f32", MaxLength: 2048, Weights: weights, Tokenizer: "t"},
		BOS:   eval.BOSTokenizer, MaxLength: 2048, Tasks: tasks,
	}
}

// example is a card made by hand.
func example(t *testing.T, widths ...int) *Card {
	t.Helper()
	s := spec(t, widths...)
	d := spec(t, 96, 96, 96)
	_, n := d.Parameters()
	card := &Card{
		Name: "me/tiny-pruned50", Base: Base{Name: "org/tiny"}, Licence: Licence{ID: "mit"}, Languages: []string{"en", "no"},
		Plan: examplePlan(s), Spec: s, Dense: d, Stored: "f16", Bytes: 168_832, Weights: "sha256:pruned",
		GGUF: ggufForm{Architecture: "llama", Type: "q8_0"},
	}
	card.pruned = result(card.Weights, 0, accuracyTask("arc_easy", 60, 200, 0.25, 0.27), accuracyTask("boolq", 90, 200, 0.5, 0.62),
		accuracyTask("piqa", 150, 200, 0.5, 0.51), clozeTask("lambada_openai", 5e7, 17.73, 0, 100))
	card.dense = result("sha256:dense", n, accuracyTask("arc_easy", 120, 200, 0.25, 0.27), accuracyTask("boolq", 100, 200, 0.5, 0.62),
		accuracyTask("piqa", 152, 200, 0.5, 0.51), clozeTask("lambada_openai", 50, 3.91, 40, 100))
	card.limits = map[string]int{"lambada_openai": 100}
	card.pruned.Usage.PeakMemory, card.dense.Usage.PeakMemory = 10e6, 20e6
	return card
}

func checkGolden(t *testing.T, card *Card, name string) {
	t.Helper()
	card.judge()
	got, err := card.Markdown()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (go test ./card -update writes it anew): -want +got\n%s", path, diff)
	}
	front, err := frontmatter.Parse(got)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(front.BaseModels, []string{card.Base.Name}) || !slices.Equal(front.Languages, card.Languages) || front.License != card.Licence.ID {
		t.Errorf("the front matter reads as %+v", front)
	}
}

func TestGolden(t *testing.T) {
	t.Run("uniform", func(t *testing.T) { checkGolden(t, example(t, 48, 48, 48), "uniform.md") })
	// Everything that a card says only sometimes: widths by layer, a calibrated score and a
	// refit, a Llama licence, a study with a meter, no baseline.
	t.Run("uneven", func(t *testing.T) {
		card := example(t, 32, 64, 48)
		card.Spec.Form = arch.PerLayer
		card.Name, card.Licence.ID, card.Author = "Llama-tiny", "llama3.2", "A. Author"
		card.Base.Revision, card.BaseChecked = "abc", true
		card.GGUF = ggufForm{Reason: "rows of 100 are no multiple of 32"}
		card.Plan.Method = score.OBS
		card.Plan.Calibration = &score.Calibration{Stats: "sha256:stats", Text: "sha256:text", Tokens: 65536}
		card.Plan.Refit = &plan.Refit{Method: plan.LeastSquares, Stats: "sha256:stats"}
		card.Plan.Allocation = &plan.Allocation{Curve: plan.Residual, Budget: card.Plan.Rule}
		card.Datasets = []string{"allenai/c4"}
		card.dense = nil
		joules, idle, net, grams, grid := 360.0, 2.0, 300.0, 0.04, 400.0
		card.record = &study.Record{Cell: study.Cell{ID: "0123456789abcdef"}, Run: &study.Run{
			Host: study.Host{OS: "linux", Arch: "amd64", CPU: "A CPU", Threads: 2, Level: "avx512"}, LoadSeconds: 0.25, PeakMemory: 5e6,
			Speed:  []study.Speed{{Kind: "decode", Context: 128, Batch: 1, DType: "f32", TokensPS: 1234}},
			Energy: &study.Energy{Meter: "tdp", Estimate: true, Joules: &joules, IdleWatts: &idle, NetJoules: &net, Tokens: 1000, GramsCO2e: &grams, Grid: &grid},
		}}
		checkGolden(t, card, "uneven.md")
	})
}

// Steps towards predictions are told, and labels where they saw any.
func TestSteps(t *testing.T) {
	for labels, want := range map[float64][]string{
		0:     {"`propagated`, target `predictions`. Then gate_proj,", "held back from them.\n", "- **Training:** none by Coppice but for the steps of the refit; the figures"},
		0.125: {"held back from them. Of that target 12.5 % is the text's own next token (labels), where no model wrote the text.\n", "of the refit, which saw labels; the figures"},
	} {
		card := example(t, 48, 48, 48)
		card.Plan.Refit = &plan.Refit{Method: plan.Propagated, Stats: "sha256:weights", Cap: 1, Target: plan.PredictionsTarget, Labels: labels}
		got, err := card.Markdown()
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range want {
			if !bytes.Contains(got, []byte(want)) {
				t.Errorf("labels %v: the card lacks %q:\n%s", labels, want, got)
			}
		}
	}
}

// Attention, heads and MLPs that went are told, of the layers that had them.
func TestParts(t *testing.T) {
	card := example(t, 48, 48, 48)
	card.Plan.Layers[0].KeepHeads = []int{1}
	card.Plan.Layers[1].DropAttention = true
	card.Plan.Layers[2].Keep, card.Plan.Layers[2].Width = []int{}, 0
	card.Spec = card.Plan.Spec(&card.Dense)
	card.judge()
	got, err := card.Markdown()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"- **Attention dropped:** in 1 of 3 layers (1).\n", "- **Heads dropped:** 1 key-value heads, with", "- **MLPs dropped whole:** in 1 of 3 layers (2).\n", "up to 4/2 heads of 16"} {
		if !bytes.Contains(got, []byte(want)) {
			t.Errorf("the card lacks %q:\n%s", want, got)
		}
	}
	shapes := card.denseShapes()
	_, dense := card.Dense.Parameters()
	if _, n := shapes[0].Parameters(); len(shapes) != 1 || n != dense {
		t.Errorf("%d shapes of the dense model, of %d parameters; it has %d", len(shapes), n, dense)
	}
}

// A value that is too large for a number is a text, others are floats that Python's YAML
// takes for such.
func TestIndexValues(t *testing.T) {
	card := example(t, 48, 48, 48)
	card.pruned = result(card.Weights, 0, clozeTask("mine", 1e6, 13.8, 0, 10))
	inf := clozeTask("big one", 1, 1, 0, 10)
	inf.Metrics[0].Value, inf.Metrics[0].Log = 1/zero(), 812.5
	inf.Metrics[1].StdErr = zero() / zero()
	card.pruned.Tasks = append(card.pruned.Tasks, inf)
	card.judge()
	got, err := card.Markdown()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"value: 1000000.0\n", "value: e^812.50\n", "type: big-one\n", "| e^812.5 |"} {
		if !bytes.Contains(got, []byte(want)) {
			t.Errorf("the card lacks %q", want)
		}
	}
}

func zero() float64 { return 0 }

// pruned writes a checkpoint with its plan.
func pruned(t *testing.T) (dir, weights string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "p")
	if err := synth.Write(dir, synth.Config(64, 48, 3, 4, 2, 300, true), tensor.F16, 1, 1<<30); err != nil {
		t.Fatal(err)
	}
	b, err := examplePlan(spec(t, 48, 48, 48)).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, checkpoint.PlanName), b, 0o666); err != nil {
		t.Fatal(err)
	}
	c, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if weights, err = lm.Identify(context.Background(), c, 1); err != nil {
		t.Fatal(err)
	}
	return dir, weights
}

// ledger writes a ledger of a dense cell and of three of the same size.
func ledger(t *testing.T, weights string) string {
	t.Helper()
	d := spec(t, 96, 96, 96)
	_, n := d.Parameters()
	record := func(id, method, dtype, weights string, parameters int64, right int) study.Record {
		task := accuracyTask("arc_easy", right, 100, 0.25, 0.27)
		r := study.Record{
			Version: study.LedgerVersion, Status: study.Done,
			Cell:       study.Cell{ID: id, Model: "m", BaseModel: "org/tiny", Method: method, DType: dtype, ModelFingerprint: "sha256:dense"},
			Shape:      &study.Shape{Parameters: parameters},
			Conditions: &study.Conditions{BOS: eval.BOSTokenizer, MaxLength: 2048, Weights: weights, Tokenizer: "t"},
		}
		st := study.Task{TaskResult: task, Scores: [][]float64{{}}, Weights: [][]float64{nil}}
		for _, s := range task.Samples {
			st.Docs = append(st.Docs, s.DocID)
			st.Scores[0] = append(st.Scores[0], s.Scores[0])
		}
		r.Tasks = []study.Task{st}
		return r
	}
	l := study.Ledger{Study: "s", Records: []study.Record{
		record("d32", study.Dense, "f32", "sha256:d", n, 60), record("d16", study.Dense, "bf16", "sha256:d", n, 59),
		record("p16", "maxabs", "bf16", weights, 1, 49), record("p32", "maxabs", "f32", weights, 1, 50),
		record("o32", "best", "f32", "sha256:o", 1, 55),
	}}
	// The study was run before with other records.
	other := record("e32", study.Dense, "f32", "sha256:d", n, 80)
	other.Cell.Data = map[string]string{"arc_easy": "others"}
	l.Records = append(l.Records, other)
	b, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "ledger.jsonl")
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBuildFromLedger(t *testing.T) {
	dir, weights := pruned(t)
	path := ledger(t, weights)
	src := Sources{Dir: dir, Ledger: path, Threads: 1}
	card, err := Build(context.Background(), src, Says{Licence: Licence{ID: "mit"}, Languages: []string{"en"}})
	if err != nil {
		t.Fatal(err)
	}
	if card.record.Cell.ID != "p32" || card.denseRecord.Cell.ID != "d32" || card.Base.Name != "org/tiny" || card.Name != "tiny-pruned50" {
		t.Errorf("cell %s against %s, %s made from %s; want p32, d32, tiny-pruned50, org/tiny", card.record.Cell.ID, card.denseRecord.Cell.ID, card.Name, card.Base.Name)
	}
	if len(card.Notes) != 1 || !strings.Contains(card.Notes[0], "cell p16") {
		t.Errorf("notes %q: want one of cell p16", card.Notes)
	}
	if test := card.rows[0].pruned.Test; test == nil || test.Records != 100 || test.OnlyBaseline != 10 {
		t.Errorf("paired test %+v: want 100 records, 10 that the dense model alone has right", test)
	}
	// Which records were asked is told by the records.
	card.pruned.Tasks[0].Records = 200
	first := card.measuring()
	card.pruned.Tasks[0].Samples[0].DocID = 150
	if picked := card.measuring(); !strings.Contains(first[0], " --limit 100") || !strings.Contains(picked[0], "# of 100 records, picked by --samples") {
		t.Errorf("the first records: %q, others: %q", first, picked)
	}
	src.Cell = "p16"
	if card, err = Build(context.Background(), src, Says{}); err != nil || card.denseRecord.Cell.ID != "d16" || card.pruned.Model.DType != "bf16" {
		t.Errorf("cell p16: %v", err)
	}
	for cell, want := range map[string]string{"o32": "sha256:o", "x": "there is no cell x"} {
		src.Cell = cell
		if _, err := Build(context.Background(), src, Says{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("cell %s: %v, want %q", cell, err, want)
		}
	}
	src.Cell = "o32"
	var foreign *ForeignError
	if _, err := Build(context.Background(), src, Says{}); !errors.As(err, &foreign) || foreign.Want != weights {
		t.Errorf("cell of other weights: %v, want a ForeignError that names both", err)
	}
	src = Sources{Dir: dir, Ledger: ledger(t, "sha256:elsewhere"), Threads: 1}
	if _, err := Build(context.Background(), src, Says{}); err == nil || !strings.Contains(err.Error(), weights) {
		t.Errorf("a ledger without the model: %v", err)
	}
	src.Ledger = ""
	if _, err := Build(context.Background(), src, Says{}); !errors.Is(err, errNoRecords) {
		t.Errorf("no records: %v", err)
	}
}

// A study of another dense model does not make the card.
func TestLedgerOfAnotherModel(t *testing.T) {
	dir, weights := pruned(t)
	path := ledger(t, weights)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.ReplaceAll(b, []byte(`"model_fingerprint":"sha256:dense"`), []byte(`"model_fingerprint":"sha256:no"`)), 0o666); err != nil {
		t.Fatal(err)
	}
	_, err = Build(context.Background(), Sources{Dir: dir, Ledger: path, Threads: 1}, Says{})
	if err == nil || !strings.Contains(err.Error(), "sha256:no") || !strings.Contains(err.Error(), "sha256:dense") {
		t.Errorf("%v: want an error that names both models", err)
	}
}

// A refit of biases leaves two shapes that the dense model can have had; its number of
// parameters tells which.
func TestDenseShapes(t *testing.T) {
	card := example(t, 48, 48, 48)
	card.Spec.MLPBias = true
	card.Plan.Refit = &plan.Refit{Method: plan.Bias}
	if err := card.findDense(context.Background(), &Sources{}); err != nil || card.Dense.MLPBias {
		t.Errorf("a dense model without biases: %v, biases %v", err, card.Dense.MLPBias)
	}
	card.dense = nil
	if err := card.findDense(context.Background(), &Sources{Dir: "p"}); err == nil || !strings.Contains(err.Error(), "--baseline") {
		t.Errorf("no dense model: %v", err)
	}
}
