package surgery

import (
	"fmt"
	"slices"

	"github.com/coppice-lm/coppice/linalg"
)

// Fit is what a down_proj is fitted to: means over tokens of what goes into it, a (the k
// neurons that stay), and of what should come out, t (h values).
type Fit struct {
	H      *linalg.Matrix // k x k, mean of a a'
	Cross  *linalg.Matrix // h x k, mean of t a'
	Energy float64        // mean of |t|^2
}

// Solve returns W + (C - W H) (H + lI)^-1 with l = damping * trace(H)/k: the weights whose
// outputs are nearest to the targets, mean over tokens, with a ridge that pulls to the
// weights w (h x k). Where nothing fires, they are w.
func (f *Fit) Solve(w *linalg.Matrix, damping float64, threads int) (*linalg.Matrix, error) {
	fitted := w.Clone()
	l := damping * f.H.Trace() / float64(f.H.Rows)
	if l == 0 {
		return fitted, nil
	}
	change := f.Cross.Clone()
	linalg.AddMulT(change, -1, w, f.H, threads) // H is symmetric
	return fitted, ridge(fitted, change, f.H.Clone(), l, threads)
}

// Error is the mean of |t - W a|^2.
func (f *Fit) Error(w *linalg.Matrix, threads int) float64 {
	wh := linalg.New(w.Rows, w.Cols)
	linalg.AddMulT(wh, 1, w, f.H, threads)
	e := f.Energy
	for i := range w.Rows {
		cross, product := f.Cross.Row(i), wh.Row(i)
		for j, x := range w.Row(i) {
			e += x * (product[j] - 2*cross[j])
		}
	}
	return e
}

// Choose is the damping of Dampings whose solution for fit has the least error on held,
// and the solution's error there; of equals the larger damping. held may be nil, where no
// text is held back.
func (f *Fit) Choose(w *linalg.Matrix, held *Fit, threads int) (float64, error) {
	if held == nil {
		return defaultDamping, nil
	}
	best, least := 0.0, 0.0
	for _, damping := range slices.Backward(Dampings) {
		fitted, err := f.Solve(w, damping, threads)
		if err != nil {
			return 0, fmt.Errorf("damping %g: %w", damping, err)
		}
		if e := held.Error(fitted, threads); best == 0 || e < least {
			best, least = damping, e
		}
	}
	return best, nil
}
