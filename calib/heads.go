package calib

import (
	"fmt"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/surgery"
)

// checkHeads is an error if the output projections of a model's attention cannot be
// refitted.
func checkHeads(m *arch.Transformer) error {
	for _, l := range m.Layers {
		if l.Heads != m.Heads || l.Width == 0 {
			return &surgery.RefitError{Reason: "output projections are not refitted where layers lack attention, heads or an MLP; leave attention as it is"}
		}
		if l.AttentionOut != "" || l.Out.Bias != "" {
			return &surgery.RefitError{Reason: "output projections with a bias, or with a norm after them, are not refitted; leave attention as it is"}
		}
	}
	return nil
}

// outs says of which layers the output projection is refitted: those that something was
// lost before.
func outs(layers []plan.Layer, refits func(plan.Layer) bool) []bool {
	all := make([]bool, len(layers))
	lost := false
	for i, l := range layers {
		all[i] = lost && !l.Drop
		lost = lost || l.Drop || refits(l)
	}
	return all
}

// refitHeads fits the output projection of a layer's attention, o_proj, on the pruned
// model's stream: it repairs, as far as held-back text says that it can, what the stream
// lacks of the dense one when it has passed the attention. It returns the weights and the
// dense layer with them.
func (f *refitter) refitHeads(layer engine.Layer, index int, fit *LayerFit) ([]float32, engine.Layer, error) {
	h, heads, threads := f.head.Hidden, f.head.Heads, f.opt.Threads
	sums := newTargets(h, heads, true)
	if err := f.each(func(b *batch) error { return f.sumHeads(sums, layer, index, b) }); err != nil {
		return nil, nil, err
	}
	r := &weightReader{src: f.from}
	rows := make([]int, h)
	for i := range rows {
		rows[i] = i
	}
	out := r.rows(f.model.Engine().Model().Layers[index].Out, heads, rows)
	if r.err != nil {
		return nil, nil, r.err
	}
	w := wide(out, h, heads)
	if fit.Heads = f.fit.Damping; fit.Heads == 0 {
		var err error
		if fit.Heads, _, err = sums.fit(score.Fit, f.fit.Cap, threads).ChooseRepair(w, sums.heldBack(), threads); err != nil {
			return nil, nil, err
		}
	}
	if fit.Heads > 0 {
		fitted, err := sums.fit(score.AllTokens, f.fit.Cap, threads).SolveRepair(w, fit.Heads, threads)
		if err != nil {
			return nil, nil, err
		}
		out = narrow(fitted)
	}
	changed, err := layer.WithAttentionOut(f.ctx, out)
	if err != nil {
		return nil, nil, fmt.Errorf("the output projection: %w", err)
	}
	return out, changed, nil
}

// sumHeads adds up what the heads of the pruned model do, with what their projection puts
// out and what is to be repaired.
func (f *refitter) sumHeads(sums *targets, layer engine.Layer, index int, b *batch) error {
	h, forest := f.head.Hidden, batchOf(b.rows)
	x, err := f.stream(f.dense, index, b)
	if err != nil {
		return err
	}
	f.scratch = append(f.scratch[:0], x...)
	f.other = grow(f.other, b.tokens*h)
	f.repair = f.other
	at := 0
	if err := layer.Run(f.ctx, forest, f.scratch, func(m engine.MLP) error {
		at += copy(f.repair[at:], m.Residual) // so far, the dense stream
		return nil
	}); err != nil {
		return err
	}
	f.weigh(f.scratch, b.tokens)
	if x, err = f.stream(f.pruned, index, b); err != nil {
		return err
	}
	f.scratch = append(f.scratch[:0], x...)
	f.target = append(f.target[:0], x...) // so far, the stream before the layer
	scale := f.model.Engine().Model().ResidualScale
	at = 0
	return layer.Run(f.ctx, forest, f.scratch, func(m engine.MLP) error {
		r0, r1 := at, at+len(m.Rows)
		at = r1
		own, repair := f.target[r0*h:r1*h], f.repair[r0*h:r1*h]
		for i, v := range m.Residual {
			own[i] = (v - own[i]) / scale
			repair[i] = (repair[i] - v) / scale
		}
		m.Activations, m.Width = m.Heads, f.head.Heads
		return f.add(sums, m, r0, r1, b.rows)
	})
}
