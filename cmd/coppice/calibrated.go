package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/surgery"
)

// best is the preset that docs/methods.md measures: this method and this refit, with the
// kept neurons exactly as many as the ratio says and zero neurons up to the alignment.
const (
	best       = "best"
	bestMethod = score.OBS
	bestRefit  = plan.LeastSquares
)

// statsFlags say what is made of statistics: scores and a refit.
type statsFlags struct {
	stats        string
	cap, damping float64
	refit        string
	refitDamping float64
	curves       bool // whether error curves are wanted
}

func (f *statsFlags) register(cmd *cobra.Command, refits bool) {
	fl := cmd.Flags()
	fl.StringVar(&f.stats, "stats", "", "statistics of the model, made by `coppice calib`")
	fl.Float64Var(&f.cap, "first-token-cap", score.DefaultCap, "most of the trace of H that first tokens have, between 0 and 1")
	fl.Float64Var(&f.damping, "damping", score.DefaultDamping, "ridge of leverage and obs, as a multiple of H's mean diagonal")
	f.refit = "none"
	if refits {
		fl.StringVar(&f.refit, "refit", "none", "how down_proj makes up for what goes: none, least-squares or bias")
		fl.Float64Var(&f.refitDamping, "refit-damping", 0, "ridge of the least-squares refit, and of error curves (default: chosen on held-back text; of curves 0.01)")
		completeWords(cmd, "refit", "none", string(plan.LeastSquares), string(plan.Bias))
	}
}

// check validates the flags together with the method's. Error curves are wanted where
// widths are shared out by them, of best, which says what that would gain, and of scores
// by themselves wherever there are statistics.
func (f *statsFlags) check(cmd *cobra.Command, s *scoreFlags, shared bool) error {
	changed := cmd.Flags().Changed
	f.curves = shared || cmd.Flags().Lookup("refit") == nil && f.stats != ""
	if s.method == best && cmd.Flags().Lookup("refit") != nil {
		if changed("refit") && f.refit != string(bestRefit) {
			return usagef("--method best refits by %s; for another refit name the method too", bestRefit)
		}
		s.method, f.refit, s.best = string(bestMethod), string(bestRefit), true
		f.curves = true
	}
	if err := s.check(); err != nil {
		return err
	}
	if f.refit != "none" {
		if _, err := plan.ParseRefit(f.refit); err != nil {
			return &usageError{fmt.Errorf("--refit: %w", err)}
		}
	}
	opt := score.CalibratedOptions{Cap: f.cap, Damping: f.damping}
	if err := opt.Check(); err != nil {
		return &usageError{err}
	}
	if changed("refit-damping") && !(f.refitDamping > 0 && f.refitDamping <= 1) {
		return usagef("--refit-damping %v: expected a number above 0 and at most 1", f.refitDamping)
	}
	if f.needed(s) {
		return nil
	}
	for _, name := range []string{"stats", "first-token-cap", "damping", "refit-damping"} {
		if changed(name) {
			return usagef("--%s: --method %s looks at weights alone, and nothing is refitted; choose a method that looks at activations (%v), or a refit", name, s.method, score.CalibratedMethods)
		}
	}
	return nil
}

// needed reports whether statistics are needed.
func (f *statsFlags) needed(s *scoreFlags) bool {
	return score.Method(s.method).Calibrated() || f.refit != "none" || f.curves
}

// open opens the statistics and checks that they are of this model; nil where none are
// needed.
func (f *statsFlags) open(s *scoreFlags, c *checkpoint.Checkpoint) (*score.Stats, error) {
	if !f.needed(s) {
		return nil, nil
	}
	if f.stats == "" {
		return nil, usagef("%s needs statistics of the model's activations: --stats FILE, which `coppice calib` makes", f.reason(s))
	}
	st, err := openStats(f.stats)
	if err != nil {
		return nil, err
	}
	if err := checkStats(st, c); err != nil {
		st.Close()
		return nil, err
	}
	return st, nil
}

func (f *statsFlags) reason(s *scoreFlags) string {
	switch {
	case s.best:
		return "--method best"
	case score.Method(s.method).Calibrated():
		return "--method " + s.method
	case f.refit == "none":
		return "--allocation global or measured"
	}
	return "--refit " + f.refit
}

// checkStats refuses statistics of another model.
func checkStats(st *score.Stats, c *checkpoint.Checkpoint) error {
	fingerprint, err := c.Fingerprint()
	if err == nil {
		err = st.CheckModel(fingerprint, &c.Spec)
	}
	return badInput(err)
}

// compute scores a checkpoint as the flags say, from statistics where the method needs
// them.
func (f *statsFlags) compute(ctx context.Context, a *app, c *checkpoint.Checkpoint, s *scoreFlags, st *score.Stats) (*score.Scores, error) {
	method := score.Method(s.method)
	if !method.Calibrated() {
		return a.compute(ctx, c, s)
	}
	if err := c.RequireWidths(); err != nil {
		return nil, badInput(err)
	}
	bar := a.layerProgress("scoring", c.Spec.Layers)
	sc, err := score.ComputeCalibrated(ctx, c, st, method, score.CalibratedOptions{
		Cap: f.cap, Damping: f.damping, Threads: a.threads, Progress: bar.add, Note: func(n string) { a.notes([]string{n}) }})
	bar.finish()
	return sc, badInput(err)
}

// planRefit adds the refit to a plan.
func (f *statsFlags) planRefit(ctx context.Context, a *app, c *checkpoint.Checkpoint, p *plan.Plan, st *score.Stats) error {
	if f.refit == "none" {
		return nil
	}
	bar := a.layerProgress("choosing the refit", c.Spec.Layers)
	err := surgery.PlanRefit(ctx, p, c, st, surgery.RefitOptions{
		Method: plan.RefitMethod(f.refit), Cap: f.cap, Damping: f.refitDamping, Threads: a.threads, Progress: bar.add, Note: func(n string) { a.notes([]string{n}) }})
	bar.finish()
	return badInput(err)
}

// again is what a later command must add to use the plan: the statistics, if it refits.
func (f *statsFlags) again(p *plan.Plan) string {
	if p.Refit == nil {
		return ""
	}
	if f.stats == "" {
		return " --stats FILE"
	}
	return " --stats " + f.stats
}

// align sets the alignment that activation-aware methods have unless the user says
// otherwise; that of best adds zero neurons, which change nothing.
func align(cmd *cobra.Command, rule *plan.Rule, s *scoreFlags, spec *arch.Spec) {
	if !score.Method(s.method).Calibrated() {
		return
	}
	if !cmd.Flags().Changed("align") {
		rule.Align = min(alignment(spec.Intermediate), spec.Intermediate)
	}
	if s.best && !cmd.Flags().Changed("align-mode") {
		rule.AlignMode = plan.Pad
	}
}

// statistics returns those that prune uses: of --stats, or collected from --calib, into
// the file that --stats names or into a hidden one that discard removes. Of a run that is
// interrupted the hidden one is kept, and the same command goes on from there.
func (a *app) statistics(cmd *cobra.Command, path string, c *checkpoint.Checkpoint, s *scoreFlags, f *statsFlags, text *textFlags, out string) (st *score.Stats, discard func(), err error) {
	keep := func() {}
	if len(text.sources) == 0 || !f.needed(s) {
		st, err = f.open(s, c)
		return st, keep, err
	}
	to := f.stats
	if to == "" {
		dir, base := filepath.Split(filepath.Clean(out))
		if out == "" { // a dry run
			base = "prune"
		}
		to = filepath.Join(dir, "."+base+".coppice-stats")
		keep = func() { os.Remove(to) }
	} else if err := checkFileOutput(to, c.Path); err != nil {
		return nil, keep, err
	}
	st, err = a.collect(cmd.Context(), c, text, s.seed, to, f.stats == "")
	if err != nil {
		return nil, keep, keptBeside(orDot(out), err)
	}
	return st, keep, nil
}

// checkText validates prune's flags of calibration text.
func checkText(cmd *cobra.Command, s *scoreFlags, f *statsFlags, text *textFlags) error {
	if err := text.check(); err != nil {
		return err
	}
	given := len(text.sources) > 0
	if !f.needed(s) && given {
		return usagef("--calib: --method %s looks at weights alone, and nothing is refitted", s.method)
	}
	if f.needed(s) && !given && f.stats == "" {
		return usagef("%s needs calibration text: --calib PATH (a file or a directory), or --stats FILE made by `coppice calib`", f.reason(s))
	}
	if i := slices.IndexFunc(text.names(), cmd.Flags().Changed); i >= 0 && !given {
		return usagef("--%s needs --calib PATH", text.names()[i])
	}
	return nil
}
