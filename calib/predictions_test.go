package calib

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/surgery"
)

// stepOptions takes a few short steps.
func stepOptions() StepOptions { return StepOptions{Options: little(), Steps: 3, StepTokens: 1024} }

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
		if len(fits) != opt.Steps || fits[0].Length <= firstLength || !(fits[2].After < 0.98*fits[0].Before) {
			t.Fatalf("%s: steps %v", name, fits)
		}
		for i := 1; i < len(fits); i++ {
			if fits[i].Before != fits[i-1].After || fits[i].After > tolerated*fits[i].Before {
				t.Errorf("%s: steps %v", name, fits)
			}
		}
		if p.Refit == nil || p.Refit.Method != plan.Propagated || p.Refit.Target != plan.PredictionsTarget || p.Layers[1].Damping != 0 {
			t.Errorf("%s: the plan has the refit %+v, layer 1 %v", name, p.Refit, p.Layers[1].Damping)
		}
		if w.Widths[0] != 0 || w.Widths[1] != 24 || !w.Inner {
			t.Errorf("%s: weights of %v neurons", name, w.Widths)
		}
		if got, want := heldLoss(t, f, d.prune(t, p, w), 0), fits[2].After; math.Abs(got-want) > 1e-5*want {
			t.Errorf("%s: the written model is off by %v, the steps said %v", name, got, want)
		}
	}
}

// heldLoss is the divergence of a checkpoint's predictions from the fixture's model's on the held-back text, where
// steps look at it, with a share of labels from scores of the text's own tokens.
func heldLoss(t *testing.T, f *fixture, dir string, share float64) float64 {
	t.Helper()
	text, err := layRows(f.model, mustRead(t, f.text), &f.options)
	if err != nil {
		t.Fatal(err)
	}
	sum, n := 0.0, 0
	pruned := openThreads(t, dir, 1).Engine()
	for _, r := range text.rows {
		if !r.held {
			continue
		}
		ends := map[int]bool{len(r.tokens): true} // where another document begins, if any
		for _, s := range r.spans {
			ends[s.at] = true
		}
		node := engine.Node{Parent: -1, Tokens: r.tokens}
		for at := compared - 1; at < len(r.tokens); at += compared {
			if r.first[at] {
				continue
			}
			target := engine.Target{Index: at}
			if !ends[at+1] {
				target.Token = r.tokens[at+1]
			}
			node.Targets = append(node.Targets, target)
		}
		batch := engine.Batch{Nodes: []engine.Node{node}}
		c := runThrough(t, pruned, batch)
		all, err := pruned.Divergence(context.Background(), batch, runThrough(t, f.model.Engine(), batch), c)
		if err != nil {
			t.Fatal(err)
		}
		scores, err := pruned.Score(context.Background(), batch, c)
		if err != nil {
			t.Fatal(err)
		}
		for i, target := range node.Targets {
			part := share
			if ends[target.Index+1] {
				part = 0
			}
			sum += (1-part)*all[i] - part*float64(scores[0][i].LogProb)
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
	opt.Labels = 0.5
	if _, err := take(context.Background(), out, opt); err == nil || !strings.Contains(err.Error(), "other refitted weights") {
		t.Errorf("with labels: %v", err)
	}
	opt.Labels, opt.Damping = 0, 1
	if _, err := take(context.Background(), out, opt); err == nil || !strings.Contains(err.Error(), "other refitted weights") {
		t.Errorf("another damping: %v", err)
	}
}

// With labels steps lower the loss that has a share of the text's own next tokens, and say so by what the
// written model, opened and run, comes to; of text that a model wrote they are those without labels.
func TestStepsLabels(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT CHECKED: labels, which go the ways of steps without them")
	}
	f := newFixture(t, 2)
	said := ""
	take := func(text string, st *score.Stats, labels float64) (fits []StepFit, p *plan.Plan, w *surgery.Weights) {
		opt := stepOptions()
		opt.Labels, opt.Report = labels, func(s StepFit) { fits = append(fits, s) }
		opt.Warn = func(s string) { said += s }
		p = f.thirdsOf(t)
		if st == nil { // those of the fixture have another text
			p.Refit = nil
			for i := range p.Layers {
				p.Layers[i].Damping = 0
			}
		}
		w, err := RefitPredictions(context.Background(), f.model, f.checkpoint, st, p, []string{text}, filepath.Join(t.TempDir(), "weights"), opt)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { w.Close() })
		return fits, p, w
	}
	const share = 0.75
	fits, p, w := take(f.text, f.stats, share)
	if strings.Contains(said, "labels") {
		t.Errorf("of text with labels: %s", said)
	}
	if p.Refit.Labels != share || !strings.Contains(w.Recipe, "target predictions with labels 0.75 at ") {
		t.Errorf("the plan's refit %+v, weights by %s", p.Refit, w.Recipe)
	}
	none, _, _ := take(f.text, f.stats, 0)
	loss := heldLoss(t, f, dense{f.checkpoint, f.model}.prune(t, p, w), share)
	if after := fits[2].After; math.Abs(after-loss) > 1e-5*loss || !(after < 0.99*fits[0].Before) || fits[0].Before < 2*none[0].Before {
		t.Errorf("steps %v, the written model %v; without labels %v", fits, loss, none)
	}

	var written bytes.Buffer
	for _, d := range mustRead(t, f.text) {
		if err := json.NewEncoder(&written).Encode(map[string]string{"text": d.text, "written_by": "sha256:0123"}); err != nil {
			t.Fatal(err)
		}
	}
	text := filepath.Join(t.TempDir(), "written.jsonl")
	write(t, text, written.String())
	fits, _, w = take(text, nil, share)
	if !strings.Contains(w.Recipe, "at 0 tokens") || !strings.Contains(said, "labels change nothing") {
		t.Errorf("of text that a model wrote: %s, said %q", w.Recipe, said)
	}
	if none, _, _ = take(text, nil, 0); !slices.Equal(fits, none) {
		t.Errorf("text that a model wrote: steps %v with labels, %v without", fits, none)
	}
}

// With the least memory the streams before each layer are in a file, which goes with the run
// however that ends, and the weights are the same.
func TestStepsInAFile(t *testing.T) {
	f := newFixture(t, 2)
	dir := t.TempDir()
	hidden := filepath.Join(dir, ".weights.coppice-step-0-streams")
	opt := stepOptions()
	take := func(ctx context.Context, name string, memory int64) error {
		opt.Memory = memory
		w, err := RefitPredictions(ctx, f.model, f.checkpoint, f.stats, f.thirdsOf(t), []string{f.text}, filepath.Join(dir, name), opt)
		if err != nil {
			return err
		}
		return w.Close()
	}
	s, err := newStepper(context.Background(), f.model, f.checkpoint, f.stats, f.thirdsOf(t), []string{f.text}, "", opt)
	if err != nil {
		t.Fatal(err)
	}
	least := s.least()
	if most := StepsMemory(f.model.Engine().Model(), s.head.Widths, engine.F32); s.spill || least >= most {
		t.Fatalf("%d bytes for this text, %d for any, in a file: %v", least, most, s.spill)
	}
	if err := take(context.Background(), "kept", 0); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(context.Background())
	opt.Report = func(StepFit) {
		want := 4 * int64(tinyLayers) * s.most * int64(s.head.Hidden)
		if info, err := os.Stat(hidden); err != nil || info.Size() != want {
			t.Errorf("streams in a file of %d bytes: %v, %v", want, info, err)
		}
		cancel()
	}
	if err := take(ctx, "weights", least); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
	if _, err := os.Stat(hidden); err == nil {
		t.Error("cancelled: the streams are left behind")
	}
	if err := take(context.Background(), "weights", least); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, filepath.Join(dir, "weights")), read(t, filepath.Join(dir, "kept"))) {
		t.Error("streams in a file: other weights")
	}

	opt.Report, opt.Replace, opt.Damping = nil, true, 1
	if err := os.WriteFile(hidden, []byte("of a run that was killed"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := take(context.Background(), "weights", 0); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := take(context.Background(), "less", least-1); err == nil || !strings.Contains(err.Error(), "give --calib-memory") {
		t.Errorf("a byte less: %v", err)
	}
}

// Of much held-back text whole rows at even distances judge the steps, and the weights' head
// says so; little text is judged whole, under the head that it always had.
func TestStepsJudged(t *testing.T) {
	rows := func(held ...int) (all []row) {
		for i, n := range append([]int{3, 5}, held...) {
			all = append(all, row{tokens: make([]int32, n), held: i > 1})
		}
		return all
	}
	many := slices.Repeat([]int{1000}, 40)
	for name, held := range map[string][]int{"many": many, "few": many[:16], "uneven": slices.Repeat([]int{17, 1900, 400, 3000}, 20), "long": {20000, 30000}} {
		before := rows(held...)
		after := judged(before)
		all, stay, gap, total := 0, 0, 0, 0
		for _, n := range held {
			total += n
		}
		for i, at := 2, 2; i < len(before); i++ {
			all += len(before[i].tokens)
			if at < len(after) && &after[at].tokens[0] == &before[i].tokens[0] {
				stay += len(after[at].tokens)
				at++
			}
			gap = max(gap, all*judgedTokens-stay*total, stay*total-all*judgedTokens)
		}
		longest := slices.Max(held)
		switch {
		case name == "few":
			if len(after) != len(before) {
				t.Errorf("few: %d of %d rows", len(after), len(before))
			}
		case name == "long":
			if len(after) != 3 {
				t.Errorf("long: %d rows", len(after))
			}
		case stay > judgedTokens || stay < judgedTokens-longest || gap > longest*total:
			t.Errorf("%s: %d tokens, at most %d tokens from an even share", name, stay, gap/total)
		case after[0].held || after[1].held:
			t.Errorf("%s: rows that are not held back are gone", name)
		}
	}

	f := newFixture(t, 2)
	recipe := func(text string, tokens int) string {
		opt := stepOptions()
		opt.Tokens = tokens
		s, err := newStepper(context.Background(), f.model, f.checkpoint, nil, dense{f.checkpoint, f.model}.thirds(t), []string{text}, "", opt)
		if err != nil {
			t.Fatal(err)
		}
		return s.head.Recipe
	}
	const want = "propagated, target predictions, 3 steps of 4 moves on 1024 tokens, damping 10, from the neurons as they are"
	if got := recipe(f.text, 3000); got != want {
		t.Errorf("recipe %q, expected %q", got, want)
	}
	long := recipe(writeText(t, 2500), 200_000)
	if !regexp.MustCompile(`^propagated, .* 1024 tokens, judged on 16[0-9]{3} held-back ones, damping 10, from`).MatchString(long) {
		t.Errorf("recipe of much text %q", long)
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

// Steps are a part of best where the memory is enough in the precision that the model runs in.
func TestBestSteps(t *testing.T) {
	m := &arch.Transformer{Vocab: 128_256, Hidden: 2048, Heads: 32, KVHeads: 8, HeadDim: 64, Layers: slices.Repeat([]arch.Layer{{Width: 8192}}, 16)}
	widths := slices.Repeat([]int{3276}, 16)
	half, full := StepsMemory(m, widths, engine.BF16), StepsMemory(m, widths, engine.F32)
	if half > full*4/5 || half < full/2 {
		t.Errorf("%d bytes in bfloat16, %d in float32", half, full)
	}
	for _, c := range []struct {
		precision engine.Precision
		limit     int64
		want      int
	}{
		{engine.BF16, half, DefaultSteps}, {engine.BF16, half - 1, 0},
		{engine.F32, half, 0}, {engine.F32, full, DefaultSteps}, {engine.F32, 0, 0},
	} {
		steps, err := BestSteps(m, widths, c.precision, c.limit)
		if steps != c.want || (err == nil) != (c.want > 0) {
			t.Errorf("%v, %d bytes: %d steps, %v", c.precision, c.limit, steps, err)
		}
		if err != nil && !strings.Contains(err.Error(), "give --calib-memory") {
			t.Errorf("%v, %d bytes: %v", c.precision, c.limit, err)
		}
	}
}

// atFirstStep is what takes the fixture's steps, before the first one.
func (f *fixture) atFirstStep(t *testing.T) *gaussNewton {
	t.Helper()
	s, err := newStepper(context.Background(), f.model, f.checkpoint, f.stats, f.thirdsOf(t), []string{f.text}, filepath.Join(t.TempDir(), "weights"), stepOptions())
	if err != nil {
		t.Fatal(err)
	}
	g, err := newGaussNewton(s)
	if err == nil {
		err = g.begin()
	}
	if err == nil {
		g.before, err = openStore("", int64(tinyLayers)*s.most, s.head.Hidden, false)
	}
	if err == nil {
		err = g.measure()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.given.weights.Close() })
	return g
}

// kept is the bytes of where the student is.
func (g *gaussNewton) kept(t *testing.T) []byte {
	t.Helper()
	name := g.file(1, "weights")
	if err := g.keep(name, g.after(0)); err != nil {
		t.Fatal(err)
	}
	return read(t, name)
}

// Moves that are too long leave the student where it was, and the next ones are half as long; one that is
// not numbers is too long. Over the last third of a run moves get shorter, to none.
func TestStepUndone(t *testing.T) {
	f := newFixture(t, 2)
	for _, length := range []float64{1, 1e30} {
		g := f.atFirstStep(t)
		begun, loss := read(t, g.file(0, "weights")), g.loss
		g.length = length
		fit, err := g.step(1)
		if err != nil {
			t.Fatal(err)
		}
		if *fit != (StepFit{Step: 1, Before: loss, After: loss}) || g.length != length/2 || g.loss != loss {
			t.Errorf("%g: step %+v, length %g", length, fit, g.length)
		}
		if !bytes.Equal(g.kept(t), begun) {
			t.Errorf("%g: other weights", length)
		}

		g.length = 1
		for move, want := range map[int]float64{0: 1, 8: 1, 9: 0.75, 11: 0.25, 12: 0} {
			if got := g.left(move); got != want {
				t.Errorf("move %d of 12 is %g long, expected %g", move, got, want)
			}
		}
	}
}

// The first step is taken again, half as long, until it helps, and is then what it is from the start where that
// length is given. Where none helps the student stays where it was, and a later step may lose what noise does.
func TestFirstStep(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT CHECKED: steps taken back and taken again, of which there are many")
	}
	f := newFixture(t, 2)
	g := f.atFirstStep(t)
	loss := g.loss
	const longest = 1
	g.length = longest
	fit, err := g.step(0)
	if err != nil {
		t.Fatal(err)
	}
	if !(fit.Length < longest) || fit.Length != g.length || !(fit.After < loss) || fit.After != g.loss {
		t.Errorf("step %+v from %v, length %g, loss %g", fit, loss, g.length, g.loss)
	}
	direct := f.atFirstStep(t)
	direct.length = fit.Length
	if same, err := direct.step(0); err != nil || *same != *fit {
		t.Errorf("step %+v, %v, expected %+v", same, err, fit)
	}
	if !bytes.Equal(g.kept(t), direct.kept(t)) {
		t.Error("taken again: other weights")
	}

	g = f.atFirstStep(t)
	g.loss, g.length = fit.After/1.01, fit.Length
	if lost, err := g.step(0); err != nil || lost.Length == fit.Length {
		t.Errorf("a first step that lost a hundredth: %+v, %v", lost, err)
	}

	g = f.atFirstStep(t)
	g.loss = 0 // which nothing is below
	begun := read(t, g.file(0, "weights"))
	if fit, err = g.step(0); err != nil || *fit != (StepFit{}) || g.length != firstLength/(2<<firstRetries) || !bytes.Equal(g.kept(t), begun) {
		t.Errorf("step %+v, %v, length %g", fit, err, g.length)
	}
	g.loss, g.length = loss/1.01, g.length/1024 // too short to gain a hundredth
	if fit, err = g.step(1); err != nil || fit.Length == 0 || !(fit.After > fit.Before) {
		t.Errorf("a later step %+v, %v", fit, err)
	}
}
