package calib

import (
	"fmt"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/linalg"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
)

// innerDamping is what is added to both factors of the curvature of a step on gate and up,
// as a multiple of their mean diagonals.
const innerDamping = 1e-2

// halvings is how often a step that does not help is halved before there is none.
const halvings = 3

// pairs are the inputs of a layer's MLP and their targets, kept while the layer is fitted.
type pairs struct {
	inputs, targets, repairs *store    // repairs is nil where nothing is to be
	roots                    []float32 // of the weights that tokens have by their streams
	weights                  []float32 // of tokens in a step
}

// openPairs makes room for the pairs of a layer where gate and up are fitted.
func (f *refitter) openPairs() (err error) {
	names := [3]string{}
	if f.files.spill {
		names = f.files.pairs
	}
	tokens, h := f.text.tokens(), f.head.Hidden
	f.pairs = &pairs{roots: make([]float32, tokens), weights: make([]float32, tokens)}
	if f.pairs.inputs, err = openStore(names[0], tokens, h, false); err == nil {
		f.pairs.targets, err = openStore(names[1], tokens, h, false)
	}
	if err == nil && f.fit.Target == plan.StreamTarget {
		f.pairs.repairs, err = openStore(names[2], tokens, h, false)
	}
	return err
}

func (p *pairs) close() {
	for _, s := range []*store{p.inputs, p.targets, p.repairs} {
		if s != nil {
			s.close()
		}
	}
}

// keepPairs keeps rows r0 to r1 of a batch, as an observer sees them, from token first on.
func (f *refitter) keepPairs(first int64, m engine.MLP, r0, r1 int) error {
	h := m.Hidden
	copy(f.pairs.roots[first:], f.roots[r0:r1])
	if err := f.pairs.inputs.put(first, m.Input); err != nil {
		return err
	}
	if f.repair != nil {
		if err := f.pairs.repairs.put(first, f.repair[r0*h:r1*h]); err != nil {
			return err
		}
	}
	return f.pairs.targets.put(first, f.target[r0*h:r1*h])
}

// eachPair calls do for each batch with its inputs, targets and weights.
func (f *refitter) eachPair(do func(b *batch, x, t, weights []float32) error) error {
	return f.each(func(b *batch) error {
		x, err := f.pairs.inputs.get(b.first, b.tokens)
		if err != nil {
			return err
		}
		t, err := f.pairs.targets.get(b.first, b.tokens)
		if err != nil {
			return err
		}
		return do(b, x, t, f.pairs.weights[b.first:][:b.tokens])
	})
}

// setWeights gives tokens the weights that they have in the sums.
func (p *pairs) setWeights(rows []row, first float64) {
	at := 0
	for _, r := range rows {
		for i := range r.tokens {
			p.weights[at] = p.roots[at] * p.roots[at]
			if r.first[i] {
				p.weights[at] *= float32(first)
			}
			at++
		}
	}
}

// losses are sums of squared errors times weights, of the tokens that are fitted and of
// those that are held back.
type losses struct{ fit, held float64 }

func (l *losses) add(b *batch, squares []float64, weights []float32) {
	to := &l.fit
	if b.rows[0].held {
		to = &l.held
	}
	for i, e := range squares {
		*to += float64(weights[i]) * e
	}
}

// below reports whether a loss is less than another where it counts: on held-back tokens,
// if there are any.
func (l losses) below(other losses) bool {
	if other.held > 0 {
		return l.held < other.held
	}
	return l.fit < other.fit
}

// round makes one Gauss-Newton step on gate and up: along the damped step of surgery.Inner,
// as far as the linearised outputs' errors fall, and less where the true errors do not. It
// reports whether there was such a step.
func (f *refitter) round(mlp *engine.MLPWeights) (stepped bool, err error) {
	h, k := f.head.Hidden, mlp.Width
	m, along := &f.glu[0], &f.glu[1]
	m.load(mlp)
	sums := newInner(h, k)
	var before losses
	if err := f.eachPair(func(b *batch, x, t, weights []float32) error {
		before.add(b, m.forward(x, t, b.tokens), weights)
		if b.rows[0].held {
			return nil
		}
		m.backward(x, weights)
		if !f.adder.addInner(sums, m, weights) {
			return fmt.Errorf("the sums for a step on gate and up are not finite")
		}
		return nil
	}); err != nil {
		return false, err
	}
	p, err := sums.means().Step(wide(mlp.Down, h, k), innerDamping, f.opt.Threads)
	if err != nil {
		return false, err
	}
	step := &engine.MLPWeights{Width: k, Gate: make([]float32, k*h), Up: make([]float32, k*h), Down: mlp.Down}
	for i := range step.Gate {
		step.Gate[i], step.Up[i] = float32(p.Data[i]), float32(p.Data[k*h+i])
	}
	along.load(step)
	slope, curvature := 0.0, 0.0
	if err := f.eachPair(func(b *batch, x, t, weights []float32) error {
		if b.rows[0].held {
			return nil
		}
		m.forward(x, t, b.tokens)
		s, c := m.along(along, x, weights)
		slope, curvature = slope+s, curvature+c
		return nil
	}); err != nil {
		return false, err
	}
	if !(slope < 0 && curvature > 0) {
		return false, nil
	}
	length := float32(-slope / curvature)
	tried := &engine.MLPWeights{Width: k, Gate: make([]float32, k*h), Up: make([]float32, k*h), Down: mlp.Down}
	for range halvings + 1 {
		for i := range tried.Gate {
			tried.Gate[i] = mlp.Gate[i] + length*step.Gate[i]
			tried.Up[i] = mlp.Up[i] + length*step.Up[i]
		}
		m.load(tried)
		var after losses
		if err := f.eachPair(func(b *batch, x, t, weights []float32) error {
			after.add(b, m.forward(x, t, b.tokens), weights)
			return nil
		}); err != nil {
			return false, err
		}
		if after.below(before) {
			mlp.Gate, mlp.Up = tried.Gate, tried.Up
			return true, nil
		}
		length /= 2
	}
	return false, nil
}

// fitInner makes rounds of a step on gate and up and a refit of down to its own part of the
// target, as long as steps help, all without held-back text but for the choice of damping
// and of how far to step. sums are those of the neurons as they are, and become those of the
// neurons as they are fitted; without is down fitted from the weights from. It returns the
// two of the last fit.
func (f *refitter) fitInner(sums *targets, mlp *engine.MLPWeights, from, without *linalg.Matrix, fit *LayerFit) (_, _ *linalg.Matrix, err error) {
	first, _ := sums.stats.Weights(score.Fit, f.fit.Cap)
	f.pairs.setWeights(f.text.rows, first)
	for fit.Rounds < f.fit.Rounds {
		mlp.Down = narrow(without)
		stepped, err := f.round(mlp)
		if err != nil || !stepped {
			return from, without, err
		}
		fit.Rounds++
		if err := f.sumPairs(sums); err != nil {
			return nil, nil, err
		}
		from = f.down(mlp)
		if without, err = f.own(sums, sums.heldBack(), from, fit); err != nil {
			return nil, nil, err
		}
	}
	return from, without, nil
}

// sumPairs adds up the pairs anew, with the MLP that f.glu[0] holds.
func (f *refitter) sumPairs(sums *targets) error {
	sums.clear()
	m := &f.glu[0]
	return f.eachPair(func(b *batch, x, t, _ []float32) error {
		m.forward(x, t, b.tokens)
		f.target = append(f.target[:0], t...) // add may weigh them
		f.roots = append(f.roots[:0], f.pairs.roots[b.first:][:b.tokens]...)
		f.repair = nil
		if f.pairs.repairs != nil {
			repair, err := f.pairs.repairs.get(b.first, b.tokens)
			if err != nil {
				return err
			}
			f.other = append(f.other[:0], repair...)
			f.repair = f.other
		}
		seen := engine.MLP{Rows: rowsOf(b.rows), Hidden: m.h, Width: m.k, Activations: m.a}
		return f.add(sums, seen, 0, b.tokens, b.rows)
	})
}

// rowsOf numbers the tokens of rows as an engine does.
func rowsOf(rows []row) []engine.Row {
	var all []engine.Row
	for node, r := range rows {
		for i := range r.tokens {
			all = append(all, engine.Row{Node: node, Index: i, Position: i})
		}
	}
	return all
}
