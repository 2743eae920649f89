package surgery

import (
	"fmt"
	"slices"

	"github.com/coppice-lm/coppice/linalg"
)

// Fit is what a down_proj is fitted to: means over tokens of what goes into it, a (the k
// neurons that stay), and of what should come out (h values): t, the MLP's own part, and e,
// an error of the layers before that it is to repair as well.
type Fit struct {
	H      *linalg.Matrix // k x k, mean of a a'
	Cross  *linalg.Matrix // h x k, mean of t a'
	Repair *linalg.Matrix // h x k, mean of e a'; nil where nothing is to be repaired

	Energy    float64 // mean of |t|^2
	AllEnergy float64 // mean of |t + e|^2
}

// Solve returns W + (C - W H) (H + lI)^-1 with C = Cross and l = damping * trace(H)/k: the
// weights whose outputs are nearest to t, mean over tokens, with a ridge that pulls to the
// weights w (h x k). Where nothing fires, they are w.
func (f *Fit) Solve(w *linalg.Matrix, damping float64, threads int) (*linalg.Matrix, error) {
	change := f.Cross.Clone()
	linalg.AddMulT(change, -1, w, f.H, threads) // H is symmetric
	return f.divide(w, change, damping, threads)
}

// SolveRepair returns W + Repair (H + lI)^-1: w, and what repairs most of e, with a ridge of
// its own that pulls the repair to nothing. Little of e can be told from a, so that it
// needs a larger ridge than t does; with equal ridges, Solve and SolveRepair together are
// the solution for t + e.
func (f *Fit) SolveRepair(w *linalg.Matrix, damping float64, threads int) (*linalg.Matrix, error) {
	return f.divide(w, f.Repair.Clone(), damping, threads)
}

// divide returns W + C (H + lI)^-1, and overwrites C.
func (f *Fit) divide(w, c *linalg.Matrix, damping float64, threads int) (*linalg.Matrix, error) {
	fitted := w.Clone()
	l := damping * f.H.Trace() / float64(f.H.Rows)
	if l == 0 {
		return fitted, nil
	}
	return fitted, ridge(fitted, c, f.H.Clone(), l, threads)
}

// Error is the mean of |t - W a|^2.
func (f *Fit) Error(w *linalg.Matrix, threads int) float64 {
	return f.Energy + f.quadratic(w, f.Cross, threads)
}

// AllError is the mean of |t + e - W a|^2.
func (f *Fit) AllError(w *linalg.Matrix, threads int) float64 {
	if f.Repair == nil {
		return f.Error(w, threads)
	}
	all := f.Cross.Clone()
	for i, x := range f.Repair.Data {
		all.Data[i] += x
	}
	return f.AllEnergy + f.quadratic(w, all, threads)
}

// quadratic is tr(W H W') - 2 tr(C W').
func (f *Fit) quadratic(w, c *linalg.Matrix, threads int) float64 {
	wh := linalg.New(w.Rows, w.Cols)
	linalg.AddMulT(wh, 1, w, f.H, threads)
	e := 0.0
	for i := range w.Rows {
		cross, product := c.Row(i), wh.Row(i)
		for j, x := range w.Row(i) {
			e += x * (product[j] - 2*cross[j])
		}
	}
	return e
}

// Choose is the damping of Dampings whose solution for the fit has the least error on held,
// which is nil where no text is held back; of equals the larger. It returns the solution
// too.
func (f *Fit) Choose(w *linalg.Matrix, held *Fit, threads int) (float64, *linalg.Matrix, error) {
	solve := func(damping float64) (*linalg.Matrix, error) { return f.Solve(w, damping, threads) }
	if held == nil {
		fitted, err := solve(defaultDamping)
		return defaultDamping, fitted, err
	}
	return choose(solve, func(w *linalg.Matrix) float64 { return held.Error(w, threads) })
}

// ChooseRepair is Choose for SolveRepair: damping 0 and w itself where no repair has less
// error than each of Dampings, and where no text is held back to tell.
func (f *Fit) ChooseRepair(w *linalg.Matrix, held *Fit, threads int) (float64, *linalg.Matrix, error) {
	if f.Repair == nil || held == nil {
		return 0, w, nil
	}
	damping, fitted, err := choose(
		func(damping float64) (*linalg.Matrix, error) { return f.SolveRepair(w, damping, threads) },
		func(w *linalg.Matrix) float64 { return held.AllError(w, threads) })
	if err != nil || held.AllError(fitted, threads) >= held.AllError(w, threads) {
		return 0, w, err
	}
	return damping, fitted, nil
}

func choose(solve func(damping float64) (*linalg.Matrix, error), errorOf func(*linalg.Matrix) float64) (best float64, solution *linalg.Matrix, err error) {
	least := 0.0
	for _, damping := range slices.Backward(Dampings) {
		fitted, err := solve(damping)
		if err != nil {
			return 0, nil, fmt.Errorf("damping %g: %w", damping, err)
		}
		if e := errorOf(fitted); solution == nil || e < least {
			best, least, solution = damping, e, fitted
		}
	}
	return best, solution, nil
}
