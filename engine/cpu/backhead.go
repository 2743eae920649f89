package cpu

import (
	"context"
	"math"
	"math/rand/v2"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
)

var _ engine.Backward = (*Layerwise)(nil)

// backRows is how many rows' logits, of the whole vocabulary, a thread holds at a time.
const backRows = 16

// DivergenceGradient implements engine.Backward.
func (w *Layerwise) DivergenceGradient(ctx context.Context, batch engine.Batch, stream, other, gradient []float32) ([]float64, error) {
	if err := w.fits(batch, stream); err != nil {
		return nil, err
	}
	vocab := w.e.model.Vocab
	var all []float64
	reference, gaps := make([]headRowsOf, w.e.pool.threads), make([][]float32, w.e.pool.threads)
	err := w.headGradient(ctx, batch, other, gradient, func(n int) { all = make([]float64, n) },
		func(worker, first int, at []wanted, logits []float32) {
			from := &reference[worker]
			from.compute(w.e, at, stream)
			gaps[worker] = grow(gaps[worker], vocab)
			gap := gaps[worker]
			for i := range at {
				p, q := from.logits[i*vocab:][:vocab], logits[i*vocab:][:vocab]
				for k := range gap {
					gap[k] = p[k] - q[k]
				}
				label, sum := &at[i].asks[0], kernel.LogSumExp(q)
				label.logit = q[label.token]
				more := sum - kernel.LogSumExp(p)
				kernel.Softmax(p)
				kernel.Softmax(q)
				all[first+i] = label.labelled(float64(kernel.Dot(p, gap))+more, sum)
				kernel.AXPY(label.label-1, p, q)
				q[label.token] -= label.label
			}
		})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// SampledGradient implements engine.Backward.
func (w *Layerwise) SampledGradient(ctx context.Context, batch engine.Batch, stream []float32, seed uint64, gradient []float32) error {
	vocab := w.e.model.Vocab
	return w.headGradient(ctx, batch, stream, gradient, func(int) {}, func(_, first int, at []wanted, logits []float32) {
		for i := range at {
			p := logits[i*vocab:][:vocab]
			kernel.Softmax(p)
			p[draw(p, rand.New(rand.NewPCG(seed, uint64(first+i))).Float64())]--
		}
	})
}

// draw returns the index at which the sum of p passes u.
func draw(p []float32, u float64) int {
	for i, v := range p {
		if u -= float64(v); u < 0 {
			return i
		}
	}
	return len(p) - 1 // the sum is rounded
}

// headGradient stores the gradient by stream of what differentiate computes: it is told how many positions
// there are, and then given a few of them, from number first on, with their
// logits [len(at), Vocab], which it replaces by the gradient by them.
func (w *Layerwise) headGradient(ctx context.Context, batch engine.Batch, stream, gradient []float32,
	begin func(n int), differentiate func(worker, first int, at []wanted, logits []float32)) error {
	for _, s := range [][]float32{stream, gradient} {
		if err := w.fits(batch, s); err != nil {
			return err
		}
	}
	e := w.e
	defer e.begin()()
	if err := w.loadHeadBack(ctx); err != nil {
		return err
	}
	layout := lay(batch, e.model.Regime)
	_, list := wantedOf(batch, &layout)
	begin(len(list))
	clear(gradient)
	rows := make([]headRowsOf, e.pool.threads)
	bad := make([]bool, len(list))
	e.pool.run((len(list)+backRows-1)/backRows, func(worker, unit int) {
		if ctx.Err() != nil {
			return
		}
		first := unit * backRows
		at := list[first:min(first+backRows, len(list))]
		r := &rows[worker]
		r.compute(e, at, stream)
		var capped []float32 // what cap gave, where there is one
		if e.model.LogitCap != 0 {
			capped = append(capped, r.logits...)
		}
		differentiate(worker, first, at, r.logits)
		for i, v := range capped {
			c := v / e.model.LogitCap
			r.logits[i] *= 1 - c*c
		}
		if e.model.LogitScale != 1 {
			kernel.Scale(r.logits, e.model.LogitScale)
		}
		r.back(e, w.headBack, at, stream, gradient)
		for i := range at {
			x := gradient[at[i].row*e.model.Hidden:][:e.model.Hidden]
			bad[first+i] = math.IsNaN(float64(kernel.Dot(x, x)))
		}
	})
	if err := ctx.Err(); err != nil {
		return err
	}
	for i := range bad {
		if bad[i] {
			return w.headError(layout.rows[list[i].row])
		}
	}
	return nil
}

// headRowsOf is a few rows on their way through the head and back; a thread keeps one.
type headRowsOf struct {
	in, part rows
	logits   []float32 // [rows, Vocab], scaled and capped
	sum, add []float32 // [rows, Hidden]
}

// compute makes the logits after rows of a residual stream.
func (r *headRowsOf) compute(e *Engine, at []wanted, stream []float32) {
	n, h, vocab := len(at), e.model.Hidden, e.model.Vocab
	r.in, r.logits = e.sized(r.in, n, h), grow(r.logits, n*vocab)
	for i := range at {
		e.norm(r.in.values[i*h:(i+1)*h], stream[at[i].row*h:][:h], e.finalNorm)
	}
	r.in.round(0, n)
	for i, m := range e.head {
		m.mul(r.logits[i*vocabPart:], vocab, r.in, n, 0, m.Panels())
	}
	e.finish(r.logits)
}

// back takes the gradient by the logits before scale and cap, which logits holds, to that
// by the stream.
func (r *headRowsOf) back(e *Engine, head []*matrix, at []wanted, stream, gradient []float32) {
	n, h, vocab := len(at), e.model.Hidden, e.model.Vocab
	r.sum, r.add = grow(r.sum, n*h), grow(r.add, n*h)
	clear(r.sum)
	for i, m := range head {
		r.part = e.sized(r.part, n, m.in)
		for k := range n {
			copy(r.part.values[k*m.in:(k+1)*m.in], r.logits[k*vocab+i*vocabPart:])
		}
		r.part.round(0, n)
		m.mul(r.add, h, r.part, n, 0, m.Panels())
		kernel.Add(r.sum, r.add)
	}
	for i := range at {
		to := at[i].row * h
		e.normBack(gradient[to:to+h], stream[to:to+h], e.finalNorm, r.sum[i*h:(i+1)*h])
	}
}

// loadHeadBack makes the transposed head, part by part, beside the head.
func (w *Layerwise) loadHeadBack(ctx context.Context) error {
	if err := w.loadHead(ctx); err != nil || w.headBack != nil {
		return err
	}
	back := make([]*matrix, len(w.e.head))
	for i, m := range w.e.head {
		t, err := w.e.transposed(ctx, &kernel.Memory{}, m)
		if err != nil {
			return err
		}
		back[i] = t[0]
	}
	w.headBack = back
	return nil
}
