package calib

import (
	"math"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
	"github.com/coppice-lm/coppice/plan"
)

// sum adds up what the neurons that stay do on the pruned model's stream, with the targets
// that follow from the dense model's.
func (f *refitter) sum(sums *targets, dense, pruned, kept engine.Layer, index int, b *batch) error {
	h, forest := f.head.Hidden, batchOf(b.rows)
	f.target = grow(f.target, b.tokens*h)
	x, err := f.stream(f.dense, index, b)
	if err != nil {
		return err
	}
	f.scratch = append(f.scratch[:0], x...) // both models go over the layer when it is fitted
	if err := dense.Run(f.ctx, forest, f.scratch, outputs(f.target)); err != nil {
		return err
	}
	f.weigh(f.scratch, b.tokens)
	f.repair = nil
	if f.fit.Target == plan.StreamTarget {
		f.other = append(f.other[:0], f.scratch...)
		f.repair = f.other // so far, the dense stream
	}
	if x, err = f.stream(f.pruned, index, b); err != nil {
		return err
	}
	if f.repair != nil {
		f.scratch = append(f.scratch[:0], x...)
		if err := pruned.Run(f.ctx, forest, f.scratch, outputs(f.target)); err != nil {
			return err
		}
	}
	f.scratch = append(f.scratch[:0], x...)
	at := 0
	return kept.Run(f.ctx, forest, f.scratch, func(m engine.MLP) error {
		r0, r1 := at, at+len(m.Rows)
		at = r1
		f.aim(m, r0, r1)
		if f.pairs != nil {
			if err := f.keepPairs(b.first+int64(r0), m, r0, r1); err != nil {
				return err
			}
		}
		return f.add(sums, m, r0, r1, b.rows)
	})
}

// outputs is an observer that keeps what an MLP puts out.
func outputs(to []float32) engine.MLPObserver {
	at := 0
	return func(m engine.MLP) error {
		at += copy(to[at:], m.Output)
		return nil
	}
}

// weigh finds the roots of the weights of tokens with these streams.
func (f *refitter) weigh(stream []float32, tokens int) {
	h := f.head.Hidden
	f.roots = grow(f.roots, tokens)
	for i := range f.roots {
		f.roots[i] = 1
		energy := 0.0
		for _, v := range stream[i*h:][:h] {
			energy += float64(v) * float64(v)
		}
		if f.fit.Weigh && energy > 0 {
			f.roots[i] = float32(math.Sqrt(float64(h) / energy))
		}
	}
}

// aim makes the part to repair of rows r0 to r1 of a batch: the dense stream after the
// layer, less what there is before the MLP, less the MLP's own part.
func (f *refitter) aim(m engine.MLP, r0, r1 int) {
	if f.repair == nil {
		return
	}
	h, scale := f.head.Hidden, f.model.Engine().Model().ResidualScale
	repair, own := f.repair[r0*h:r1*h], f.target[r0*h:r1*h]
	for i, v := range m.Residual {
		repair[i] = (repair[i]-v)/scale - own[i]
	}
}

// add adds rows r0 to r1 of a batch, as an observer sees them, to the sums of their
// classes.
func (f *refitter) add(sums *targets, m engine.MLP, r0, r1 int, rows []row) error {
	h, x := m.Hidden, m.Activations
	own, repair := f.target[r0*h:r1*h], f.repair
	if repair != nil {
		repair = repair[r0*h : r1*h]
	}
	if f.fit.Weigh {
		f.weighed = append(f.weighed[:0], x...)
		x = f.weighed
		for i, w := range f.roots[r0:r1] {
			kernel.Scale(x[i*m.Width:][:m.Width], w)
			kernel.Scale(own[i*h:][:h], w)
			if repair != nil {
				kernel.Scale(repair[i*h:][:h], w)
			}
		}
	}
	first, others := byClass(m.Rows, rows)
	to := sums.body()
	if rows[0].held {
		to = sums.held()
	}
	finite := f.adder.addTargetExact(sums.first(), x, own, repair, first)
	if finite = f.adder.addTarget(to, x, own, repair, others) && finite; finite {
		return nil
	}
	return f.notFinite(m, rows)
}
