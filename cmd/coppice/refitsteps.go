package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/coppice-lm/coppice/calib"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/surgery"
)

// stepRow is a step in the output.
type stepRow struct {
	Step   int     `json:"step"`
	Length float64 `json:"length"` // 0: no length helped
	Before float64 `json:"held_divergence_before"`
	After  float64 `json:"held_divergence_after"`
}

// refitPredictions is coppice refit with the target predictions.
func (a *app) refitPredictions(ctx context.Context, c *checkpoint.Checkpoint, m *lm.Layerwise, p *plan.Plan, f *refitFlags, text *textFlags) error {
	var st *score.Stats
	switch needs := p.Refit != nil && p.Refit.Method != plan.Propagated; {
	case needs && f.from == "":
		return usagef("--from FILE is needed: %s refits from the statistics %s", f.planFile, p.Refit.Stats)
	case !needs && f.from != "":
		return usagef("--from %s: %s refits nothing from statistics; leave it out", f.from, f.planFile)
	case needs && sameName(f.from, f.weights):
		return usagef("--from and --stats name one file, %s; the weights would replace the statistics", f.from)
	case needs:
		var err error
		if st, err = score.OpenStats(f.from); err != nil {
			return badInput(err)
		}
		defer st.Close()
	}
	rows := []stepRow{}
	w, err := a.step(ctx, c, m, p, st, text, f.weights, f.seed, f.force, calib.StepOptions{Steps: f.steps, Labels: f.labels,
		Report: func(s calib.StepFit) { rows = append(rows, stepRow{s.Step, s.Length, s.Before, s.After}) }})
	if err != nil {
		return keptBeside(f.weights, err)
	}
	defer w.Close()
	return a.wroteRefit(c.Path, f, p, struct {
		surgery.WeightsHead
		Fingerprint string    `json:"fingerprint"`
		Steps       []stepRow `json:"steps"` // those that this run took
	}{w.WeightsHead, p.Refit.Stats, rows}, func(t io.Writer) {
		what := "divergence"
		if f.labels > 0 {
			what = "loss with labels"
		}
		fmt.Fprintf(t, "step\tlength\theld-back %s before\tafter\t\n", what)
		for _, r := range rows {
			fmt.Fprintf(t, "%d\t%.4g\t%.4f\t%.4f\t\n", r.Step+1, r.Length, r.Before, r.After)
		}
	})
}

// step refits a plan by steps from its own refit. The text, and how much memory it may take, are added to opt.
func (a *app) step(ctx context.Context, c *checkpoint.Checkpoint, m *lm.Layerwise, p *plan.Plan, st *score.Stats, text *textFlags, out string, seed uint64, replace bool, opt calib.StepOptions) (*surgery.Weights, error) {
	bar := a.tokenProgress("refitting")
	defer bar.finish()
	opt.Options = calib.Options{Tokens: text.tokens, Context: text.ctx, Seed: seed, Rows: calib.RowMode(text.rows), Memory: text.bytes,
		Threads: a.threads, Replace: replace, Progress: bar.show, Warn: a.note}
	w, err := calib.RefitPredictions(ctx, m, c, st, p, text.sources, out, opt)
	return w, badInput(err)
}

// bestSteps is how many steps best takes unless it is told, and says why if there are none.
func (f *planFlags) bestSteps(a *app, c *checkpoint.Checkpoint, p *plan.Plan, st *score.Stats) (int, error) {
	const none = "the layers are not refitted together (--steps), which would make the model better: "
	switch {
	case f.weights != "":
		return calib.DefaultSteps, nil
	case f.stats != "" && len(f.text.sources) == 0:
		a.note(none + "that needs the text that the statistics are of; give --calib PATH and what else `coppice calib` was given")
		return 0, nil
	case st.Held == 0:
		a.note(none + "the text has so few documents that none is held back to judge that by; give more")
		return 0, nil
	}
	t, err := c.Spec.Transformer(c.Config)
	if err != nil {
		return 0, err
	}
	widths := p.Pruned(c.Spec.Widths)
	if slices.Max(widths) == 0 {
		return 0, nil // nothing was refitted
	}
	steps, err := calib.BestSteps(t, widths, f.text.precision, f.text.bytes)
	if err != nil {
		a.note(none + err.Error())
		return 0, nil
	}
	a.note(fmt.Sprintf("all layers are refitted together in %d steps, which takes longer than what was done so far; --steps 0 leaves them out", steps))
	return steps, nil
}

// takeSteps refits prune's plan by steps, into the file of --weights or into a hidden one that
// discard removes. Of a run that is interrupted the hidden one's steps are kept, and the same command
// goes on from there.
func (a *app) takeSteps(ctx context.Context, c *checkpoint.Checkpoint, p *plan.Plan, st *score.Stats, f *planFlags, out string) (w *surgery.Weights, discard func(), err error) {
	to, discard := f.weights, func() {}
	if to == "" {
		dir, base := filepath.Split(filepath.Clean(out))
		to = filepath.Join(dir, "."+base+".coppice-weights")
		discard = func() { os.Remove(to) }
	} else if err := checkFileOutput("--weights", to, c.Path); err != nil {
		return nil, nil, err
	}
	m, err := lm.NewLayerwise(ctx, c, lm.Options{Precision: f.text.precision, Threads: a.threads})
	if err != nil {
		return nil, nil, badInput(err)
	}
	var last calib.StepFit
	w, err = a.step(ctx, c, m, p, st, &f.text, to, f.seed, f.weights == "", calib.StepOptions{Steps: f.steps, Report: func(s calib.StepFit) { last = s }})
	if err != nil {
		return nil, nil, keptBeside(orDot(out), err)
	}
	a.note(fmt.Sprintf("divergence from the dense model's predictions on held-back text: %.4f nats after %d steps", last.After, last.Step+1))
	return w, discard, nil
}
