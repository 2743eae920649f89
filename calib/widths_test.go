package calib

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/checkpoint"
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
	f := &fixture{model: openThreads(t, dir, threads), text: writeText(t, 40), options: little()}
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
	return WidthOptions{Rule: plan.Rule{Ratio: &ratio, Align: 1, AlignMode: plan.Nearest}, Step: 2, Refit: plan.LeastSquares, Cap: 0.5, Rounds: 3}
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
	var all perToken
	dense, pruned := open(t, f.checkpoint.Path), open(t, out)
	for _, r := range rows {
		p, q := dense.Engine().NewCache(), pruned.Engine().NewCache()
		for at, token := range r.tokens {
			of, by := make([]float32, dense.Engine().Model().Vocab), make([]float32, dense.Engine().Model().Vocab)
			if err := errors.Join(p.Append(ctx, []int32{token}, of), q.Append(ctx, []int32{token}, by)); err != nil {
				t.Fatal(err)
			}
			if at%compared == compared-1 && !r.first[at] {
				all = append(all, divergence(of, by))
			}
		}
	}
	return all
}

func open(t *testing.T, dir string) *lm.Model {
	t.Helper()
	m, err := lm.Open(context.Background(), dir, lm.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// divergence is the Kullback-Leibler divergence of what the second logits say from what the first do.
func divergence(p, q []float32) (sum float64) {
	logs := func(x []float32) []float64 {
		all, total := make([]float64, len(x)), 0.0
		for _, v := range x {
			total += math.Exp(float64(v))
		}
		for i, v := range x {
			all[i] = float64(v) - math.Log(total)
		}
		return all
	}
	a, b := logs(p), logs(q)
	for i := range a {
		sum += math.Exp(a[i]) * (a[i] - b[i])
	}
	return sum
}

// Losses measured layer by layer, in memory, are those of the models that the plans write.
func TestLossesAgainstWrittenModels(t *testing.T) {
	f := newFixture(t, 2)
	for _, refit := range []plan.RefitMethod{plan.LeastSquares, plan.Bias, "none"} {
		for _, drop := range [][]int{nil, {1}} {
			opt := f.widths()
			opt.Refit, opt.Rule.Drop = refit, drop
			s, rows := f.sharer(t, opt)
			rule := plan.Rule{Widths: []int{24, 12, 8}, Drop: drop, Align: 1, AlignMode: plan.Nearest}
			got, err := s.loss(rule)
			if err != nil {
				t.Fatal(err)
			}
			p, err := s.plan(rule)
			if err != nil {
				t.Fatal(err)
			}
			want := f.lossOf(t, p, rows)
			if len(got) != len(want) {
				t.Fatalf("%d losses, want %d", len(got), len(want))
			}
			for i := range got {
				if math.Abs(got[i]-want[i]) > 1e-5*max(1, want[i]) {
					t.Errorf("%s, without layers %v: loss %d is %v, that of the model that is written %v", refit, drop, i, got[i], want[i])
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
	residual, _, err := plan.Allocate(f.scores.Curves, &f.checkpoint.Spec, opt.Rule, plan.AllocateOptions{Curve: plan.Residual, Step: 2, Refit: plan.LeastSquares})
	if err != nil {
		t.Fatal(err)
	}
	loss := func(rule plan.Rule) float64 {
		l, err := s.loss(rule)
		if err != nil {
			t.Fatal(err)
		}
		return l.mean()
	}
	one := residual
	one.Widths = []int{20, 20, 20}
	slopes, err := s.whole(one)
	if err != nil {
		t.Fatal(err)
	}
	whole, _, err := plan.Allocate(f.scores.Curves, &f.checkpoint.Spec, opt.Rule, plan.AllocateOptions{Curve: plan.Measured, Slopes: slopes, Step: 2, Refit: plan.LeastSquares})
	if err != nil {
		t.Fatal(err)
	}
	if got := loss(rule); got != a.Divergence || got > loss(residual) || got > loss(whole) {
		t.Errorf("the loss is %v, said to be %v, by the residual curve %v, by the whole way %v", got, a.Divergence, loss(residual), loss(whole))
	}
	if got := loss(opt.Rule); got != a.DivergenceUniform {
		t.Errorf("the loss at one width is %v, said to be %v", got, a.DivergenceUniform)
	}
	if a.Curve != plan.Measured || len(a.Slopes) != tinyLayers || a.Stats == "" || a.Step != 2 {
		t.Errorf("%+v", a)
	}
	single := newFixture(t, 1)
	rule1, a1, err := single.share(single.widths())
	if err != nil || !reflect.DeepEqual(rule, rule1) || !reflect.DeepEqual(a, a1) {
		t.Errorf("one thread: %+v %+v, %v; two: %+v %+v", rule1, a1, err, rule, a)
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
