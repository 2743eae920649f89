package cpu

import (
	"context"
	"math"
	"math/rand/v2"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
)

var _ engine.Backward = (*Layerwise)(nil)

// DivergenceGradient implements engine.Backward.
func (w *Layerwise) DivergenceGradient(ctx context.Context, batch engine.Batch, stream, other, gradient []float32) ([]float64, error) {
	if err := w.fits(batch, stream); err != nil {
		return nil, err
	}
	var all []float64
	gaps := make([][]float32, w.e.pool.threads)
	err := w.headGradient(ctx, batch, stream, other, gradient, func(n int) { all = make([]float64, n) },
		func(worker, i int, at *wanted, p, q []float32) {
			gap := grow(gaps[worker], len(p))
			gaps[worker] = gap
			for k := range gap {
				gap[k] = p[k] - q[k]
			}
			label, sum := &at.asks[0], kernel.LogSumExp(q)
			label.logit = q[label.token]
			more := sum - kernel.LogSumExp(p)
			kernel.Softmax(p)
			kernel.Softmax(q)
			all[i] = label.labelled(float64(kernel.Dot(p, gap))+more, sum)
			kernel.AXPY(label.label-1, p, q)
			q[label.token] -= label.label
		})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// SampledGradient implements engine.Backward.
func (w *Layerwise) SampledGradient(ctx context.Context, batch engine.Batch, stream []float32, seed uint64, gradient []float32) error {
	return w.headGradient(ctx, batch, nil, stream, gradient, func(int) {}, func(_, i int, _ *wanted, _, q []float32) {
		kernel.Softmax(q)
		q[draw(q, rand.New(rand.NewPCG(seed, uint64(i))).Float64())]--
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

// headGradient stores the gradient by other of what differentiate computes: it is told how many positions
// there are, and then given each, with the logits of the whole vocabulary after stream, nil where that is, and
// after other, which it replaces by the gradient by them.
func (w *Layerwise) headGradient(ctx context.Context, batch engine.Batch, stream, other, gradient []float32,
	begin func(n int), differentiate func(worker, i int, at *wanted, p, q []float32)) error {
	for _, s := range [][]float32{other, gradient} {
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
	vocab, h := e.model.Vocab, e.model.Hidden
	var from, to headLogits
	capped := make([][]float32, e.pool.threads) // what cap gave, where there is one
	for first := 0; first < len(list); first += headRows {
		if err := ctx.Err(); err != nil {
			return err
		}
		at := list[first:min(first+headRows, len(list))]
		if stream != nil {
			from.compute(e, at, stream)
		}
		to.compute(e, at, other)
		e.pool.run(len(at), func(worker, i int) {
			var p []float32
			if stream != nil {
				p = from.values[i*vocab:][:vocab]
			}
			q := to.values[i*vocab:][:vocab]
			if e.model.LogitCap != 0 {
				capped[worker] = append(capped[worker][:0], q...)
			}
			differentiate(worker, first+i, &at[i], p, q)
			for k, v := range capped[worker] {
				c := v / e.model.LogitCap
				q[k] *= 1 - c*c
			}
			if e.model.LogitScale != 1 {
				kernel.Scale(q, e.model.LogitScale)
			}
			to.round(i, i+1)
		})
		to.back(e, w.headBack, at, other, gradient)
		for i := range at {
			if x := gradient[at[i].row*h:][:h]; math.IsNaN(float64(kernel.Dot(x, x))) {
				return w.headError(layout.rows[at[i].row])
			}
		}
	}
	return nil
}

// headLogits are headRows rows on their way through the head and back, all threads at work on them, so that
// each reads a share of the head, and that once for all of them.
type headLogits struct {
	rows     // [headRows, Vocab]: the logits, scaled and capped
	in       rows
	sum, add []float32 // [headRows, Hidden]
}

// compute makes the logits after rows of a residual stream.
func (l *headLogits) compute(e *Engine, at []wanted, stream []float32) {
	n, h, vocab := len(at), e.model.Hidden, e.model.Vocab
	l.in, l.rows = e.sized(l.in, n, h), e.sized(l.rows, n, vocab)
	for i := range at {
		e.norm(l.in.values[i*h:(i+1)*h], stream[at[i].row*h:][:h], e.finalNorm)
	}
	l.in.round(0, n)
	e.pool.run(len(e.head), func(_, part int) {
		m := e.head[part]
		m.mul(l.values[part*vocabPart:], vocab, l.in, n, 0, m.Panels())
		for i := range n {
			e.finish(l.values[i*vocab+part*vocabPart:][:m.out])
		}
	})
}

// back takes the gradient by the logits before scale and cap, which l holds, to that by the stream.
func (l *headLogits) back(e *Engine, head []*matrix, at []wanted, stream, gradient []float32) {
	n, h := len(at), e.model.Hidden
	l.sum, l.add = grow(l.sum, n*h), grow(l.add, n*h)
	panels := head[0].Panels()
	units := min(panels, productUnits*e.pool.threads)
	e.pool.run(units, func(_, unit int) {
		p0, p1 := unit*panels/units, (unit+1)*panels/units
		g := head[0].columns(p0, p1)
		for i := range n {
			clear(l.sum[i*h+g.c0 : i*h+g.c1])
		}
		for part, m := range head {
			m.mul(l.add, h, l.columns(part*vocabPart), n, p0, p1)
			for i := range n {
				kernel.Add(l.sum[i*h+g.c0:i*h+g.c1], l.add[i*h+g.c0:i*h+g.c1])
			}
		}
	})
	for i := range at {
		to := at[i].row * h
		e.normBack(gradient[to:to+h], stream[to:to+h], e.finalNorm, l.sum[i*h:(i+1)*h])
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
