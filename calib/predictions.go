package calib

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/internal/filelock"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/surgery"
)

// StepOptions say how RefitPredictions goes, besides on which text.
type StepOptions struct {
	Options
	Steps      int     // 1 to MaxSteps
	StepTokens int     // of the text that a step looks at, about, in four parts, each for a move; steps go round the text. 0: DefaultStepTokens
	Damping    float64 // of the curvature, above 0; 0: DefaultStepDamping
	// Labels is the share of the text's own next tokens, 0 to 1, in what the pruned model is to predict; the rest
	// is what the dense model predicts (Hinton et al., arXiv 1503.02531, section 2). Of texts that a model
	// wrote (WriteTexts) there are none: they say what the model predicts already.
	Labels float64
	// Report is called after each step; may be nil.
	Report func(StepFit)
}

// The defaults of StepOptions. With less damping, steps follow the noise of gradients: there are
// far more weights than tokens (docs/methods.md).
const (
	DefaultStepTokens  = 16384
	DefaultStepDamping = 10
)

// StepFit says what a step came to. Divergences are means over held-back tokens, in nats; with
// StepOptions.Labels they have that share of the negative log-probability of labels (engine.Layerwise.Divergence).
// Length is the part of a damped step that its first move was, 0 where the step was undone.
type StepFit struct {
	Step          int
	Length        float64
	Before, After float64
}

// RefitPredictions refits the MLPs that a plan prunes, all of them together, to what the
// dense model predicts: damped Gauss-Newton steps on gate_proj, up_proj and down_proj
// against the Kullback-Leibler divergence of the next token in the pruned model from that
// in the dense one, over the text that st was made of. They begin at the weights that the
// plan makes with st, whose own refit, if it has one, is then this one's beginning. The
// curvature is taken as one Kronecker product a matrix (K-FAC, arXiv 1503.05671). A step is four moves,
// each by the gradient of a quarter of its text, which get shorter over the run by as much each, down
// to none; a step that makes the divergence of the held-back part of the text larger by more than noise does is
// undone, and moves get half as long.
//
// It writes the weights to the file out, which it returns opened, and the refit into the
// plan, as plan.Propagated with the target plan.PredictionsTarget. m is the dense model, of
// the checkpoint c. Files that are there already are treated as Collect does. A call that
// was interrupted goes on after the last step that was finished when it is made again.
//
// It takes at most StepsMemory and, where Options.Memory leaves room, the residual streams before
// each layer of the tokens that a move looks at, 4 bytes x layers x hidden size x tokens; else
// these are in a hidden file beside out, as are the weights that a step begins at, and those that
// its moves make.
func RefitPredictions(ctx context.Context, m *lm.Layerwise, c *checkpoint.Checkpoint, st *score.Stats, p *plan.Plan, sources []string, out string, opt StepOptions) (*surgery.Weights, error) {
	s, err := newStepper(ctx, m, c, st, p, sources, out, opt)
	if err != nil {
		return nil, err
	}
	held, err := lock(out)
	if err != nil {
		return nil, err
	}
	defer filelock.Release(held)
	w, err := s.finished()
	if err == nil && w == nil {
		if err = s.all(); err == nil {
			w, err = surgery.OpenWeights(out)
		}
	}
	if err != nil {
		return nil, err
	}
	if err := refitWith(p, w, 1, plan.PredictionsTarget); err != nil {
		w.Close()
		return nil, err
	}
	p.Refit.Labels = opt.Labels
	return w, nil
}

// refitWith writes a refit by weights into a plan, in the place of another one and its dampings.
func refitWith(p *plan.Plan, w *surgery.Weights, limit float64, target plan.Target) error {
	fingerprint, err := w.Fingerprint()
	if err != nil {
		return err
	}
	for i := range p.Layers {
		p.Layers[i].Damping = 0
	}
	p.Refit = &plan.Refit{Method: plan.Propagated, Stats: fingerprint, Cap: limit, Target: target}
	return nil
}

// stepper is one call of RefitPredictions.
type stepper struct {
	ctx        context.Context
	model      *lm.Layerwise
	checkpoint *checkpoint.Checkpoint
	stats      *score.Stats
	plan       *plan.Plan
	opt        StepOptions
	out        string
	head       surgery.WeightsHead
	fit, held  []batch // of the text, the latter those that steps are judged on
	judged     int64   // tokens of held
	thinned    bool    // whether those are not all that is held back
	labelled   int64   // tokens of both with a label, where there are labels
	most       int64   // tokens of the largest share of the text that a move looks at
	spill      bool    // whether the streams before each layer are in a file
	done       int64   // tokens run
}

func newStepper(ctx context.Context, m *lm.Layerwise, c *checkpoint.Checkpoint, st *score.Stats, p *plan.Plan, sources []string, out string, opt StepOptions) (*stepper, error) {
	switch {
	case opt.Steps < 1 || opt.Steps > MaxSteps:
		return nil, fmt.Errorf("%d steps: expected 1 to %d", opt.Steps, MaxSteps)
	case opt.StepTokens < 0:
		return nil, fmt.Errorf("%d tokens a step: expected at least one, or 0 for %d", opt.StepTokens, DefaultStepTokens)
	case !(opt.Labels >= 0 && opt.Labels <= 1):
		return nil, fmt.Errorf("labels %v: expected a share between 0 and 1", opt.Labels)
	case !(opt.Damping >= 0 && opt.Damping <= maxStepDamping):
		return nil, fmt.Errorf("a damping of %v: expected a number above 0 and at most %v, or 0 for %v", opt.Damping, maxStepDamping, DefaultStepDamping)
	}
	if opt.StepTokens == 0 {
		opt.StepTokens = DefaultStepTokens
	}
	if opt.Damping == 0 {
		opt.Damping = DefaultStepDamping
	}
	model, err := c.Fingerprint()
	if err != nil {
		return nil, err
	}
	if err := p.CheckModel(model, &c.Spec); err != nil {
		return nil, err
	}
	if p.Refit != nil && p.Refit.Method == plan.Propagated {
		return nil, &surgery.RefitError{Reason: "the plan was refitted on a text already; give the plan that `coppice plan` made"}
	}
	if err := stepsFit(c, p); err != nil {
		return nil, err
	}
	s := &stepper{ctx: ctx, model: m, checkpoint: c, stats: st, plan: p, opt: opt, out: out}
	if err := s.read(sources); err != nil {
		return nil, err
	}
	if opt.Labels > 0 && s.labelled == 0 && opt.Warn != nil {
		opt.Warn("labels change nothing: a model wrote all of the text (" + writtenBy + ")")
	}
	if err := s.describe(model); err != nil {
		return nil, err
	}
	return s, s.fits()
}

// fits decides where the streams before each layer are kept.
func (s *stepper) fits() error {
	m, limit, need := s.model.Engine().Model(), s.opt.Memory, s.least()
	if limit == 0 {
		limit = DefaultMemory
	}
	if need > limit {
		return fmt.Errorf("steps on all layers together take about %s for this model and plan, and --calib-memory allows %s: give --calib-memory %s, if there is as much",
			gigabytes(need), gigabytes(limit), gigabytes(need))
	}
	s.spill = need+withGarbage(streamBytes(m, int64(len(m.Layers))*s.most)) > limit
	return nil
}

// least is the memory that the steps need.
func (s *stepper) least() int64 {
	return stepsBytes(s.model.Engine().Model(), s.head.Widths, s.model.Precision(), s.most, s.judged)
}

// share is the batches that a move looks at, each with how many tokens of them are before it,
// and their tokens.
func (s *stepper) share(index int) (share []batch, tokens int64) {
	n := min(max(1, s.opt.StepTokens/stepMoves/batchTokens), len(s.fit))
	for i := range n {
		b := s.fit[(index*n+i)%len(s.fit)]
		b.first = tokens
		share, tokens = append(share, b), tokens+int64(b.tokens)
	}
	return share, tokens
}

// maxStepDamping is where a step has become plain gradient descent.
const maxStepDamping = 1e6

// plainMLPs is an error where the weights of an MLP are not three plain matrices.
func plainMLPs(t *arch.Transformer) error {
	for _, l := range t.Layers {
		if l.Gate.Bias != "" || l.Up.Bias != "" || l.Down.Bias != "" {
			return &surgery.RefitError{Reason: "MLPs with biases are not refitted on a text; use --refit least-squares of plan or prune"}
		}
	}
	return nil
}

// stepsFit is an error where steps cannot be taken on a plan's layers.
func stepsFit(c *checkpoint.Checkpoint, p *plan.Plan) error {
	t, err := c.Spec.Transformer(c.Config)
	if err != nil {
		return err
	}
	if err := plainMLPs(t); err != nil {
		return err
	}
	if slices.Max(p.Pruned(c.Spec.Widths)) == 0 {
		return &surgery.RefitError{Reason: "the plan prunes no layer, so there is nothing to refit"}
	}
	return nil
}

// read reads the text and cuts it into batches.
func (s *stepper) read(sources []string) error {
	if err := s.opt.check(s.model.Info().MaxLength); err != nil {
		return err
	}
	documents, err := readSources(sources)
	if err != nil {
		return err
	}
	text, err := layRows(s.model, documents, &s.opt.Options)
	if err != nil {
		return err
	}
	if s.stats != nil {
		if got := text.fingerprint(); got != s.stats.Text {
			return fmt.Errorf("%s: the statistics are of another text than --calib, --tokens, --ctx, --rows and --seed give (statistics: %s, text: %s)", s.stats.Path(), s.stats.Text, got)
		}
	}
	s.head = surgery.WeightsHead{Text: text.fingerprint(), Body: text.body, First: text.first, Held: text.held}
	rows := judged(text.rows)
	s.thinned = len(rows) < len(text.rows)
	text.rows = rows
	for _, r := range rows {
		for i, label := range r.labels {
			if label && !r.first[i] {
				s.labelled++
			}
		}
	}
	for _, b := range text.batches() {
		if b.rows[0].held {
			s.held = append(s.held, b)
			s.judged += int64(b.tokens)
		} else {
			s.fit = append(s.fit, b)
		}
	}
	switch {
	case text.body == 0:
		return fmt.Errorf("the calibration text has %d tokens: give more text", text.tokens())
	case len(s.held) == 0:
		return fmt.Errorf("the calibration text has fewer than %d documents, so none is held back to judge steps by; give more documents", heldBack)
	}
	for index := range s.opt.Steps * stepMoves {
		_, tokens := s.share(index)
		s.most = max(s.most, tokens)
	}
	return nil
}

// judgedTokens is the most held-back tokens that steps are judged on. It is as many as a step looks at, so
// that judging takes no longer than its gradients.
const judgedTokens = DefaultStepTokens

// judged returns the rows but for those held back that are too many for judgedTokens tokens; such go at
// even distances, and one stays however long it is.
func judged(rows []row) []row {
	var all, seen, taken int
	for _, r := range rows {
		if r.held {
			all += len(r.tokens)
		}
	}
	if all <= judgedTokens {
		return rows
	}
	var stay []row
	for i, r := range rows {
		n := len(r.tokens)
		if !r.held {
			stay = append(stay, r)
			continue
		}
		// As much of what was seen up to here as of all.
		if seen += n; (taken+n)*all <= judgedTokens*seen || taken == 0 && i == len(rows)-1 {
			stay = append(stay, r)
			taken += n
		}
	}
	return stay
}

func (s *stepper) describe(model string) (err error) {
	h, info := &s.head, s.model.Info()
	h.Version, h.Model, h.Tokenizer, h.DType = surgery.WeightsVersion, model, info.Tokenizer, info.DType
	h.Context, h.Rows, h.Seed = s.opt.Context, string(s.opt.Rows), s.opt.Seed
	h.Hidden, h.Inner = s.checkpoint.Spec.Hidden, true
	h.Widths = s.plan.Pruned(s.checkpoint.Spec.Widths)
	from := "the neurons as they are"
	if r := s.plan.Refit; r != nil {
		dampings := sha256.New()
		for _, l := range s.plan.Layers {
			fmt.Fprintln(dampings, l.Damping)
		}
		from = fmt.Sprintf("%s, cap %v, dampings %x, of %s", r.Method, r.Cap, dampings.Sum(nil)[:8], r.Stats)
	}
	on := ""
	if s.thinned {
		on = fmt.Sprintf(", judged on %d held-back ones", s.judged)
	}
	target := string(plan.PredictionsTarget)
	if s.opt.Labels > 0 {
		target += fmt.Sprintf(" with labels %v at %d tokens", s.opt.Labels, s.labelled)
	}
	h.Recipe = fmt.Sprintf("%s, target %s, %d steps of %d moves on %d tokens%s, damping %v, from %s",
		plan.Propagated, target, s.opt.Steps, stepMoves, s.opt.StepTokens, on, s.opt.Damping, from)
	h.Plan, err = s.plan.Selection()
	return err
}

// finished returns what is already there.
func (s *stepper) finished() (*surgery.Weights, error) {
	if _, err := os.Lstat(s.out); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	w, err := surgery.OpenWeights(s.out)
	if err == nil {
		if reflect.DeepEqual(w.WeightsHead, s.head) {
			return w, s.clean(0)
		}
		w.Close()
		err = fmt.Errorf("%s: holds other refitted weights; remove it or choose another file", s.out)
	}
	if s.opt.Replace {
		return nil, nil
	}
	return nil, err
}

// all takes the steps that are left, and publishes what they made.
func (s *stepper) all() error {
	g, err := newGaussNewton(s)
	if err != nil {
		return err
	}
	kept, err := s.take(g)
	if e := s.clean(kept); err == nil {
		err = e
	}
	return err
}

// take takes the steps that are left. It returns how many of them a later call can go on from.
func (s *stepper) take(g *gaussNewton) (kept int, err error) {
	defer func() { g.given.weights.Close() }()
	if kept, err = g.resume(); err == nil && kept == 0 {
		err = g.begin()
	}
	if err != nil {
		return kept, err
	}
	name := s.file(0, "streams")
	defer os.Remove(name)
	if !s.spill {
		name = ""
	}
	if g.before, err = openStore(name, int64(len(g.planned))*s.most, s.head.Hidden, false); err != nil {
		return kept, err
	}
	defer g.before.close()
	if err := g.measure(); err != nil {
		return kept, err
	}
	for {
		fit, err := g.step(kept)
		if err != nil {
			return kept, err
		}
		if s.opt.Report != nil {
			s.opt.Report(*fit)
		}
		if kept+1 == s.opt.Steps {
			if err = g.keep(s.out, s.head); err == nil {
				kept = 0 // they have done their work
			}
			return kept, err
		}
		if err := g.keep(s.file(kept+1, "weights"), g.reached(kept+1)); err != nil {
			return kept, err
		}
		kept++
		if err := s.clean(kept); err != nil {
			return kept, err
		}
	}
}

// perStep is about how many tokens a step runs, for the display of progress.
func (s *stepper) perStep() int64 { return stepMoves*s.most + s.judged }

// progress reports tokens that were run.
func (s *stepper) progress(tokens int64) {
	s.done += tokens
	if s.opt.Progress != nil {
		total := int64(s.opt.Steps) * s.perStep()
		s.opt.Progress(min(s.done, total), total)
	}
}
