package cpu

import (
	"context"
	"math"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
)

// Divergence implements engine.Layerwise.
func (w *Layerwise) Divergence(ctx context.Context, batch engine.Batch, stream, other []float32) ([]float64, error) {
	for _, s := range [][]float32{stream, other} {
		if err := w.fits(batch, s); err != nil {
			return nil, err
		}
	}
	e := w.e
	defer e.begin()()
	if err := w.loadHead(ctx); err != nil {
		return nil, err
	}
	layout := lay(batch, e.model.Regime)
	_, wanted := wantedOf(batch, &layout)
	all := make([]float64, len(wanted))
	e.pool.run((len(all)+headRows-1)/headRows, func(_, unit int) {
		if ctx.Err() == nil {
			r0 := unit * headRows
			r1 := min(r0+headRows, len(all))
			e.diverge(all[r0:r1], wanted[r0:r1], stream, other)
		}
	})
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for i, d := range all {
		if math.IsNaN(d) || math.IsInf(d, 0) {
			return nil, w.headError(layout.rows[wanted[i].row])
		}
	}
	return all, nil
}

// diverge computes the divergences at no more than headRows positions, one part of the vocabulary
// after another: of each part the sum of p (a - b), a and b the logits, p as if the part
// were all there is, and the log-sum-exps, by which the parts are joined; and b of labels.
func (e *Engine) diverge(all []float64, at []wanted, stream, other []float32) {
	n, h := len(all), e.model.Hidden
	var x [2]rows
	for i, from := range [][]float32{stream, other} {
		x[i] = e.sized(rows{}, n, h)
		for r, w := range at {
			e.norm(x[i].values[r*h:(r+1)*h], from[w.row*h:][:h], e.finalNorm)
		}
		x[i].round(0, n)
	}
	vocabulary := len(e.head) // in parts
	partsA, partsB, gaps := make([]part, n*vocabulary), make([]part, n*vocabulary), make([]float64, n*vocabulary)
	a, b := make([]float32, n*vocabPart), make([]float32, n*vocabPart)
	for i, m := range e.head {
		for j, logits := range [][]float32{a, b} {
			m.mul(logits[:n*m.out], m.out, x[j], n, 0, m.Panels())
			e.finish(logits[:n*m.out])
		}
		for r := range n {
			la, lb := a[r*m.out:(r+1)*m.out], b[r*m.out:(r+1)*m.out]
			p := r*vocabulary + i
			partsA[p].logSumExp, partsB[p].logSumExp = kernel.LogSumExp(la), kernel.LogSumExp(lb)
			at[r].keep(i, lb)
			for k := range lb {
				lb[k] = la[k] - lb[k]
			}
			kernel.Softmax(la)
			gaps[p] = float64(kernel.Dot(la, lb))
		}
	}
	for r := range all {
		p0, p1 := r*vocabulary, (r+1)*vocabulary
		allA, allB, gap := logSumExp(partsA[p0:p1]), logSumExp(partsB[p0:p1]), 0.0
		for p := p0; p < p1; p++ {
			gap += math.Exp(partsA[p].logSumExp-allA) * gaps[p]
		}
		all[r] = at[r].asks[0].labelled(gap+(allB-allA), allB)
	}
}

// labelled is the loss at a position, given the divergence and the log-sum-exp of the logits, of which ask has its token's.
func (a *ask) labelled(divergence, logSumExp float64) float64 {
	if a.label == 0 {
		return divergence
	}
	l := float64(a.label)
	return (1-l)*divergence + l*(logSumExp-float64(a.logit))
}
