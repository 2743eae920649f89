package calib

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/surgery"
)

// DefaultRounds is how often ShareWidths measures slopes in the pruned model unless it is
// told otherwise: on text of another kind than that of calibration nothing was gained by it.
const DefaultRounds = 0

// reaches are how many steps the widths that are proposed may be away from those at which
// the slopes were measured. Trying one of L layers costs 2/(L+3) of what the slopes cost.
var reaches = []int{1, 2, 4, 8}

// measuringDamping is the damping of refits while widths are measured; that of the plan is
// chosen when the widths are.
const measuringDamping = 0.05

// WidthOptions are what ShareWidths can be told.
type WidthOptions struct {
	Rule   plan.Rule // whose widths, the same in all layers, are the budget
	Step   int       // widths are multiples of it
	Refit  plan.RefitMethod
	Cap    float64     // in [0, 1], most of the trace of H that first tokens have
	Rounds int         // how often slopes are measured in the pruned model
	Units  []plan.Unit // what may go besides neurons where that loses less

	Progress func(done, total int64) // called with layers run over the text; may be nil
	Note     func(message string)    // may be nil
}

// ShareWidths shares the neurons that a rule keeps out among the layers so that the loss
// of the pruned model on the held-back part of the calibration text is least: the text
// that st was made of, and opt as it was given to Collect. Scores must have error curves.
//
// A layer's slope is what the loss rises by, over what the layer's error rises by. It is
// measured in the dense model, of which one layer after another is cut, by how far that
// moves what the model says (Kullback-Leibler). Where little goes these slopes are right,
// and the widths with the least sum of slope times error are far better than those of the
// residual curve; where much goes losses do not add up (a layer whose loss alone is small
// may be what makes up for another). So three sharings are tried: by the residual curve, by
// the slopes, and by their geometric mean; and the one whose model loses least is taken.
// That runs the text L/2 + 5.5 times.
//
// Rounds measure slopes where they are used: all layers are cut, to the widths so far, and
// one after another a quarter of a layer's neurons goes besides. The widths with the least
// sum of slope times error that are not too far from those measured are tried, for several
// distances, and the best of them, if it loses less, is where the next round measures. That
// runs the text L/2 + 5.5 times for each round.
//
// With Units, parts go first, under the same budget of parameters, where that loses less:
// see dropParts.
func ShareWidths(ctx context.Context, m *lm.Layerwise, c *checkpoint.Checkpoint, st *score.Stats, sc *score.Scores, sources []string, text Options, opt WidthOptions) (plan.Rule, *plan.Allocation, error) {
	fail := func(err error) (plan.Rule, *plan.Allocation, error) { return opt.Rule, nil, err }
	if sc.Curves == nil {
		return fail(fmt.Errorf("the scores have no error curves"))
	}
	batches, err := heldBackText(m, st, sources, &text)
	if err != nil {
		return fail(err)
	}
	if err := sc.Curves.CheckStats(st); err != nil {
		return fail(err)
	}
	s := &sharer{ctx: ctx, checkpoint: c, stats: st, scores: sc, opt: opt, threads: text.Threads,
		losses: lossMeter{model: m, checkpoint: c, stats: st, batches: batches, threads: text.Threads}}
	s.losses.progress = s.progress
	return s.share()
}

// heldBackText is the part of a calibration text that nothing is fitted to.
func heldBackText(m *lm.Layerwise, st *score.Stats, sources []string, opt *Options) ([]batch, error) {
	if err := opt.check(m.Info().MaxLength); err != nil {
		return nil, err
	}
	documents, err := readSources(sources)
	if err != nil {
		return nil, err
	}
	text, err := layRows(m, documents, opt)
	if err != nil {
		return nil, err
	}
	if got := text.fingerprint(); got != st.Text {
		return nil, fmt.Errorf("%s: the statistics are of another text than --calib, --tokens, --ctx, --rows and --seed give (statistics: %s, text: %s)", st.Path(), st.Text, got)
	}
	text.rows = slices.DeleteFunc(text.rows, func(r row) bool { return !r.held })
	if text.held == 0 {
		return nil, fmt.Errorf("the calibration text has fewer than %d documents, so none is held back to measure losses on; give more documents", heldBack)
	}
	return text.batches(), nil
}

// sharer is one call of ShareWidths.
type sharer struct {
	ctx        context.Context
	checkpoint *checkpoint.Checkpoint
	stats      *score.Stats
	scores     *score.Scores
	opt        WidthOptions
	threads    int
	losses     lossMeter
	rule       plan.Rule // that of opt, with the parts that go besides; zero until then
	done       int64
}

func (s *sharer) share() (plan.Rule, *plan.Allocation, error) {
	fail := func(err error) (plan.Rule, *plan.Allocation, error) { return s.opt.Rule, nil, err }
	spec := &s.checkpoint.Spec
	choose := plan.AllocateOptions{Curve: plan.Residual, Step: s.opt.Step, Refit: s.opt.Refit}
	uniform, _, err := s.loss(s.opt.Rule, nil)
	if err != nil {
		return fail(err)
	}
	s.rule = s.opt.Rule
	if len(s.opt.Units) > 0 {
		if err := s.dropParts(choose); err != nil {
			return fail(err)
		}
		choose.Budget = &s.opt.Rule
	}
	best, allocation, err := plan.Allocate(s.scores.Curves, spec, s.rule, choose)
	if err != nil {
		return fail(err)
	}
	loss, _, err := s.loss(best, nil)
	if err != nil {
		return fail(err)
	}
	s.note("loss on held-back text: %.4f at one width, %.4f by the residual curve", uniform.mean(), loss.mean())
	slopes, err := s.alone(best)
	if err != nil {
		return fail(err)
	}
	choose.Curve = plan.Measured
	for _, by := range []struct {
		what   string
		slopes []float64
	}{{"measured slopes", slopes}, {"their mean with the residual curve", s.tempered(slopes, best.Widths)}} {
		choose.Slopes = by.slopes
		rule, a, err := plan.Allocate(s.scores.Curves, spec, s.rule, choose)
		if err != nil {
			return fail(err)
		}
		l, _, err := s.loss(rule, nil)
		if err != nil {
			return fail(err)
		}
		s.note("loss on held-back text: %.4f by %s", l.mean(), by.what)
		if l.mean() < loss.mean() {
			best, allocation, loss = rule, a, l
		}
	}
	for round := range s.opt.Rounds {
		_, rises, err := s.loss(best, s.changes(best.Widths))
		if err != nil {
			return fail(err)
		}
		choose.Slopes, choose.Near = s.slopes(best.Widths, rises), best.Widths
		if round == 0 { // what is said of the first widths, should no others be better
			choose.Reach = 0
			if _, allocation, err = plan.Allocate(s.scores.Curves, spec, s.rule, choose); err != nil {
				return fail(err)
			}
		}
		next, a, lost, err := s.propose(choose, loss)
		if err != nil {
			return fail(err)
		}
		if a == nil {
			break
		}
		best, allocation, loss = next, a, lost
		s.note("loss on held-back text: %.4f after round %d", loss.mean(), round+1)
	}
	allocation.Loss, allocation.LossUniform, allocation.Units = loss.mean(), uniform.mean(), s.opt.Units
	return best, allocation, nil
}

// alone measures the slopes of layers that are cut alone, each to a rule's mean width, or to
// the widest below its own where that is less: not by the loss on the text, which a cut may
// even lower where the model fits the text badly, but by the divergence of what the cut
// model says from what the dense one does.
func (s *sharer) alone(rule plan.Rule) ([]float64, error) {
	whole := rule
	whole.Widths = slices.Clone(rule.Widths)
	changes := s.changes(rule.Widths)
	mean := 0
	for _, c := range changes {
		whole.Widths[c.layer] = s.stats.Widths[c.layer]
		mean += rule.Widths[c.layer]
	}
	step := s.opt.Step
	mean = mean / max(1, len(changes)) / step * step
	for i, c := range changes {
		d := s.stats.Widths[c.layer]
		changes[i].width = min(d, max(step, min(mean, (d-1)/step*step))) // d where there is no choice
	}
	p, changed, layers, err := s.plans(whole, changes)
	if err != nil {
		return nil, err
	}
	divergences, err := s.losses.divergences(s.ctx, p, changed, layers)
	if err != nil {
		return nil, err
	}
	for i, d := range divergences {
		changes[i].mean, changes[i].stderr = d.rise(make(perToken, len(d)))
	}
	return s.slopes(whole.Widths, changes), nil
}

// tempered are the geometric means of slopes and of those that the residual curve stands
// for, the latter scaled so that at the widths both make the same sum.
func (s *sharer) tempered(slopes []float64, widths []int) []float64 {
	residual := make([]float64, len(slopes))
	sum, of := 0.0, 0.0
	for l, slope := range slopes {
		errors, stream := s.opt.Refit.Errors(&s.scores.Curves.Layers[l])
		if slope == 0 || stream == 0 {
			continue
		}
		residual[l] = 1 / stream
		sum += slope * float64(errors[widths[l]])
		of += residual[l] * float64(errors[widths[l]])
	}
	means := make([]float64, len(slopes))
	for l := range means {
		if of > 0 {
			means[l] = math.Sqrt(slopes[l] * residual[l] * sum / of)
		}
	}
	return means
}

// propose tries the widths that slopes lead to, within each of the reaches, and returns the
// best of those that lose less than the widths that they start from; a nil allocation if
// there are none.
func (s *sharer) propose(choose plan.AllocateOptions, loss perToken) (best plan.Rule, allocation *plan.Allocation, lost perToken, err error) {
	var tried [][]int
	for _, reach := range reaches {
		choose.Reach = reach * s.opt.Step
		rule, a, err := plan.Allocate(s.scores.Curves, &s.checkpoint.Spec, s.rule, choose)
		if err != nil {
			return rule, nil, nil, err
		}
		if slices.Equal(rule.Widths, choose.Near) || slices.ContainsFunc(tried, func(w []int) bool { return slices.Equal(w, rule.Widths) }) {
			continue
		}
		tried = append(tried, rule.Widths)
		l, _, err := s.loss(rule, nil)
		if err != nil {
			return rule, nil, nil, err
		}
		if l.mean() < loss.mean() {
			best, allocation, lost, loss = rule, a, l, l
		}
	}
	return best, allocation, lost, nil
}

func (s *sharer) note(format string, args ...any) {
	if s.opt.Note != nil {
		s.opt.Note(fmt.Sprintf(format, args...))
	}
}

func (s *sharer) progress(layers int) {
	s.done += int64(layers)
	if s.opt.Progress != nil {
		l := int64(len(s.stats.Widths))
		total := int64(s.opt.Rounds)*(l*(l+3)/2+int64(len(reaches))*l) + l*(l+3)/2 + 4*l
		if len(s.opt.Units) > 0 {
			parts := int64(len(s.opt.Rule.Parts(&s.checkpoint.Spec, s.opt.Units)))
			total += partRounds*(parts+l*(2+partsMeasured+int64(len(dropped)))+partsMeasured) + l
		}
		s.opt.Progress(s.done, total)
	}
}

// plan makes the plan of a rule.
func (s *sharer) plan(rule plan.Rule) (*plan.Plan, error) {
	p, err := plan.Build(s.scores, &s.checkpoint.Spec, rule)
	if err != nil {
		return nil, err
	}
	if _, err := plan.ParseRefit(string(s.opt.Refit)); err != nil {
		return p, nil // none
	}
	return p, surgery.PlanRefit(s.ctx, p, s.checkpoint, s.stats, surgery.RefitOptions{
		Method: s.opt.Refit, Cap: s.opt.Cap, Damping: measuringDamping, Threads: s.threads})
}

// rise is what the loss rises by when a layer has another width.
type rise struct {
	layer, width int
	mean, stderr float64
}

// changes lists for each layer that the rule prunes the width at which its slope is
// measured: a quarter narrower, or wider where it has but one step.
func (s *sharer) changes(widths []int) []rise {
	var all []rise
	step := s.opt.Step
	for l, w := range widths {
		if s.rule.LeavesNoMLP(l, &s.checkpoint.Spec) || len(s.opt.Rule.Layers) > 0 && !slices.Contains(s.opt.Rule.Layers, l) {
			continue
		}
		to := (w - max(step, w/4)) / step * step
		if to < step {
			to = min(w+step, s.stats.Widths[l])
		}
		if to != w {
			all = append(all, rise{layer: l, width: to})
		}
	}
	return all
}

// plans are those of a rule, and of it with all changes, which are of the layers returned.
func (s *sharer) plans(rule plan.Rule, changes []rise) (p, changed *plan.Plan, layers []int, err error) {
	if p, err = s.plan(rule); err != nil || len(changes) == 0 {
		return p, nil, nil, err
	}
	rule.Widths = slices.Clone(rule.Widths)
	for _, c := range changes {
		rule.Widths[c.layer] = c.width
		layers = append(layers, c.layer)
	}
	changed, err = s.plan(rule)
	return p, changed, layers, err
}

// loss measures a rule's loss and fills in what each of the changes does to it.
func (s *sharer) loss(rule plan.Rule, changes []rise) (perToken, []rise, error) {
	p, changed, layers, err := s.plans(rule, changes)
	if err != nil {
		return nil, nil, err
	}
	base, others, err := s.losses.of(s.ctx, p, changed, layers)
	if err != nil {
		return nil, nil, err
	}
	for i := range changes {
		changes[i].mean, changes[i].stderr = others[i].rise(base)
	}
	return base, changes, nil
}

// slopes estimates by how much the loss rises with each layer's error at given widths.
//
// If the residual curve were right, the slope of layer l would be k/R_l, R_l the energy of
// its residual stream, with one k for all layers. How much the layers' measured slopes
// differ from that, beyond what the noise of each explains, says how far to believe each:
// it is drawn to k/R_l the more the noisier it is (empirical Bayes). No slope falls below
// a tenth of k/R_l: a layer that seems to gain from being cut is not cut to nothing.
func (s *sharer) slopes(widths []int, rises []rise) []float64 {
	slopes := make([]float64, len(widths))
	x, energy := make([]float64, len(rises)), make([]float64, len(rises)) // rise of the relative error
	for i, r := range rises {
		errors, stream := s.opt.Refit.Errors(&s.scores.Curves.Layers[r.layer])
		energy[i] = stream
		if stream > 0 {
			x[i] = (float64(errors[r.width]) - float64(errors[widths[r.layer]])) / stream
		}
	}
	for i, ratio := range shrunk(x, rises) {
		if energy[i] > 0 {
			slopes[rises[i].layer] = ratio / energy[i]
		}
	}
	return slopes
}

// shrunk estimates r_i in rise_i = r_i x_i + noise, with noise of standard error stderr_i.
func shrunk(x []float64, rises []rise) []float64 {
	xy, xx := 0.0, 0.0
	for i, r := range rises {
		xy += r.mean * x[i]
		xx += x[i] * x[i]
	}
	k := 1.0
	if xy > 0 && xx > 0 {
		k = xy / xx
	}
	ratios, noise := make([]float64, len(x)), make([]float64, len(x)) // of k, and its variance
	spread, n := 0.0, 0.0
	for i, r := range rises {
		if x[i] == 0 {
			continue
		}
		ratios[i] = r.mean / x[i] / k
		noise[i] = (r.stderr / x[i] / k) * (r.stderr / x[i] / k)
		// Layers that are hard to measure say little about how layers differ.
		weight := 1 / (1 + noise[i])
		spread += weight * ((ratios[i]-1)*(ratios[i]-1) - noise[i])
		n += weight
	}
	if n > 0 {
		spread = max(0, spread/n)
	}
	for i := range ratios {
		if x[i] == 0 || spread+noise[i] == 0 {
			ratios[i] = k
			continue
		}
		believed := spread / (spread + noise[i])
		ratios[i] = k * max(0.1, 1+believed*(ratios[i]-1))
	}
	return ratios
}
