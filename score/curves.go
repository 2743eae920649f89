package score

import (
	"context"
	"fmt"
	"slices"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/linalg"
)

// Curve says what the output of a layer of d neurons loses with each number k of neurons
// that stay, the k best of an order. Element k of a curve, 0 to d, is a mean of |error|^2
// over tokens; element 0 of Cut and Held is the energy of the layer's whole output.
type Curve struct {
	// Fit is the error after a least-squares refit of down_proj on the tokens it was
	// fitted to (Second of Fit), ridge included, so that it never rises with k.
	Fit []float32 `json:"fit"`
	// Held is the error of the same refits on held-back tokens, without a ridge. It is empty
	// where no text was held back. Scores have seen these tokens, the refits have not.
	Held []float32 `json:"held,omitempty"`
	// Cut is the error on the tokens of Fit if nothing is refitted.
	Cut []float32 `json:"cut"`
	// BodyStream and HeldStream are the energy of the residual stream at the layer's output,
	// the mean of |r|^2, over the body and over held-back tokens. First tokens have no part in
	// it: their streams are so large in trained models that no error of others would count.
	BodyStream float64 `json:"body_stream"`
	HeldStream float64 `json:"held_stream,omitempty"`
}

// CurveDamping is the damping of the refits of error curves unless the user says otherwise:
// of held-back errors little depends on it.
const CurveDamping = 1e-2

// CurveOptions are what AddCurves can be told.
type CurveOptions struct {
	Cap      float64 // in [0, 1], most of the trace of H that first tokens have
	Damping  float64 // in (0, MaxDamping]: the ridge is Damping * trace(H)/d
	Threads  int
	Progress func(layers int64) // called with 1 after each layer; may be nil
}

// AddCurves adds the error curves of all layers to scores of any method, from statistics
// of their model.
func AddCurves(ctx context.Context, s *Scores, c *checkpoint.Checkpoint, st *Stats, opt CurveOptions) error {
	check := CalibratedOptions{Cap: opt.Cap, Damping: opt.Damping}
	if err := check.Check(); err != nil {
		return err
	}
	if err := st.CheckModel(s.Model, &c.Spec); err != nil {
		return err
	}
	fingerprint, err := st.Fingerprint()
	if err != nil {
		return err
	}
	curves := &Curves{Stats: fingerprint, Text: st.Text, Cap: opt.Cap, Damping: opt.Damping}
	for l := range st.Widths {
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(s.Layers) != len(st.Widths) || len(s.Layers[l]) != st.Widths[l] {
			return fmt.Errorf("the scores do not fit the model's layers of %v neurons", st.Widths)
		}
		layer, err := st.Layer(l)
		if err != nil {
			return err
		}
		var w *linalg.Matrix
		if layer.Width > 0 {
			if w, err = DownProj(c, l); err != nil {
				return err
			}
		}
		curve, err := curveOf(layer, w, Order(s.Layers[l]), opt)
		if err != nil {
			return fmt.Errorf("layer %d: %w; more calibration text or a larger damping helps", l, err)
		}
		curves.Layers = append(curves.Layers, curve)
		if opt.Progress != nil {
			opt.Progress(1)
		}
	}
	s.Curves = curves
	return nil
}

// Curves are the error curves of all layers and what they were made from.
type Curves struct {
	Stats   string  `json:"stats"` // fingerprint of the statistics
	Text    string  `json:"text"`  // fingerprint of their text
	Cap     float64 `json:"first_token_cap"`
	Damping float64 `json:"damping"`
	Layers  []Curve `json:"layers"`
}

// CheckStats refuses statistics that the curves were not made from.
func (c *Curves) CheckStats(st *Stats) error {
	fingerprint, err := st.Fingerprint()
	if err == nil && fingerprint != c.Stats {
		err = fmt.Errorf("%s: the scores' error curves are of other statistics (curves: %s, statistics: %s); name those, or make the scores from these with `coppice score`", st.Path(), c.Stats, fingerprint)
	}
	return err
}

// Order lists the neurons of a layer from the highest score to the lowest; of equal
// scores the lower index comes first.
func Order(scores []float32) []int {
	order := make([]int, len(scores))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case scores[a] > scores[b]:
			return -1
		case scores[a] < scores[b]:
			return 1
		}
		return 0
	})
	return order
}

// curveOf computes the curves of one layer for all k at once. With rows and columns in
// the order from best to worst, let H + lI = L L' and Z = W L. The refit that keeps the
// first k neurons changes down_proj by D = -[0 Z_k] L^-1, where Z_k are the columns of Z
// from k on: it is zero in what it adds to the columns of D L before k, which is what
// makes it the least-squares solution, and -W in the columns that go. So the squared
// error with the ridge, tr(D L L' D'), is the sum of the squares of Z_k, and that on
// other tokens of second moment V is the sum over i, j >= k of (Z'Z)_ij (L^-1 V L'^-1)_ij:
// one factorisation and two triangular solves give what a refit for each k would.
func curveOf(s *LayerStats, w *linalg.Matrix, order []int, opt CurveOptions) (Curve, error) {
	d := s.Width
	c := Curve{BodyStream: s.Body.Stream.Energy / max(1, float64(s.Body.N))}
	if d == 0 { // no MLP, no error
		c.Fit, c.Cut = make([]float32, 1), make([]float32, 1)
		if s.Held.N > 0 {
			c.Held, c.HeldStream = make([]float32, 1), s.Held.Stream.Energy/float64(s.Held.N)
		}
		return c, nil
	}
	w = w.Columns(order)
	h, _ := s.Second(Fit, opt.Cap, opt.Threads)
	h = h.Select(order, order)
	c.Cut = suffixes(gramOf(w, opt.Threads), h)
	l := damp(h, opt.Damping)
	held := s.HeldBack()
	if held != nil {
		c.HeldStream = s.Held.Stream.Energy / float64(s.Held.N)
		held = held.Select(order, order)
	}
	if l == 0 { // nothing fires in the text that is fitted to, and nothing is refitted
		c.Fit = make([]float32, d+1)
		if held != nil {
			c.Held = suffixes(gramOf(w, opt.Threads), held)
		}
		return c, nil
	}
	h.AddDiagonal(l)
	f, err := linalg.Factor(h, opt.Threads)
	if err != nil {
		return c, err
	}
	z := f.MulFactor(w)
	c.Fit = make([]float32, d+1)
	sum := 0.0
	for k, square := range slices.Backward(columnSquares(z)) {
		sum += square
		c.Fit[k] = float32(sum)
	}
	if held != nil {
		f.SolveFactor(held) // V L'^-1
		held.Transpose()
		f.SolveFactor(held) // L^-1 V L'^-1: V is symmetric
		c.Held = suffixes(gramOf(z, opt.Threads), held)
	}
	return c, nil
}

// gramOf is the lower triangle of W'W.
func gramOf(w *linalg.Matrix, threads int) *linalg.Matrix {
	g := linalg.NewPadded(w.Cols, w.Cols)
	linalg.AddTMulLower(g, 1, w, w, threads)
	return g
}

// suffixes returns for each k, 0 to the number of rows, the sum over i, j >= k of
// a_ij b_ij, for symmetric matrices of which it reads the lower triangles. What rounding
// takes below zero is zero.
func suffixes(a, b *linalg.Matrix) []float32 {
	added := make([]float64, a.Rows+1) // by row and column k of the sum
	for i := range a.Rows {
		x, y := a.Row(i), b.Row(i)
		for j := range i {
			added[j] += 2 * x[j] * y[j]
		}
		added[i] += x[i] * y[i]
	}
	sums := make([]float32, a.Rows+1)
	sum := 0.0
	for k, x := range slices.Backward(added) {
		sum += x
		sums[k] = float32(max(0, sum))
	}
	return sums
}
