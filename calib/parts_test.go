package calib

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/internal/synth"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/tensor"
)

// A layer without MLP has no sums, but the tokens and streams that the others have; that
// attention is missing elsewhere makes no difference to how sums are taken.
func TestCollectWithoutMLP(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tiny")
	c, err := arch.ParseConfig(synth.Config(32, tinyWidth, tinyLayers, 4, 2, synth.VocabSize, true))
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]any{"model_type": "coppice_llama", "intermediate_sizes": []int{tinyWidth, 0, 24},
		"num_attention_heads_per_layer": []int{0, 4, 2}, "num_key_value_heads_per_layer": []int{0, 2, 1}} {
		if err := c.Set(key, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := synth.Write(dir, c.Bytes(), tensor.F32, 1, checkpoint.DefaultShardBytes); err != nil {
		t.Fatal(err)
	}
	if err := synth.WriteTokenizer(dir); err != nil {
		t.Fatal(err)
	}
	st := openStats(t, collect(t, openTiny(t, dir), writeText(t, 20), options()))
	for l, width := range []int{tinyWidth, 0, 24} {
		s, err := st.Layer(l)
		if err != nil {
			t.Fatal(err)
		}
		if s.Width != width || len(s.Body.Sum) != width || s.Body.N != st.Body || s.First.N != st.First || s.Held.N != st.Held {
			t.Errorf("layer %d: width %d with sums of %d, and %d, %d, %d tokens; want %d, and %d, %d, %d", l, s.Width, len(s.Body.Sum), s.Body.N, s.First.N, s.Held.N, width, st.Body, st.First, st.Held)
		}
		if !(s.Body.Stream.Energy > 0) || width > 0 && !(s.Body.Trace() > 0) {
			t.Errorf("layer %d: energy %v, trace %v", l, s.Body.Stream.Energy, s.Body.Trace())
		}
	}
}

func (f *fixture) sharer(t *testing.T, opt WidthOptions) (*sharer, []row) {
	t.Helper()
	batches, err := heldBackText(f.model, f.stats, []string{f.text}, &f.options)
	if err != nil {
		t.Fatal(err)
	}
	var rows []row
	for _, b := range batches {
		rows = append(rows, b.rows...)
	}
	return &sharer{ctx: context.Background(), checkpoint: f.checkpoint, stats: f.stats, scores: f.scores, opt: opt, rule: opt.Rule, threads: 2,
		losses: lossMeter{model: f.model, checkpoint: f.checkpoint, stats: f.stats, batches: batches, threads: 2}}, rows
}

// What is measured of a part, in a model of which parts have gone already, is what the models
// that plans write lose without it; and the parameters are those that it takes with it.
func TestLesionsAgainstWrittenModels(t *testing.T) {
	f := newFixture(t, 2)
	opt := f.widths()
	opt.Units = plan.Units
	s, rows := f.sharer(t, opt)
	rule := plan.Rule{Widths: []int{24, 12, 8}, DropHeads: []plan.KVHead{{Layer: 0, Head: 0}}, DropAttention: []int{2}, Align: 1, AlignMode: plan.Nearest}
	lesions, err := s.lesions(rule)
	if err != nil {
		t.Fatal(err)
	}
	// Layers 0 to 2; the attention of layers 0 and 1; the heads of layer 1, since the last of
	// layer 0 is its attention.
	if len(lesions) != 7 {
		t.Fatalf("%d parts can go: %+v", len(lesions), lesions)
	}
	p, err := s.plan(rule)
	if err != nil {
		t.Fatal(err)
	}
	base := f.lossOf(t, p, rows)
	whole, err := rule.Parameters(&f.checkpoint.Spec)
	if err != nil {
		t.Fatal(err)
	}
	last := math.Inf(-1)
	for _, l := range lesions {
		without := rule.Without(l.Part)
		if p, err = s.plan(without); err != nil {
			t.Fatal(err)
		}
		rise, _ := f.lossOf(t, p, rows).rise(base)
		if math.Abs(rise-l.rise) > 1e-6 || l.rise == 0 || !(l.change > 0) {
			t.Errorf("%v raises the loss by %v, written %v; the stream changes by %v", l.Part, l.rise, rise, l.change)
		}
		after := p.Spec(&f.checkpoint.Spec)
		if _, n := after.Parameters(); n != whole-l.parameters {
			t.Errorf("%v has %d parameters; %d of %d are left", l.Part, l.parameters, n, whole)
		}
		if cost := l.rise / float64(l.parameters); cost < last {
			t.Errorf("%v is not in the order of what parts cost", l.Part)
		} else {
			last = cost
		}
	}
}

// idle makes a small random Llama of which the attention of layer 1 adds nothing to the stream.
func idle(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "idle")
	config := synth.Config(32, tinyWidth, tinyLayers, 4, 2, synth.VocabSize, true)
	cfg, err := arch.ParseConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := arch.FromConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	sink, err := checkpoint.Create(dir, "", false)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Abort()
	var infos []tensor.Info
	for _, i := range spec.Tensors() {
		infos = append(infos, tensor.Info{Name: i.Name, DType: tensor.F32, Shape: i.Shape})
	}
	if err := sink.Layout(infos, checkpoint.DefaultShardBytes); err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		err := synth.Fill(i, 1, func(b []byte, off int64) error {
			if i.Name == "model.layers.1.self_attn.o_proj.weight" {
				clear(b)
			}
			return sink.WriteAt(i.Name, b, off)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(sink.Commit(config), synth.WriteTokenizer(dir)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Parts that add nothing go, and what they had goes to neurons: the model is no larger
// than the budget, and not smaller than it by more than a step; and it is the same at any
// number of threads. Where no round of widths follows, the widths are the residual curve's.
// An attention that goes is named without its heads.
func TestShareParts(t *testing.T) {
	f := newFixtureOf(t, idle(t), 2)
	spec := &f.checkpoint.Spec
	headsFirst := []plan.Unit{plan.HeadUnit, plan.AttentionUnit, plan.LayerUnit}
	for _, test := range []struct {
		rounds int
		units  []plan.Unit
	}{{0, plan.Units}, {1, plan.Units}, {0, headsFirst}} {
		opt := f.widths()
		opt.Units, opt.Rounds = test.units, test.rounds
		done := int64(0)
		opt.Progress = func(d, total int64) {
			if d <= done || d > total {
				t.Errorf("%d of %d layers after %d", d, total, done)
			}
			done = d
		}
		var notes []string
		opt.Note = func(s string) { notes = append(notes, s) }
		rule, a, err := f.share(opt)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(rule.DropAttention, 1) {
			t.Fatalf("the attention that adds nothing stays: %+v", rule)
		}
		if all := strings.Join(notes, "\n"); !regexp.MustCompile(`without (.+, )?the attention of layer 1[, ]`).MatchString(all) || regexp.MustCompile(`head \d of layer 1,.* the attention of layer 1`).MatchString(all) {
			t.Errorf("notes:\n%s", all)
		}
		budget, err1 := opt.Rule.Parameters(spec)
		n, err2 := rule.Parameters(spec)
		if err1 != nil || err2 != nil || n > budget || n <= budget-int64((opt.Step+1)*3*spec.Hidden) {
			t.Errorf("%d parameters of a budget of %d: %v, %v, %v", n, budget, rule, err1, err2)
		}
		s, _ := f.sharer(t, opt)
		only, _, err := plan.Allocate(f.scores.Curves, spec, opt.Rule, plan.AllocateOptions{Curve: plan.Residual, Step: opt.Step, Refit: opt.Refit})
		if err != nil {
			t.Fatal(err)
		}
		loss := func(r plan.Rule) float64 {
			l, err := s.loss(r)
			if err != nil {
				t.Fatal(err)
			}
			return l.mean()
		}
		if got := loss(rule); got != a.Divergence || got >= loss(only) || a.DivergenceUniform != loss(opt.Rule) {
			t.Errorf("the loss is %v, said to be %v; with neurons alone %v", got, a.Divergence, loss(only))
		}
		if !reflect.DeepEqual(a.Units, test.units) || !reflect.DeepEqual(a.Budget, opt.Rule) {
			t.Errorf("%+v", a)
		}
		one := newFixtureOf(t, idle(t), 1)
		opt.Progress = nil
		rule1, a1, err := one.share(opt)
		if err != nil || !reflect.DeepEqual(rule, rule1) || !reflect.DeepEqual(a, a1) {
			t.Errorf("one thread: %+v %+v, %v; two: %+v %+v", rule1, a1, err, rule, a)
		}
	}
}
