package calib

import (
	"bytes"
	"context"
	"errors"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/surgery"
)

// stepOptions takes a few short steps.
func stepOptions() StepOptions { return StepOptions{Options: options(), Steps: 3, StepTokens: 1024} }

// thirdsOf is the plan of dense.thirds, refitted from the fixture's statistics.
func (f *fixture) thirdsOf(t *testing.T) *plan.Plan {
	t.Helper()
	p := dense{f.checkpoint, f.model}.thirds(t)
	if err := surgery.PlanRefit(context.Background(), p, f.checkpoint, f.stats, surgery.RefitOptions{Method: plan.LeastSquares, Cap: 1, Damping: 0.1, Threads: 1}); err != nil {
		t.Fatal(err)
	}
	return p
}

// Steps lower the divergence on held-back text, and what they report is what the written
// model, opened and run, comes to there. Layers that are not pruned stay as they are.
func TestStepsHelp(t *testing.T) {
	f := newFixture(t, 2)
	d := dense{f.checkpoint, f.model}
	for name, p := range map[string]*plan.Plan{"from statistics": f.thirdsOf(t), "from nothing": d.thirds(t)} {
		stats := f.stats
		if p.Refit == nil {
			stats = nil
		}
		var fits []StepFit
		opt := stepOptions()
		opt.Report = func(s StepFit) { fits = append(fits, s) }
		out := filepath.Join(t.TempDir(), "weights")
		w, err := RefitPredictions(context.Background(), f.model, f.checkpoint, stats, p, []string{f.text}, out, opt)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if len(fits) != opt.Steps || fits[0].Length == 0 || !(fits[2].After < 0.98*fits[0].Before) {
			t.Fatalf("%s: steps %v", name, fits)
		}
		for i := 1; i < len(fits); i++ {
			if fits[i].Before != fits[i-1].After || fits[i].After > fits[i].Before {
				t.Errorf("%s: steps %v", name, fits)
			}
		}
		if p.Refit == nil || p.Refit.Method != plan.Propagated || p.Refit.Target != plan.PredictionsTarget || p.Layers[1].Damping != 0 {
			t.Errorf("%s: the plan has the refit %+v, layer 1 %v", name, p.Refit, p.Layers[1].Damping)
		}
		if w.Widths[0] != 0 || w.Widths[1] != 24 || !w.Inner {
			t.Errorf("%s: weights of %v neurons", name, w.Widths)
		}
		if got, want := heldDivergence(t, f, d.prune(t, p, w)), fits[2].After; math.Abs(got-want) > 1e-5*want {
			t.Errorf("%s: the written model is off by %v, the steps said %v", name, got, want)
		}
	}
}

// heldDivergence is the divergence of a checkpoint's predictions from the fixture's model's
// on the held-back text, where steps look at it.
func heldDivergence(t *testing.T, f *fixture, dir string) float64 {
	t.Helper()
	text, err := layRows(f.model, mustRead(t, f.text), &f.options)
	if err != nil {
		t.Fatal(err)
	}
	sum, n := 0.0, 0
	pruned := openThreads(t, dir, 1).Engine()
	for _, b := range text.batches() {
		if !b.rows[0].held {
			continue
		}
		forest := forestOf(&b, compared)
		a := runThrough(t, f.model.Engine(), forest)
		c := runThrough(t, pruned, forest)
		all, err := pruned.Divergence(context.Background(), forest, a, c)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range all {
			sum += v
		}
		n += len(all)
	}
	return sum / float64(n)
}

// runThrough takes a batch through a model.
func runThrough(t *testing.T, m engine.Layerwise, b engine.Batch) []float32 {
	t.Helper()
	x := make([]float32, b.Tokens()*m.Model().Hidden)
	if err := m.Embed(context.Background(), b, x); err != nil {
		t.Fatal(err)
	}
	for l := range m.Model().Layers {
		layer, err := m.Layer(context.Background(), l)
		if err == nil {
			err = layer.Run(context.Background(), b, x, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return x
}

func mustRead(t *testing.T, path string) []document {
	t.Helper()
	documents, err := readSources([]string{path})
	if err != nil {
		t.Fatal(err)
	}
	return documents
}

// A call that ended after any of the steps goes on there, and ends with the same bytes; on
// other numbers of threads, too. One whose output is there does nothing.
func TestStepsSameBytes(t *testing.T) {
	f := newFixture(t, 2)
	out := filepath.Join(t.TempDir(), "weights")
	opt := stepOptions()
	take := func(ctx context.Context, out string, opt StepOptions) (string, error) {
		p := f.thirdsOf(t)
		w, err := RefitPredictions(ctx, f.model, f.checkpoint, f.stats, p, []string{f.text}, out, opt)
		if err != nil {
			return "", err
		}
		return p.Refit.Stats, w.Close()
	}
	fingerprint, err := take(context.Background(), out, opt)
	if err != nil {
		t.Fatal(err)
	}
	want := read(t, out)
	for die := 1; die < opt.Steps; die++ {
		again := filepath.Join(t.TempDir(), "weights")
		ctx, cancel := context.WithCancel(context.Background())
		steps := 0
		opt := opt
		opt.Threads = 1
		opt.Report = func(StepFit) {
			if steps++; steps == die {
				cancel()
			}
		}
		if _, err := take(ctx, again, opt); !errors.Is(err, context.Canceled) {
			t.Fatalf("cancelled: %v", err)
		}
		steps = opt.Steps // so that it is not cancelled again
		left := 0
		opt.Report = func(StepFit) { left++ }
		got, err := take(context.Background(), again, opt)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(t, again), want) || got != fingerprint {
			t.Errorf("ended after step %d: other bytes", die)
		}
		if left != opt.Steps-die {
			t.Errorf("ended after step %d: %d steps were taken again", die, left)
		}
		if hidden, _ := filepath.Glob(filepath.Join(filepath.Dir(again), ".*")); len(hidden) > 0 {
			t.Errorf("left behind: %v", hidden)
		}
	}
	opt.Report = func(StepFit) { t.Error("stepped again") }
	if _, err := take(context.Background(), out, opt); err != nil {
		t.Fatal(err)
	}
	other := f.thirdsOf(t)
	other.Layers[1].Damping *= 2
	if _, err := RefitPredictions(context.Background(), f.model, f.checkpoint, f.stats, other, []string{f.text}, out, opt); err == nil || !strings.Contains(err.Error(), "other refitted weights") {
		t.Errorf("from another refit: %v", err)
	}
	opt.Damping = 1
	if _, err := take(context.Background(), out, opt); err == nil || !strings.Contains(err.Error(), "other refitted weights") {
		t.Errorf("another damping: %v", err)
	}
}

func TestStepsRefusals(t *testing.T) {
	f := newFixture(t, 1)
	d := dense{f.checkpoint, f.model}
	fingerprint, err := d.Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	refitted := d.thirds(t)
	refitted.Refit = &plan.Refit{Method: plan.Propagated, Stats: "sha256:x", Target: plan.MLPTarget}
	for want, change := range map[string]func(p **plan.Plan, o *StepOptions){
		"0 steps":                func(_ **plan.Plan, o *StepOptions) { o.Steps = 0 },
		"-1 tokens a step":       func(_ **plan.Plan, o *StepOptions) { o.StepTokens = -1 },
		"a damping of -1":        func(_ **plan.Plan, o *StepOptions) { o.Damping = -1 },
		"a damping of NaN":       func(_ **plan.Plan, o *StepOptions) { o.Damping = math.NaN() },
		"of another text":        func(_ **plan.Plan, o *StepOptions) { o.Seed = 9 },
		"refitted on a text":     func(p **plan.Plan, _ *StepOptions) { *p = refitted },
		"prunes no layer":        func(p **plan.Plan, _ *StepOptions) { *p = plan.KeepAll(fingerprint, &d.Spec) },
		"give --calib-memory":    func(_ **plan.Plan, o *StepOptions) { o.Memory = 1 << 20 },
		"the plan is for anothe": func(p **plan.Plan, _ *StepOptions) { (*p).Model = "sha256:other" },
	} {
		p, opt := f.thirdsOf(t), stepOptions()
		change(&p, &opt)
		out := filepath.Join(t.TempDir(), "weights")
		if _, err := RefitPredictions(context.Background(), f.model, f.checkpoint, f.stats, p, []string{f.text}, out, opt); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
