package calib

import (
	"context"
	"fmt"
	"math/bits"
	"slices"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/surgery"
)

// DefaultRounds is how often at most ShareWidths looks for better widths, after the first, unless it is told
// otherwise. It ends where a round gains less than a 200th.
const DefaultRounds = 4

// leastGain is the share of the divergence below which what a round gains is not worth another.
const leastGain = 1.0 / 200

// moves is how many steps of neurons the first widths that are proposed move from layer to layer, for each
// layer. Where they lose more, half as many are tried, and so on.
const moves = 2

// measuringDamping is the damping of refits while widths are measured; that of the plan is
// chosen when the widths are.
const measuringDamping = 0.05

// WidthOptions are what ShareWidths can be told.
type WidthOptions struct {
	Rule   plan.Rule // whose widths, the same in all layers, are the budget
	Step   int       // widths are multiples of it
	Refit  plan.RefitMethod
	Cap    float64     // in [0, 1], most of the trace of H that first tokens have
	Rounds int         // how often at most slopes are measured
	Units  []plan.Unit // what may go besides neurons where that loses less

	Progress func(done, total int64) // called with layers run over the text; may be nil
	Note     func(message string)    // may be nil
}

// ShareWidths shares the neurons that a rule keeps out among the layers so that what the pruned model
// says next is as near as can be to what the dense model says (Kullback-Leibler divergence), on the
// held-back part of the calibration text: the text that st was made of, and opt as it was given to
// Collect; of a long text 16,384 tokens at even distances. Scores must have error curves.
//
// A layer's slope is what the divergence rises by, over what the layer's error rises by. Slopes are
// measured in a model that is narrower everywhere, since what one layer costs depends on what the others lost: all
// layers are narrowed at once, and the rise is shared out among them by its gradient (see attribute), which
// takes one pass there and back for all of them. The first are of the whole way from the model to one width,
// and give the widths with the least sum of slopes times errors. Rounds follow, of the way from the best
// widths so far to an eighth less: neurons are moved from layers where slope times error says that they count little to
// others, two steps for each layer in all, and half as many until that loses less. One width, and the widths of
// the residual curve, are tried too.
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
	text.rows = judged(slices.DeleteFunc(text.rows, func(r row) bool { return !r.held }))
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
	uniform, err := s.loss(s.opt.Rule)
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
	var best plan.Rule
	var allocation *plan.Allocation
	var loss perToken
	// try has widths be the best if they lose less than those before.
	try := func(what string) error {
		rule, a, err := plan.Allocate(s.scores.Curves, spec, s.rule, choose)
		if err != nil {
			return err
		}
		l, err := s.loss(rule)
		if err != nil {
			return err
		}
		s.note("divergence on held-back text: %.4f %s", l.mean(), what)
		if loss == nil || l.mean() < loss.mean() {
			best, allocation, loss = rule, a, l
		}
		return nil
	}
	if err := try("by the residual curve"); err != nil {
		return fail(err)
	}
	to := best
	if one := s.oneWidth(best.Widths); one != nil {
		choose.Near, to.Widths = one, one
		if err := try("at one width"); err != nil {
			return fail(err)
		}
	}
	choose.Curve, choose.Near = plan.Measured, nil
	if choose.Slopes, err = s.whole(to); err != nil {
		return fail(err)
	}
	if err := try("by what each layer costs on the way from the whole model"); err != nil {
		return fail(err)
	}
	choose.Moves = moves * len(spec.Widths)
	for round := range s.opt.Rounds {
		if choose.Slopes, err = s.measure(best, s.narrowed(best.Widths)); err != nil {
			return fail(err)
		}
		choose.Near = best.Widths
		next, a, lost, moved, err := s.propose(choose, loss)
		if err != nil {
			return fail(err)
		}
		if moved == 0 {
			break
		}
		s.note("divergence on held-back text: %.4f after round %d, which moved %d steps of neurons", lost.mean(), round+1, moved)
		little := lost.mean() > (1-leastGain)*loss.mean()
		best, allocation, loss, choose.Moves = next, a, lost, moved
		if little {
			break
		}
	}
	allocation.Divergence, allocation.DivergenceUniform, allocation.Units = loss.mean(), uniform.mean(), s.opt.Units
	return best, allocation, nil
}

// oneWidth are widths, in steps, of the same sum as the given ones, that are as near to one another as can be;
// nil where a layer is too narrow for that.
func (s *sharer) oneWidth(widths []int) []int {
	step, one, layers, units := s.opt.Step, slices.Clone(widths), []int(nil), 0
	for l, w := range widths {
		if s.pruned(l) {
			if w%step != 0 || s.stats.Widths[l] < s.stats.Widths[0] {
				return nil
			}
			layers, units = append(layers, l), units+w/step
		}
	}
	for i, l := range slices.Backward(layers) {
		one[l] = units / (i + 1) * step // the rest goes to the last layers
		units -= one[l] / step
	}
	return one
}

// pruned reports whether the rule at hand prunes a layer's MLP.
func (s *sharer) pruned(l int) bool {
	return !s.rule.LeavesNoMLP(l, &s.checkpoint.Spec) && (len(s.opt.Rule.Layers) == 0 || slices.Contains(s.opt.Rule.Layers, l))
}

// whole measures slopes over the whole way from the model's own widths to those of a rule.
func (s *sharer) whole(rule plan.Rule) ([]float64, error) {
	var own, rises []rise
	for l, w := range rule.Widths {
		if s.pruned(l) {
			own = append(own, rise{layer: l, width: s.stats.Widths[l]})
			rises = append(rises, rise{layer: l, width: w})
		}
	}
	return s.measure(changed(rule, own), rises)
}

// measure measures slopes on the way from the widths of a rule to narrower ones.
func (s *sharer) measure(rule plan.Rule, rises []rise) ([]float64, error) {
	p, err := s.plan(rule)
	if err != nil {
		return nil, err
	}
	n, err := s.plan(changed(rule, rises))
	if err != nil {
		return nil, err
	}
	if err := s.losses.attribute(s.ctx, p, n, rises); err != nil {
		return nil, err
	}
	return s.slopes(rule.Widths, rises), nil
}

// propose moves neurons as slopes say, at most so many steps, and half as many until less is lost than at
// the widths that it starts from. It returns how many steps were moved: 0 if no number helps.
func (s *sharer) propose(choose plan.AllocateOptions, loss perToken) (best plan.Rule, allocation *plan.Allocation, lost perToken, moved int, err error) {
	last := choose.Near
	for ; choose.Moves > 0; choose.Moves /= 2 {
		rule, a, err := plan.Allocate(s.scores.Curves, &s.checkpoint.Spec, s.rule, choose)
		if err != nil {
			return rule, nil, nil, 0, err
		}
		if slices.Equal(rule.Widths, choose.Near) {
			break
		}
		if slices.Equal(rule.Widths, last) { // it had no more to move
			continue
		}
		last = rule.Widths
		l, err := s.loss(rule)
		if err != nil {
			return rule, nil, nil, 0, err
		}
		if l.mean() < loss.mean() {
			return rule, a, l, choose.Moves, nil
		}
	}
	return best, nil, nil, 0, nil
}

func (s *sharer) note(format string, args ...any) {
	if s.opt.Note != nil {
		s.opt.Note(fmt.Sprintf(format, args...))
	}
}

// progress is called for each batch that a layer has run over.
func (s *sharer) progress() {
	s.done++
	if s.opt.Progress == nil || s.done%int64(len(s.losses.batches)) != 0 {
		return
	}
	l := int64(len(s.stats.Widths))
	total := int64(s.opt.Rounds)*(2+int64(bits.Len(uint(moves)*uint(l))))*l + 6*l // should no number of moves help
	if len(s.opt.Units) > 0 {
		parts := int64(len(s.opt.Rule.Parts(&s.checkpoint.Spec, s.opt.Units)))
		total += partRounds*(parts+l*(2+partsMeasured+int64(len(dropped)))+partsMeasured) + l
	}
	s.opt.Progress(s.done/int64(len(s.losses.batches)), total)
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

// narrowed lists the layers that the rule prunes with widths an eighth narrower, where that is not less
// than a step.
func (s *sharer) narrowed(widths []int) []rise {
	var all []rise
	step := s.opt.Step
	for l, w := range widths {
		to := (w - max(step, w/8)) / step * step
		if to < step {
			to = w
		}
		if s.pruned(l) {
			all = append(all, rise{layer: l, width: to})
		}
	}
	return all
}

// changed is a rule with the widths of rises.
func changed(rule plan.Rule, rises []rise) plan.Rule {
	rule.Widths = slices.Clone(rule.Widths)
	for _, r := range rises {
		rule.Widths[r.layer] = r.width
	}
	return rule
}

// loss measures a rule's loss.
func (s *sharer) loss(rule plan.Rule) (perToken, error) {
	p, err := s.plan(rule)
	if err != nil {
		return nil, err
	}
	return s.losses.of(s.ctx, p)
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
