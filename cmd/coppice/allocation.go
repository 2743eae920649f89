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
	units             []string
}

func (f *allocationFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.allocation, "allocation", uniform, "how what stays is shared out: uniform (one width); or a width for each layer, as many parameters in all: global (by error curves; needs statistics) or measured (by how far the pruned model then is, in what it says of held-back text, from the dense one; needs --calib and some minutes, and keeps more than global)")
	fl.StringVar(&f.curve, "allocation-curve", string(plan.Residual), "what a layer's error is measured against by --allocation global: the energy of the residual stream, or of the layer's output")
	fl.IntVar(&f.step, "allocation-step", 0, "widths of --allocation global and measured are multiples of this (default 64 or the alignment)")
	fl.IntVar(&f.rounds, "allocation-rounds", calib.DefaultRounds, "how often at most --allocation measured looks for better widths after the first; it ends where it gains little")
	fl.StringSliceVar(&f.units, "units", nil, "what --allocation measured may take besides neurons, under the same budget of parameters: attention, heads (key-value heads with their query heads), layers")
	completeWords(cmd, "units", "attention", "heads", "layers")
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
	for name, of := range map[string][]string{"allocation-curve": {global}, "allocation-step": {global, measured}, "allocation-rounds": {measured}, "units": {measured}} {
		if cmd.Flags().Changed(name) && !slices.Contains(of, f.allocation) {
			return usagef("--%s needs --allocation %s", name, strings.Join(of, " or "))
		}
	}
	switch {
	case f.shared() && form == plan.Llama:
		return usagef("--allocation %s gives each layer a width of its own, which --form llama cannot say; choose --form transformers, decilm or padded", f.allocation)
	case cmd.Flags().Changed("allocation-step") && f.step < 1:
		return usagef("--allocation-step %d: expected at least 1", f.step)
	case f.rounds < 0:
		return usagef("--allocation-rounds %d: expected at least 0", f.rounds)
	}
	for _, name := range f.units {
		u, err := plan.ParseUnit(name)
		if err == nil && u != plan.LayerUnit && form == plan.Padded {
			err = fmt.Errorf("a plain checkpoint has the same attention in all layers, and --form padded could only fill what goes with zeros; choose --form transformers")
		}
		if err == nil && u == plan.HeadUnit && form == plan.DeciLM {
			err = fmt.Errorf("--form decilm can say all query heads of a layer or none; leave heads out, or choose --form transformers")
		}
		if err != nil {
			return &usageError{fmt.Errorf("--units: %w", err)}
		}
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

// share returns the rule that the plan is built by: that of the flags, or one whose widths
// are shared out by the error curves of the scores.
func (f *planFlags) share(ctx context.Context, a *app, c *checkpoint.Checkpoint, sc *score.Scores, st *score.Stats) (plan.Rule, *plan.Allocation, error) {
	opt := plan.AllocateOptions{Curve: plan.CurveName(f.allocation.curve), Step: f.allocation.step, Refit: plan.RefitMethod(f.refit)}
	if opt.Step == 0 {
		opt.Step = plan.DefaultStep(f.rule, plan.Form(f.form), &c.Spec)
	}
	switch {
	case f.allocation.allocation == measured:
		return f.measure(ctx, a, c, sc, st, opt.Step)
	case f.allocation.shared():
		return plan.Allocate(sc.Curves, &c.Spec, f.rule, opt)
	case f.best && sc.Curves != nil:
		if _, g, err := plan.Allocate(sc.Curves, &c.Spec, f.rule, opt); err == nil {
			a.note(fmt.Sprintf("--allocation global would give each layer a width of its own, as many parameters in all: the layers' errors by curve %s would add up to %.4g, not %.4g (%+.0f %%)", g.Curve, g.Error, g.Uniform, -100*g.Gain()))
		}
	}
	return f.rule, nil, nil
}

// measure shares widths out by the loss of the pruned model.
func (f *planFlags) measure(ctx context.Context, a *app, c *checkpoint.Checkpoint, sc *score.Scores, st *score.Stats, step int) (plan.Rule, *plan.Allocation, error) {
	m, err := lm.NewLayerwise(ctx, c, lm.Options{Precision: f.text.precision, Threads: a.threads})
	if err != nil {
		return f.rule, nil, err
	}
	var units []plan.Unit
	for _, u := range f.allocation.units {
		units = append(units, plan.Unit(u)) // checked with the flags
	}
	bar := a.layerProgress("measuring", 1)
	defer bar.finish()
	return calib.ShareWidths(ctx, m, c, st, sc, f.text.sources,
		calib.Options{Tokens: f.text.tokens, Context: f.text.ctx, Seed: f.seed, Rows: calib.RowMode(f.text.rows), Threads: a.threads},
		calib.WidthOptions{Rule: f.rule, Step: step, Refit: plan.RefitMethod(f.refit), Cap: f.cap, Rounds: f.allocation.rounds, Units: units,
			Progress: bar.show, Note: a.note})
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
