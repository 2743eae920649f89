package calib

import (
	"context"
	"math"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/surgery"
	"github.com/coppice-lm/coppice/tensor"
)

// fixture is a tiny model with statistics, scores and their curves.
type fixture struct {
	checkpoint *checkpoint.Checkpoint
	model      *lm.Layerwise
	stats      *score.Stats
	scores     *score.Scores
	text       string
	options    Options
}

func newFixture(t *testing.T, threads int) *fixture { return newFixtureOf(t, tinyDir(t), threads) }

func newFixtureOf(t *testing.T, dir string, threads int) *fixture {
	t.Helper()
	ctx := context.Background()
	f := &fixture{model: openThreads(t, dir, threads), text: writeText(t, 40), options: options()}
	var err error
	if f.checkpoint, err = checkpoint.Open(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.checkpoint.Close() })
	if f.options.Model, err = f.checkpoint.Fingerprint(); err != nil {
		t.Fatal(err)
	}
	f.options.Threads = threads
	f.stats = openStats(t, collect(t, f.model, f.text, f.options))
	f.scores, err = score.ComputeCalibrated(ctx, f.checkpoint, f.stats, score.Activation, score.CalibratedOptions{Cap: 0.5, Damping: 1e-3, Threads: threads})
	if err == nil {
		err = score.AddCurves(ctx, f.scores, f.checkpoint, f.stats, score.CurveOptions{Cap: 0.5, Damping: 1e-3, Threads: threads})
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) widths() WidthOptions {
	ratio := 0.5
	return WidthOptions{Rule: plan.Rule{Ratio: &ratio, Align: 1, AlignMode: plan.Nearest}, Step: 4, Refit: plan.LeastSquares, Cap: 0.5, Rounds: 3}
}

func (f *fixture) share(opt WidthOptions) (plan.Rule, *plan.Allocation, error) {
	return ShareWidths(context.Background(), f.model, f.checkpoint, f.stats, f.scores, []string{f.text}, f.options, opt)
}

// lossOf is the loss of a plan's model, written, opened and run whole over single rows.
func (f *fixture) lossOf(t *testing.T, p *plan.Plan, rows []row) perToken {
	t.Helper()
	ctx := context.Background()
	program, err := surgery.Compile(p, f.checkpoint, tensor.F32)
	if err == nil && program.NeedsStats() {
		err = program.Attach(f.stats, 1)
		program.HoldBack()
	}
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "pruned")
	sink, err := checkpoint.Create(out, f.checkpoint.Path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Abort()
	if err := program.Run(ctx, f.checkpoint, sink, nil, surgery.Options{Threads: 1, ShardBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	m, err := lm.Open(ctx, out, lm.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	var all perToken
	for _, r := range rows {
		node := engine.Node{Parent: -1, Tokens: r.tokens}
		for i := 1; i < len(r.tokens); i++ {
			if !r.first[i] {
				node.Targets = append(node.Targets, engine.Target{Index: i - 1, Token: r.tokens[i]})
			}
		}
		scores, err := m.Engine().Score(ctx, engine.Batch{Nodes: []engine.Node{node}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range scores[0] {
			all = append(all, -float64(s.LogProb))
		}
	}
	return all
}

// Losses measured layer by layer, in memory, with what layers share computed once, are
// those of the models that the plans write.
func TestLossesAgainstWrittenModels(t *testing.T) {
	f := newFixture(t, 2)
	batches, err := heldBackText(f.model, f.stats, []string{f.text}, &f.options)
	if err != nil {
		t.Fatal(err)
	}
	var rows []row
	for _, b := range batches {
		rows = append(rows, b.rows...)
	}
	for _, refit := range []plan.RefitMethod{plan.LeastSquares, plan.Bias, "none"} {
		for _, drop := range [][]int{nil, {1}} {
			opt := f.widths()
			opt.Refit, opt.Rule.Drop = refit, drop
			s := &sharer{ctx: context.Background(), checkpoint: f.checkpoint, stats: f.stats, scores: f.scores, opt: opt, rule: opt.Rule, threads: 2,
				losses: lossMeter{model: f.model, checkpoint: f.checkpoint, stats: f.stats, batches: batches, threads: 2}}
			rule := plan.Rule{Widths: []int{24, 12, 8}, Drop: drop, Align: 1, AlignMode: plan.Nearest}
			base, rises, err := s.loss(rule, s.changes(rule.Widths))
			if err != nil {
				t.Fatal(err)
			}
			p, err := s.plan(rule)
			if err != nil {
				t.Fatal(err)
			}
			if want := f.lossOf(t, p, rows); !slices.Equal(base, want) {
				t.Errorf("%s, without layers %v: other losses than the model that is written has: %v, %v", refit, drop, base.mean(), want.mean())
			}
			if len(rises) != tinyLayers-len(drop) {
				t.Errorf("%d changes", len(rises))
			}
			for _, r := range rises {
				other := rule
				other.Widths = slices.Clone(rule.Widths)
				other.Widths[r.layer] = r.width
				if p, err = s.plan(other); err != nil {
					t.Fatal(err)
				}
				mean, stderr := f.lossOf(t, p, rows).rise(base)
				if r.mean != mean || r.stderr != stderr || stderr == 0 {
					t.Errorf("%s: layer %d to %d raises the loss by %v ± %v, written %v ± %v", refit, r.layer, r.width, r.mean, r.stderr, mean, stderr)
				}
			}
		}
	}
}

// The widths found keep the budget, lose less than one width and than the residual curve
// does, say so truthfully, and are the same at any number of threads.
func TestShareWidths(t *testing.T) {
	f := newFixture(t, 2)
	opt := f.widths()
	done := int64(0)
	opt.Progress = func(d, total int64) {
		if d <= done || d > total {
			t.Errorf("%d of %d layers after %d", d, total, done)
		}
		done = d
	}
	rule, a, err := f.share(opt)
	if err != nil {
		t.Fatal(err)
	}
	kept := 0
	for _, w := range rule.Widths {
		kept += w
	}
	if kept != 60 {
		t.Errorf("%d neurons in all of a budget of 60: %v", kept, rule.Widths)
	}
	batches, err := heldBackText(f.model, f.stats, []string{f.text}, &f.options)
	if err != nil {
		t.Fatal(err)
	}
	s := &sharer{ctx: context.Background(), checkpoint: f.checkpoint, stats: f.stats, scores: f.scores, opt: opt, rule: opt.Rule, threads: 2,
		losses: lossMeter{model: f.model, checkpoint: f.checkpoint, stats: f.stats, batches: batches, threads: 2}}
	residual, _, err := plan.Allocate(f.scores.Curves, &f.checkpoint.Spec, opt.Rule, plan.AllocateOptions{Curve: plan.Residual, Step: 4, Refit: plan.LeastSquares})
	if err != nil {
		t.Fatal(err)
	}
	loss := func(rule plan.Rule) float64 {
		l, _, err := s.loss(rule, nil)
		if err != nil {
			t.Fatal(err)
		}
		return l.mean()
	}
	if got := loss(rule); got != a.Loss || got > loss(residual) {
		t.Errorf("the loss is %v, said to be %v, by the residual curve %v", got, a.Loss, loss(residual))
	}
	if got := loss(opt.Rule); got != a.LossUniform {
		t.Errorf("the loss at one width is %v, said to be %v", got, a.LossUniform)
	}
	if a.Curve != plan.Measured || len(a.Slopes) != tinyLayers || a.Stats == "" || a.Step != 4 {
		t.Errorf("%+v", a)
	}
	one := newFixture(t, 1)
	rule1, a1, err := one.share(one.widths())
	if err != nil || !reflect.DeepEqual(rule, rule1) || !reflect.DeepEqual(a, a1) {
		t.Errorf("one thread: %+v %+v, %v; two: %+v %+v", rule1, a1, err, rule, a)
	}
}

// Slopes alone are those of a dense model of which one layer is cut, and without rounds the
// best of the sharings by them, by the residual curve and by both is taken.
func TestShareWidthsAlone(t *testing.T) {
	f := newFixture(t, 2)
	opt := f.widths()
	opt.Rounds = 0
	s, _ := f.sharer(t, opt)
	spec := &f.checkpoint.Spec
	loss := func(rule plan.Rule) perToken {
		l, _, err := s.loss(rule, nil)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	choose := plan.AllocateOptions{Curve: plan.Residual, Step: opt.Step, Refit: opt.Refit}
	residual, _, err := plan.Allocate(f.scores.Curves, spec, opt.Rule, choose)
	if err != nil {
		t.Fatal(err)
	}
	slopes, err := s.alone(residual)
	if err != nil {
		t.Fatal(err)
	}
	dense := residual
	dense.Widths = slices.Clone(spec.Widths)
	var rises []rise
	for l, d := range spec.Widths {
		if d <= 20 {
			t.Fatalf("layer %d has %d neurons", l, d)
		}
		rises = append(rises, rise{layer: l, width: 20}) // 60 neurons in 3 layers
	}
	p, changed, layers, err := s.plans(dense, rises)
	if err != nil {
		t.Fatal(err)
	}
	divergences, err := s.losses.divergences(context.Background(), p, changed, layers)
	if err != nil || len(divergences) != len(rises) {
		t.Fatalf("%d divergences of %d changes: %v", len(divergences), len(rises), err)
	}
	for i, d := range divergences {
		if rises[i].mean, rises[i].stderr = d.rise(make(perToken, len(d))); !(rises[i].mean > 0) {
			t.Errorf("layer %d: a mean divergence of %v", i, rises[i].mean)
		}
	}
	if want := s.slopes(spec.Widths, rises); !reflect.DeepEqual(slopes, want) {
		t.Errorf("slopes %v, want %v", slopes, want)
	}
	best := loss(residual).mean()
	tempered := s.tempered(slopes, residual.Widths)
	for _, by := range [][]float64{slopes, tempered} {
		choose.Curve, choose.Slopes = plan.Measured, by
		rule, _, err := plan.Allocate(f.scores.Curves, spec, opt.Rule, choose)
		if err != nil {
			t.Fatal(err)
		}
		best = min(best, loss(rule).mean())
	}
	if _, a, err := f.share(opt); err != nil || a.Loss != best {
		t.Errorf("%+v, %v; the least loss is %v", a, err, best)
	}
	// Between the two, and of the same sum as the slopes at the widths.
	sum, of := 0.0, 0.0
	for l, c := range f.scores.Curves.Layers {
		errors, stream := opt.Refit.Errors(&c)
		e := float64(errors[residual.Widths[l]])
		sum += slopes[l] * e
		of += e / stream
	}
	for l, c := range f.scores.Curves.Layers {
		_, stream := opt.Refit.Errors(&c)
		if want := math.Sqrt(slopes[l] * sum / of / stream); math.Abs(tempered[l]-want) > 1e-12*want {
			t.Errorf("layer %d: tempered %v, want %v", l, tempered[l], want)
		}
	}
}

func TestShareWidthsRefuses(t *testing.T) {
	f := newFixture(t, 2)
	other := *f
	other.options.Tokens = 2000
	if _, _, err := other.share(f.widths()); err == nil || !strings.Contains(err.Error(), "another text") {
		t.Errorf("another text: %v", err)
	}
	few := *f
	few.text = writeText(t, 9)
	few.stats = openStats(t, collect(t, f.model, few.text, f.options))
	if _, _, err := few.share(f.widths()); err == nil || !strings.Contains(err.Error(), "held back") {
		t.Errorf("nine documents: %v", err)
	}
	plain := *f
	plain.scores = &score.Scores{Layers: f.scores.Layers}
	if _, _, err := plain.share(f.widths()); err == nil || !strings.Contains(err.Error(), "no error curves") {
		t.Errorf("no curves: %v", err)
	}
	curves := *f.scores.Curves
	curves.Stats = "sha256:other"
	unlike := *f
	unlike.scores = &score.Scores{Layers: f.scores.Layers, Curves: &curves}
	if _, _, err := unlike.share(f.widths()); err == nil || !strings.Contains(err.Error(), "sha256:other") {
		t.Errorf("curves of other statistics: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := ShareWidths(ctx, f.model, f.checkpoint, f.stats, f.scores, []string{f.text}, f.options, f.widths()); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
}

// Slopes that are all alike are found alike however noisy, and ones that differ are
// believed as far as they are measured well.
func TestShrunk(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const n = 400
	x := make([]float64, n)
	for _, test := range []struct{ spread, noise, most float64 }{{0, 0.3, 0.1}, {0.5, 0.01, 0.02}, {0.5, 1, 0.3}} {
		rises := make([]rise, n)
		truth := make([]float64, n)
		for i := range x {
			x[i] = 0.5 + r.Float64()
			truth[i] = 3 * (1 + test.spread*r.NormFloat64()/2)
			rises[i] = rise{mean: truth[i]*x[i] + 3*test.noise*x[i]*r.NormFloat64(), stderr: 3 * test.noise * x[i]}
		}
		off, raw := 0.0, 0.0
		for i, got := range shrunk(x, rises) {
			off += (got - truth[i]) * (got - truth[i]) / 9 / n
			raw += (rises[i].mean/x[i] - truth[i]) * (rises[i].mean/x[i] - truth[i]) / 9 / n
			if got < 0.2 { // a tenth of what all have in common
				t.Errorf("slope %d is %v", i, got)
			}
		}
		if off = math.Sqrt(off); off > test.most {
			t.Errorf("slopes that differ by %v with noise of %v are off by %.3f (unshrunk %.3f), expected at most %v", test.spread, test.noise, off, math.Sqrt(raw), test.most)
		}
	}
	for _, got := range shrunk([]float64{0, 0}, []rise{{mean: 1}, {mean: -1}}) {
		if got != 1 {
			t.Errorf("nothing to go by: %v", got)
		}
	}
}
