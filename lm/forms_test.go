package lm_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"testing"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/internal/synth"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/surgery"
	"github.com/coppice-lm/coppice/tensor"
)

// inForm prunes a model to the given widths and writes it in a form.
func inForm(t *testing.T, model string, widths []int, form plan.Form) string {
	t.Helper()
	ctx := context.Background()
	c, err := checkpoint.Open(model)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	scores, err := score.Compute(ctx, c, score.MaxAbs, score.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Build(scores, &c.Spec, plan.Rule{Widths: widths, Align: 1, AlignMode: plan.Nearest})
	if err != nil {
		t.Fatal(err)
	}
	if p, err = p.InForm(form, &c.Spec); err != nil {
		t.Fatal(err)
	}
	prog, err := surgery.Compile(p, c, tensor.Invalid)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "out")
	sink, err := checkpoint.Create(dir, c.Path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Abort()
	if err := prog.Run(ctx, c, sink, nil, surgery.Options{Threads: 1, ShardBytes: checkpoint.DefaultShardBytes}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// answers are the log-likelihoods of single bytes after contexts of several lengths.
func answers(t *testing.T, dir string, p engine.Precision) []float64 {
	t.Helper()
	m, err := lm.Open(context.Background(), dir, lm.Options{Precision: p, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	var requests []eval.TokenRequest
	for n := 1; n < 24; n += 11 {
		r := eval.TokenRequest{}
		for i := range n {
			r.Context = append(r.Context, int32(31*i*i+n)%synth.VocabSize)
		}
		r.Continuation = []int32{int32(5 * n), 256, int32(n)}
		requests = append(requests, r)
	}
	values := make([]float64, len(requests))
	if err := m.Score(context.Background(), requests, func(i int, r eval.TokenResult) error {
		values[i] = r.LogLikelihood
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return values
}

// TestFormsComputeTheSame: a model whose layers differ in width gives, run as it is, the
// bits of the same model padded by zero neurons, in every form; a plan that keeps all
// gives those of the dense model.
func TestFormsComputeTheSame(t *testing.T) {
	const width = 512
	for _, test := range []struct {
		family string
		biases bool
		forms  []plan.Form
	}{
		{"llama", false, []plan.Form{plan.Transformers, plan.DeciLM}},
		{"llama", true, []plan.Form{plan.Transformers, plan.DeciLM}},
		{"mistral", false, []plan.Form{plan.Transformers}},
		{"qwen2", false, []plan.Form{plan.Transformers}},
	} {
		var config map[string]any
		if err := json.Unmarshal(synth.Config(64, width, 3, 4, 2, synth.VocabSize, true), &config); err != nil {
			t.Fatal(err)
		}
		config["model_type"], config["attention_bias"], config["mlp_bias"] = test.family, test.biases, test.biases
		b, err := json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		dense := filepath.Join(t.TempDir(), "dense")
		if err := synth.Write(dense, b, tensor.BF16, 5, checkpoint.DefaultShardBytes); err != nil {
			t.Fatal(err)
		}
		if err := synth.WriteTokenizer(dense); err != nil {
			t.Fatal(err)
		}
		for _, precision := range []engine.Precision{engine.F32, engine.BF16} {
			name := fmt.Sprintf("%s, biases %v, %v", test.family, test.biases, precision)
			uneven := []int{300, width, 1}
			want := answers(t, inForm(t, dense, uneven, plan.Padded), precision)
			for _, form := range test.forms {
				same(t, name+", "+string(form), answers(t, inForm(t, dense, uneven, form), precision), want)
			}
			whole := inForm(t, dense, []int{width, width, width}, plan.Transformers)
			same(t, name+", keep all", answers(t, whole, precision), answers(t, dense, precision))
		}
	}
}

func same(t *testing.T, name string, got, want []float64) {
	t.Helper()
	for i := range want {
		if math.Float64bits(got[i]) != math.Float64bits(want[i]) {
			t.Errorf("%s: request %d gives %v, the padded model %v", name, i, got[i], want[i])
		}
	}
	if want[0] == want[1] {
		t.Errorf("%s: all answers are %v; the test tells nothing apart", name, want[0])
	}
}

// A model that a form is written for is opened in that form, and the padded one plain.
func TestFormsAreReadBack(t *testing.T) {
	dense := filepath.Join(t.TempDir(), "dense")
	if err := synth.Write(dense, synth.Config(64, 512, 2, 4, 2, synth.VocabSize, true), tensor.BF16, 5, checkpoint.DefaultShardBytes); err != nil {
		t.Fatal(err)
	}
	for form, want := range map[plan.Form]arch.Form{plan.Transformers: arch.PerLayer, plan.DeciLM: arch.DeciLM, plan.Padded: arch.Plain} {
		c, err := checkpoint.Open(inForm(t, dense, []int{100, 512}, form))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.RequireWidths(); c.Spec.Form != want || err != nil {
			t.Errorf("%s: read as %v, %v", form, c.Spec.Form, err)
		}
		c.Close()
	}
}
