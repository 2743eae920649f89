package surgery

import (
	"context"
	"fmt"
	"slices"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/linalg"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
)

// Dampings are what a least-squares refit chooses from, by the error on held-back text.
var Dampings = []float64{1e-4, 1e-3, 1e-2, 1e-1, 0.3, 1, 3}

// defaultDamping is taken where no text is held back.
const defaultDamping = 1e-2

// RefitOptions are what PlanRefit can be told.
type RefitOptions struct {
	Method   plan.RefitMethod
	Cap      float64 // in [0, 1], most of the trace of H that first tokens have
	Damping  float64 // in (0, plan.MaxDamping]; 0: chosen for each layer from Dampings
	Threads  int
	Progress func(layers int64) // called with 1 after each layer; may be nil
	Note     func(string)       // what the user should be told; may be nil
}

// RefitError says that a model cannot be refitted as asked.
type RefitError struct{ Reason string }

func (e *RefitError) Error() string { return e.Reason }

// CheckRefit is a *RefitError if a model of the family cannot be refitted so.
func CheckRefit(spec *arch.Spec, method plan.RefitMethod) error {
	if method == plan.Propagated {
		return &RefitError{fmt.Sprintf("--refit %s: it needs a plan and the text itself; make the plan first, then `coppice refit`", method)}
	}
	if method != plan.Bias || spec.MLPBias {
		return nil
	}
	biased := *spec
	biased.MLPBias = true
	if len(mlpBiases(&biased)) == 0 {
		return &RefitError{fmt.Sprintf("--refit bias: models of type %s have no biases in their MLPs; use --refit least-squares", spec.Family.ModelType)}
	}
	return nil
}

// PlanRefit decides how the plan's layers are refitted from statistics of its model, and
// writes that into the plan.
func PlanRefit(ctx context.Context, p *plan.Plan, c *checkpoint.Checkpoint, st *score.Stats, opt RefitOptions) error {
	if err := CheckRefit(&c.Spec, opt.Method); err != nil {
		return err
	}
	if err := st.CheckModel(p.Model, &c.Spec); err != nil {
		return err
	}
	fingerprint, err := st.Fingerprint()
	if err != nil {
		return err
	}
	p.Refit = &plan.Refit{Method: opt.Method, Stats: fingerprint, Cap: opt.Cap}
	if opt.Method != plan.LeastSquares {
		return nil
	}
	for l := range p.Layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		layer := &p.Layers[l]
		if p.Refits(*layer, c.Spec.Widths[l]) {
			if layer.Damping, err = chooseDamping(c, st, l, layer.Keep, opt); err != nil {
				return err
			}
		}
		if opt.Progress != nil {
			opt.Progress(1)
		}
	}
	return nil
}

// chooseDamping is the damping whose refit, made without the held-back text, has the
// least error on it. Of equals the larger is taken.
func chooseDamping(c *checkpoint.Checkpoint, st *score.Stats, l int, keep []int, opt RefitOptions) (float64, error) {
	if opt.Damping > 0 {
		return opt.Damping, nil
	}
	stats, err := st.Layer(l)
	if err != nil {
		return 0, err
	}
	held := stats.HeldBack()
	if held == nil {
		return defaultDamping, nil
	}
	if len(stats.Dead()) == stats.Width && opt.Note != nil {
		opt.Note(fmt.Sprintf("layer %d: no neuron fires on the calibration text; its weights stay as they are", l))
	}
	w, err := score.DownProj(c, l)
	if err != nil {
		return 0, err
	}
	h, _ := stats.Second(score.Fit, opt.Cap, opt.Threads)
	refits, errors := refitsOf(w, h, keep, opt.Threads), errorsOf(w, held, keep, opt.Threads)
	best, least := 0.0, 0.0
	for _, damping := range slices.Backward(Dampings) {
		refitted, err := refits.with(damping)
		if err != nil {
			return 0, fmt.Errorf("layer %d, damping %g: %w", l, damping, err)
		}
		if e := errors.of(refitted); best == 0 || e < least {
			best, least = damping, e
		}
	}
	return best, nil
}

// complement lists the numbers below d that are not in keep, which ascends.
func complement(keep []int, d int) []int {
	gone := make([]int, 0, d-len(keep))
	for j, k := 0, 0; j < d; j++ {
		if k < len(keep) && keep[k] == j {
			k++
		} else {
			gone = append(gone, j)
		}
	}
	return gone
}

// leastSquares returns W_K + W_P H_PK (H_KK + lI)^-1 with l = damping * trace(H)/d: the
// columns for the neurons that stay whose output is nearest to that of all, mean over
// tokens, with a ridge that pulls to the original weights. Where nothing fires, or
// nothing goes, they are the original weights. w is h x d, H d x d.
func leastSquares(w, h *linalg.Matrix, keep []int, damping float64, threads int) (*linalg.Matrix, error) {
	return refitsOf(w, h, keep, threads).with(damping)
}

// refits are leastSquares for several dampings.
type refits struct {
	kept    *linalg.Matrix // W_K
	cross   *linalg.Matrix // W_P H_PK; nil where nothing goes
	second  *linalg.Matrix // H_KK
	mean    float64        // trace(H)/d
	threads int
}

func refitsOf(w, h *linalg.Matrix, keep []int, threads int) *refits {
	r := &refits{kept: w.Columns(keep), mean: h.Trace() / float64(h.Rows), threads: threads}
	if gone := complement(keep, w.Cols); len(gone) > 0 && r.mean != 0 {
		r.cross, r.second = throughPruned(w, h, keep, gone, threads), h.Select(keep, keep)
	}
	return r
}

// throughPruned returns W_P H_PK, P being gone and K keep.
func throughPruned(w, h *linalg.Matrix, keep, gone []int, threads int) *linalg.Matrix {
	p := linalg.New(w.Rows, len(keep))
	linalg.AddMulT(p, 1, w.Columns(gone), h.Select(keep, gone), threads) // H is symmetric
	return p
}

func (r *refits) with(damping float64) (*linalg.Matrix, error) {
	w := r.kept.Clone()
	if r.cross == nil || damping == 0 {
		return w, nil
	}
	return w, ridge(w, r.cross.Clone(), r.second.Clone(), damping*r.mean, r.threads)
}

// ridge adds C (A + lI)^-1 to w, and overwrites both.
func ridge(w, c, a *linalg.Matrix, l float64, threads int) error {
	a.AddDiagonal(l)
	f, err := linalg.Factor(a, threads)
	if err != nil {
		return fmt.Errorf("the refit cannot be solved: %w; more calibration text or a larger --refit-damping helps", err)
	}
	f.SolveRight(c)
	for i := range w.Rows {
		to := w.Row(i)
		for j, x := range c.Row(i) {
			to[j] += x
		}
	}
	return nil
}

// outputErrors are the mean of |D a|^2 over the tokens that H is the second moment of, D
// being refitted weights (zero for what went) less the original: with V what a refit adds
// to W_K, the sum of the elements of V (V H_KK - 2 W_P H_PK) and of W_P (W_P H_PP).
type outputErrors struct {
	kept    *linalg.Matrix // W_K
	cross   *linalg.Matrix // -2 W_P H_PK
	second  *linalg.Matrix // H_KK
	without float64        // the error where V is zero
	threads int
}

func errorsOf(w, h *linalg.Matrix, keep []int, threads int) *outputErrors {
	gone := complement(keep, w.Cols)
	e := &outputErrors{kept: w.Columns(keep), cross: throughPruned(w, h, keep, gone, threads), second: h.Select(keep, keep), threads: threads}
	for i := range e.cross.Data {
		e.cross.Data[i] *= -2
	}
	pruned := w.Columns(gone)
	e.without = inner(pruned, throughPruned(w, h, gone, gone, threads))
	return e
}

func (e *outputErrors) of(refitted *linalg.Matrix) float64 {
	v, sum := refitted.Clone(), e.cross.Clone()
	for i, x := range e.kept.Data {
		v.Data[i] -= x
	}
	linalg.AddMulT(sum, 1, v, e.second, e.threads)
	return e.without + inner(v, sum)
}

// inner is the sum of the products of elements.
func inner(a, b *linalg.Matrix) float64 {
	sum := 0.0
	for i, x := range a.Data {
		sum += x * b.Data[i]
	}
	return sum
}

// biasOf returns W_P mu_P: the mean of what the neurons that go add to the output.
func biasOf(w *linalg.Matrix, mu []float64, keep []int) []float64 {
	b := make([]float64, w.Rows)
	for _, j := range complement(keep, w.Cols) {
		for i := range b {
			b[i] += w.At(i, j) * mu[j]
		}
	}
	return b
}
