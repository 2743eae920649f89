package surgery

import (
	"fmt"

	"github.com/coppice-lm/coppice/linalg"
)

// Inner is what a Gauss-Newton step on gate_proj and up_proj needs: means over tokens of
// the MLP's input x (h values) and of the slopes s (2k values) of its k neurons'
// activations a = act(g) u, first those by the gate, act'(g) u, then those by up, act(g).
type Inner struct {
	Inputs *linalg.Matrix // h x h, mean of x x'
	Slopes *linalg.Matrix // 2k x 2k, mean of s s'
	// Gradient is half of that of the mean of |W a - t|^2 by gate above up: 2k x h, the mean
	// of d x', where d is s times W'(W a - t), twice below one another.
	Gradient *linalg.Matrix
}

// Step returns the change of gate_proj (k rows of h) and, below it, up_proj that a damped
// Gauss-Newton step makes for the down_proj w (h x k). The curvature is taken as the
// Kronecker product of the inputs' second moment and of the mean of J'J over tokens, J
// the derivative of the output by the neurons' gates and ups: (W'W) times Slopes, element
// by element (after K-FAC, arXiv 1503.05671). To each factor damping times its mean
// diagonal is added. The means are overwritten.
func (g *Inner) Step(w *linalg.Matrix, damping float64, threads int) (*linalg.Matrix, error) {
	k := w.Cols
	curvature := g.Slopes
	wt := transposed(w)
	gram := linalg.New(k, k)
	linalg.AddMulT(gram, 1, wt, wt, threads)
	for i := range curvature.Rows {
		row, weights := curvature.Row(i), gram.Row(i%k)
		for j := range row {
			row[j] *= weights[j%k]
		}
	}
	step := transposed(g.Gradient)
	if err := divide(step, curvature, damping, threads); err != nil {
		return nil, fmt.Errorf("the step on gate and up: %w", err)
	}
	step = transposed(step)
	if err := divide(step, g.Inputs, damping, threads); err != nil {
		return nil, fmt.Errorf("the step on gate and up: %w", err)
	}
	for i := range step.Data {
		step.Data[i] = -step.Data[i]
	}
	return step, nil
}

// divide replaces B by B (A + lI)^-1 with l = damping * trace(A)/n, and overwrites A. Where
// A is zero, B becomes so.
func divide(b, a *linalg.Matrix, damping float64, threads int) error {
	l := damping * a.Trace() / float64(a.Rows)
	if l == 0 {
		clear(b.Data)
		return nil
	}
	a.AddDiagonal(l)
	f, err := linalg.Factor(a, threads)
	if err != nil {
		return fmt.Errorf("%w; more calibration text helps", err)
	}
	f.SolveRight(b)
	return nil
}

func transposed(m *linalg.Matrix) *linalg.Matrix {
	t := linalg.New(m.Cols, m.Rows)
	for i := range m.Rows {
		for j, x := range m.Row(i) {
			t.Data[j*t.Stride+i] = x
		}
	}
	return t
}

// KroneckerStep replaces the gradient G of a loss by a matrix W (out x in) by the damped
// Gauss-Newton step -(B + bI)^-1 G (A + aI)^-1, the curvature being taken as the
// Kronecker product of A (in x in), the second moment of what W receives, and B (out x out),
// that of gradients by what it produces (K-FAC, arXiv 1503.05671). a and b are
// damping times the mean diagonal of their factor. A and B are overwritten.
func KroneckerStep(g, b, a *linalg.Matrix, damping float64, threads int) error {
	if err := divide(g, a, damping, threads); err != nil {
		return err
	}
	t := transposed(g)
	if err := divide(t, b, damping, threads); err != nil {
		return err
	}
	for i := range g.Rows {
		row := g.Row(i)
		for j := range row {
			row[j] = -t.Row(j)[i]
		}
	}
	return nil
}
