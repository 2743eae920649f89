package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
)

// The allocations: one width for all layers, or widths of their own under the same budget
// of parameters.
const (
	uniform = "uniform"
	global  = "global"
)

// allocationFlags say how the neurons that stay are shared out among the layers.
type allocationFlags struct {
	allocation, curve string
	step              int
}

func (f *allocationFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.allocation, "allocation", uniform, "how what stays is shared out: uniform (one width) or global (a width for each layer, as many parameters in all; needs statistics)")
	fl.StringVar(&f.curve, "allocation-curve", string(plan.Residual), "what a layer's error is measured against by --allocation global: the energy of the residual stream, or of the layer's output")
	fl.IntVar(&f.step, "allocation-step", 0, "widths of --allocation global are multiples of this (default 64 or the alignment)")
	completeWords(cmd, "allocation", uniform, global)
	completeWords(cmd, "allocation-curve", string(plan.Residual), string(plan.Output))
}

// check validates the flags, and that the form can say what they ask for.
func (f *allocationFlags) check(cmd *cobra.Command, form plan.Form) error {
	if f.allocation != uniform && f.allocation != global {
		return usagef("--allocation %q: expected uniform or global", f.allocation)
	}
	if _, err := plan.ParseCurve(f.curve); err != nil {
		return &usageError{fmt.Errorf("--allocation-curve: %w", err)}
	}
	for _, name := range []string{"allocation-curve", "allocation-step"} {
		if cmd.Flags().Changed(name) && f.allocation != global {
			return usagef("--%s needs --allocation global", name)
		}
	}
	if f.allocation == global && form == plan.Llama {
		return usagef("--allocation global gives each layer a width of its own, which --form llama cannot say; choose --form transformers, decilm or padded")
	}
	if cmd.Flags().Changed("allocation-step") && f.step < 1 {
		return usagef("--allocation-step %d: expected at least 1", f.step)
	}
	return nil
}

// build makes the plan: with the rule's widths, or with those of an allocation. The scores
// hold error curves if they are needed.
func (f *allocationFlags) build(a *app, r *ruleFlags, s *scoreFlags, sc *score.Scores, spec *arch.Spec, rule plan.Rule, refit plan.RefitMethod) (*plan.Plan, error) {
	step := f.step
	if step == 0 {
		step = plan.DefaultStep(rule, plan.Form(r.form), spec)
	}
	opt := plan.AllocateOptions{Curve: plan.CurveName(f.curve), Step: step, Refit: refit}
	if f.allocation == uniform {
		p, err := r.build(sc, spec, rule)
		if err == nil && s.best && sc.Curves != nil {
			if _, alloc, err := plan.Allocate(sc.Curves, spec, rule, opt); err == nil {
				a.notes([]string{fmt.Sprintf("--allocation global would give each layer a width of its own, as many parameters in all: the layers' errors by curve %s would add up to %.4g, not %.4g (%+.0f %%)", alloc.Curve, alloc.Error, alloc.Uniform, -100*alloc.Gain())})
			}
		}
		return p, err
	}
	shared, alloc, err := plan.Allocate(sc.Curves, spec, rule, opt)
	if err != nil {
		return nil, badInput(err)
	}
	p, err := r.build(sc, spec, shared)
	if err != nil {
		return nil, err
	}
	p.Allocation = alloc
	return p, nil
}

// addCurves adds the error curves that the flags need and the scores do not have yet.
func (f *statsFlags) addCurves(ctx context.Context, a *app, c *checkpoint.Checkpoint, sc *score.Scores, st *score.Stats) error {
	if !f.curves || sc.Curves != nil {
		return nil
	}
	bar := a.layerProgress("error curves", c.Spec.Layers)
	err := score.AddCurves(ctx, sc, c, st, score.CurveOptions{Cap: f.cap, Damping: f.damping, Threads: a.threads, Progress: bar.add})
	bar.finish()
	return badInput(err)
}
