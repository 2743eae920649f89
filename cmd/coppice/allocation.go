package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/calib"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
)

// The allocations: one width for all layers, or widths of their own under the same budget
// of parameters, by error curves or by the measured loss of the pruned model.
const (
	uniform  = "uniform"
	global   = "global"
	measured = "measured"
)

// allocationFlags say how the neurons that stay are shared out among the layers.
type allocationFlags struct {
	allocation, curve string
	step, rounds      int
}

func (f *allocationFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.allocation, "allocation", uniform, "how what stays is shared out: uniform (one width); or a width for each layer, as many parameters in all: global (by error curves; needs statistics) or measured (by the loss of the pruned model on held-back text; needs --calib and some minutes)")
	fl.StringVar(&f.curve, "allocation-curve", string(plan.Residual), "what a layer's error is measured against by --allocation global: the energy of the residual stream, or of the layer's output")
	fl.IntVar(&f.step, "allocation-step", 0, "widths of --allocation global and measured are multiples of this (default 64 or the alignment)")
	fl.IntVar(&f.rounds, "allocation-rounds", calib.DefaultRounds, "how often --allocation measured proposes widths")
	completeWords(cmd, "allocation", uniform, global, measured)
	completeWords(cmd, "allocation-curve", string(plan.Residual), string(plan.Output))
}

// check validates the flags, and that the form can say what they ask for.
func (f *allocationFlags) check(cmd *cobra.Command, form plan.Form) error {
	if !slices.Contains([]string{uniform, global, measured}, f.allocation) {
		return usagef("--allocation %q: expected uniform, global or measured", f.allocation)
	}
	if _, err := plan.ParseCurve(f.curve); err != nil {
		return &usageError{fmt.Errorf("--allocation-curve: %w", err)}
	}
	for name, of := range map[string][]string{"allocation-curve": {global}, "allocation-step": {global, measured}, "allocation-rounds": {measured}} {
		if cmd.Flags().Changed(name) && !slices.Contains(of, f.allocation) {
			return usagef("--%s needs --allocation %s", name, strings.Join(of, " or "))
		}
	}
	switch {
	case f.shared() && form == plan.Llama:
		return usagef("--allocation %s gives each layer a width of its own, which --form llama cannot say; choose --form transformers, decilm or padded", f.allocation)
	case cmd.Flags().Changed("allocation-step") && f.step < 1:
		return usagef("--allocation-step %d: expected at least 1", f.step)
	case f.rounds < 1:
		return usagef("--allocation-rounds %d: expected at least 1", f.rounds)
	}
	return nil
}

// checkText is an error if text is needed and not given.
func (f *allocationFlags) checkText(text *textFlags) error {
	if f.allocation == measured && len(text.sources) == 0 {
		return usagef("--allocation measured runs pruned models over the held-back part of the calibration text: --calib PATH, the text of the statistics")
	}
	return nil
}

// shared reports whether layers get widths of their own.
func (f *allocationFlags) shared() bool { return f.allocation != uniform }

// wish is what a plan is made of, as the flags say.
type wish struct {
	checkpoint *checkpoint.Checkpoint
	scores     *score.Scores // with error curves where they are needed
	stats      *score.Stats  // nil where none are needed
	rule       plan.Rule
	r          *ruleFlags
	s          *scoreFlags
	sf         *statsFlags
	text       *textFlags
}

// build makes the plan: with the rule's widths, or with those of an allocation.
func (f *allocationFlags) build(ctx context.Context, a *app, w wish) (*plan.Plan, error) {
	spec := &w.checkpoint.Spec
	opt := plan.AllocateOptions{Curve: plan.CurveName(f.curve), Step: f.step, Refit: plan.RefitMethod(w.sf.refit)}
	if opt.Step == 0 {
		opt.Step = plan.DefaultStep(w.rule, plan.Form(w.r.form), spec)
	}
	var rule plan.Rule
	var alloc *plan.Allocation
	var err error
	switch f.allocation {
	case uniform:
		if w.s.best && w.scores.Curves != nil {
			if _, alloc, err := plan.Allocate(w.scores.Curves, spec, w.rule, opt); err == nil {
				a.notes([]string{fmt.Sprintf("--allocation global would give each layer a width of its own, as many parameters in all: the layers' errors by curve %s would add up to %.4g, not %.4g (%+.0f %%)", alloc.Curve, alloc.Error, alloc.Uniform, -100*alloc.Gain())})
			}
		}
		return w.r.build(w.scores, spec, w.rule)
	case global:
		rule, alloc, err = plan.Allocate(w.scores.Curves, spec, w.rule, opt)
	case measured:
		rule, alloc, err = f.measure(ctx, a, w, opt.Step)
	}
	if err != nil {
		return nil, badInput(err)
	}
	p, err := w.r.build(w.scores, spec, rule)
	if err != nil {
		return nil, err
	}
	p.Allocation = alloc
	return p, nil
}

// measure shares widths out by the loss of the pruned model.
func (f *allocationFlags) measure(ctx context.Context, a *app, w wish, step int) (plan.Rule, *plan.Allocation, error) {
	m, err := lm.NewLayerwise(ctx, w.checkpoint, lm.Options{Precision: w.text.precision, Threads: a.threads})
	if err != nil {
		return w.rule, nil, err
	}
	bar := a.layerProgress("measuring", 0)
	defer bar.finish()
	return calib.ShareWidths(ctx, m, w.checkpoint, w.stats, w.scores, w.text.sources,
		calib.Options{Tokens: w.text.tokens, Context: w.text.ctx, Seed: w.s.seed, Rows: calib.RowMode(w.text.rows), Threads: a.threads},
		calib.WidthOptions{Rule: w.rule, Step: step, Refit: plan.RefitMethod(w.sf.refit), Cap: w.sf.cap, Rounds: f.rounds,
			Progress: bar.show, Note: func(n string) { a.notes([]string{n}) }})
}

// addCurves adds the error curves that the flags need and the scores do not have yet.
func (f *statsFlags) addCurves(ctx context.Context, a *app, c *checkpoint.Checkpoint, sc *score.Scores, st *score.Stats) error {
	if !f.curves || sc.Curves != nil {
		return nil
	}
	damping := f.refitDamping
	if damping == 0 {
		damping = score.CurveDamping
	}
	bar := a.layerProgress("error curves", c.Spec.Layers)
	err := score.AddCurves(ctx, sc, c, st, score.CurveOptions{Cap: f.cap, Damping: damping, Threads: a.threads, Progress: bar.add})
	bar.finish()
	return badInput(err)
}
