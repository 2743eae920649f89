package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/calib"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/lm"
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

// statsFlags are scoreFlags, and those that say what is made of statistics: scores and a
// refit.
type statsFlags struct {
	scoreFlags
	stats        string
	cap, damping float64
	refit        string
	refitDamping float64
	curves       bool // whether error curves are wanted
}

func (f *statsFlags) register(cmd *cobra.Command, refits bool) {
	f.scoreFlags.register(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.stats, "stats", "", "statistics of the model, made by `coppice calib`")
	fl.Float64Var(&f.cap, "first-token-cap", score.DefaultCap, "most of the trace of H that first tokens have, between 0 and 1 (error curves in a file of scores keep theirs)")
	fl.Float64Var(&f.damping, "damping", score.DefaultDamping, "ridge of leverage and obs, as a multiple of H's mean diagonal")
	f.refit = "none"
	if refits {
		fl.StringVar(&f.refit, "refit", "none", "how down_proj makes up for what goes: none, least-squares or bias")
		fl.Float64Var(&f.refitDamping, "refit-damping", 0, "ridge of the least-squares refit, and of error curves (default: chosen on held-back text; of curves 0.01; those in a file of scores keep theirs)")
		completeWords(cmd, "refit", "none", string(plan.LeastSquares), string(plan.Bias))
	}
}

// check validates the flags. Error curves are wanted where widths are shared out by them,
// of best, which says what that would gain, and of scores by themselves wherever there are
// statistics.
func (f *statsFlags) check(cmd *cobra.Command, shared bool) error {
	changed := cmd.Flags().Changed
	f.curves = shared || cmd.Flags().Lookup("refit") == nil && f.stats != ""
	if f.method == best && cmd.Flags().Lookup("refit") != nil {
		if changed("refit") && f.refit != string(bestRefit) {
			return usagef("--method best refits by %s; for another refit name the method too", bestRefit)
		}
		f.method, f.refit, f.best = string(bestMethod), string(bestRefit), true
		f.curves = true
	}
	if err := f.scoreFlags.check(); err != nil {
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
	if changed("refit-damping") && !(f.refitDamping > 0 && f.refitDamping <= plan.MaxDamping) {
		return usagef("--refit-damping %v: expected a number above 0 and at most %v", f.refitDamping, plan.MaxDamping)
	}
	if f.needed() {
		if m := score.Method(f.method); changed("damping") && m != score.Leverage && m != score.OBS {
			return usagef("--damping is the ridge of the methods %s and %s; --method %s has none", score.Leverage, score.OBS, m)
		}
		return nil
	}
	for _, name := range []string{"stats", "first-token-cap", "damping", "refit-damping"} {
		if changed(name) {
			return usagef("--%s: --method %s looks at weights alone, and nothing is refitted; choose a method that looks at activations (%v), or a refit", name, f.method, score.CalibratedMethods)
		}
	}
	return nil
}

// needed reports whether statistics are needed.
func (f *statsFlags) needed() bool {
	return score.Method(f.method).Calibrated() || f.refit != "none" || f.curves
}

// open opens the statistics and checks that they are of this model; nil where none are
// needed.
func (f *statsFlags) open(c *checkpoint.Checkpoint) (*score.Stats, error) {
	if !f.needed() {
		return nil, nil
	}
	if f.stats == "" {
		return nil, usagef("%s needs statistics of the model's activations: --stats FILE, which `coppice calib` makes", f.reason())
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

func (f *statsFlags) reason() string {
	switch {
	case f.best:
		return "--method best"
	case score.Method(f.method).Calibrated():
		return "--method " + f.method
	case f.refit == "none":
		return "--allocation global or measured"
	}
	return "--refit " + f.refit
}

// checkStats refuses statistics of another model, or of its text as another tokenizer
// cuts it.
func checkStats(st *score.Stats, c *checkpoint.Checkpoint) error {
	fingerprint, err := c.Fingerprint()
	if err == nil {
		err = st.CheckModel(fingerprint, &c.Spec)
	}
	if err != nil {
		return badInput(err)
	}
	tok, err := lm.Tokenizer(c)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the weights are the ones
	}
	if err == nil && tok.Fingerprint() != st.Tokenizer {
		err = fmt.Errorf("%s: the statistics were made with another tokenizer than that of %s; make them anew with `coppice calib`", st.Path(), c.Path)
	}
	return badInput(err)
}

// compute scores a checkpoint as the flags say, from statistics where the method needs
// them.
func (f *statsFlags) compute(ctx context.Context, a *app, c *checkpoint.Checkpoint, st *score.Stats) (*score.Scores, error) {
	if err := c.RequireWidths(); err != nil {
		return nil, badInput(err)
	}
	method := score.Method(f.method)
	if !method.Calibrated() {
		bar := a.byteProgress("scoring", score.Bytes(c))
		defer bar.finish()
		sc, err := score.Compute(ctx, c, method, score.Options{
			Seed: f.seed, Threads: a.threads, AllowNonFinite: f.allowNonFinite, Progress: bar.add})
		return sc, badInput(err)
	}
	bar := a.layerProgress("scoring", c.Spec.Layers)
	defer bar.finish()
	sc, err := score.ComputeCalibrated(ctx, c, st, method, score.CalibratedOptions{
		Cap: f.cap, Damping: f.damping, Threads: a.threads, Progress: bar.add, Note: a.note})
	return sc, badInput(err)
}

// planRefit adds the refit to a plan.
func (f *statsFlags) planRefit(ctx context.Context, a *app, c *checkpoint.Checkpoint, p *plan.Plan, st *score.Stats) error {
	if f.refit == "none" {
		return nil
	}
	bar := a.layerProgress("choosing the refit", c.Spec.Layers)
	defer bar.finish()
	return badInput(surgery.PlanRefit(ctx, p, c, st, surgery.RefitOptions{
		Method: plan.RefitMethod(f.refit), Cap: f.cap, Damping: f.refitDamping, Threads: a.threads, Progress: bar.add, Note: a.note}))
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

// planFlags are the flags of verbs that make a plan.
type planFlags struct {
	statsFlags
	ruleFlags
	allocation allocationFlags
	text       textFlags
	rule       plan.Rule

	steps   int    // of prune
	weights string // that steps made
}

func (f *planFlags) register(cmd *cobra.Command) {
	f.statsFlags.register(cmd, true)
	f.ruleFlags.register(cmd)
	f.allocation.register(cmd)
	f.text.register(cmd)
}

func (f *planFlags) check(cmd *cobra.Command) (err error) {
	f.rule, err = f.parse(cmd)
	return cmp.Or(err, f.allocation.check(cmd, plan.Form(f.form)), f.statsFlags.check(cmd, f.allocation.shared()), f.text.check())
}

// fit sets the alignment that activation-aware methods have unless the user says otherwise
// (that of best adds zero neurons, which change nothing), and refuses what the rule makes
// of this model before its weights are read.
func (f *planFlags) fit(cmd *cobra.Command, spec *arch.Spec) error {
	calibrated, changed := score.Method(f.method).Calibrated(), cmd.Flags().Changed
	if calibrated && !changed("align") {
		f.rule.Align = min(alignment(spec.Intermediate), spec.Intermediate)
	}
	if f.best && !changed("align-mode") {
		f.rule.AlignMode = plan.Pad
	}
	return cmp.Or(plan.CheckForm(f.rule, plan.Form(f.form), spec), surgery.CheckRefit(spec, plan.RefitMethod(f.refit)))
}

// decide makes the plan from scores, which are computed where none are given, and from
// statistics, which are nil where none are needed.
func (f *planFlags) decide(ctx context.Context, a *app, c *checkpoint.Checkpoint, sc *score.Scores, st *score.Stats) (p *plan.Plan, err error) {
	if sc == nil {
		if sc, err = f.compute(ctx, a, c, st); err != nil {
			return nil, err
		}
	}
	if err := f.addCurves(ctx, a, c, sc, st); err != nil {
		return nil, err
	}
	rule, alloc, err := f.share(ctx, a, c, sc, st)
	if err != nil {
		return nil, badInput(err)
	}
	if p, err = plan.Build(sc, &c.Spec, rule); err != nil {
		return nil, badInput(err)
	}
	p.Allocation = alloc
	if p, err = p.InForm(plan.Form(f.form), &c.Spec); err != nil {
		return nil, err
	}
	return p, f.planRefit(ctx, a, c, p, st)
}

// statistics returns those that prune uses: of --stats, or collected from --calib or the
// built-in text, into the file that --stats names or into a hidden one that discard removes. Of a run that is
// interrupted the hidden one is kept, and the same command goes on from there.
func (a *app) statistics(ctx context.Context, c *checkpoint.Checkpoint, f *planFlags, out string) (st *score.Stats, discard func(), err error) {
	keep := func() {}
	if !f.needed() || len(f.text.sources) == 0 && f.stats != "" {
		st, err = f.open(c)
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
	} else if err := checkFileOutput("--stats", to, c.Path); err != nil {
		return nil, keep, err
	}
	st, err = a.collect(ctx, c, &f.text, f.seed, to, f.stats == "")
	if err != nil {
		return nil, keep, keptBeside(orDot(out), err)
	}
	return st, keep, nil
}

// checkText validates prune's flags of calibration text.
func checkText(cmd *cobra.Command, f *planFlags) error {
	given, needed := len(f.text.sources) > 0, f.needed()
	if !needed && given {
		return usagef("--calib: --method %s looks at weights alone, and nothing is refitted", f.method)
	}
	if i := slices.IndexFunc(f.text.names(), cmd.Flags().Changed); i >= 0 && !given && (f.stats != "" || !needed) {
		return usagef("--%s needs --calib PATH", f.text.names()[i])
	}
	switch {
	case f.steps < 0 || f.steps > calib.MaxSteps:
		return usagef("--steps %d: expected 0 to %d", f.steps, calib.MaxSteps)
	case f.weights != "" && f.steps == 0 && (!f.best || cmd.Flags().Changed("steps")):
		return usagef("--weights %s: is where what --steps N make is kept", f.weights)
	case f.steps > 0 && f.refit != string(plan.LeastSquares):
		return usagef("--steps go on from a least-squares refit: --method best or --refit %s", plan.LeastSquares)
	case f.weights != "" && sameName(f.weights, f.stats):
		return usagef("--weights and --stats name one file, %s; the weights would replace the statistics", f.stats)
	}
	return f.allocation.checkText(&f.text)
}
