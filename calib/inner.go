package calib

import (
	"fmt"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/score"
)

// innerDamping is what is added to both factors of the curvature of a step on gate and up,
// as a multiple of their mean diagonals.
const innerDamping = 1e-2

// halvings is how often a step that does not help is halved before there is none.
const halvings = 3

// pairs are the inputs of a layer's MLP and their targets, kept while the layer is fitted.
type pairs struct {
	inputs, targets *store
	roots           []float32 // of the weights that tokens have by their streams
	weights         []float32 // of tokens in a step
}

// openPairs makes room for the pairs of a layer where gate and up are fitted.
func (f *refitter) openPairs() (err error) {
	names := [2]string{}
	if f.files.spill {
		names = f.files.pairs
	}
	tokens, h := f.text.tokens(), f.head.Hidden
	f.pairs = &pairs{roots: make([]float32, tokens), weights: make([]float32, tokens)}
	if f.pairs.inputs, err = openStore(names[0], tokens, h, false); err == nil {
		f.pairs.targets, err = openStore(names[1], tokens, h, false)
	}
	return err
}

func (p *pairs) close() {
	for _, s := range []*store{p.inputs, p.targets} {
		if s != nil {
			s.close()
		}
	}
}

// keepPairs keeps what an observer sees from token first on.
func (f *refitter) keepPairs(first int64, m engine.MLP, target, roots []float32) error {
	copy(f.pairs.roots[first:], roots)
	if err := f.pairs.inputs.put(first, m.Input); err != nil {
		return err
	}
	return f.pairs.targets.put(first, target)
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

// fitInner makes rounds of a step on gate and up and a refit of down, as long as steps
// help. sums are those of the neurons as they are, and are overwritten; fit is how the
// last refit went.
func (f *refitter) fitInner(sums *targets, mlp *engine.MLPWeights, fit LayerFit) (LayerFit, error) {
	first, _ := sums.stats.Weights(score.Fit, f.fit.Cap)
	f.pairs.setWeights(f.text.rows, first)
	before := fit.Before
	for range f.fit.Rounds {
		stepped, err := f.round(mlp)
		if err != nil || !stepped {
			return fit, err
		}
		sums.clear()
		m := &f.glu[0] // with the weights of the step
		if err := f.eachPair(func(b *batch, x, t, _ []float32) error {
			m.forward(x, t, b.tokens)
			f.target = append(f.target[:0], t...)
			seen := engine.MLP{Rows: rowsOf(b.rows), Hidden: f.head.Hidden, Width: m.k, Activations: m.a}
			return f.add(sums, seen, f.target, f.pairs.roots[b.first:][:b.tokens], b.rows)
		}); err != nil {
			return fit, err
		}
		if fit, err = f.solve(sums, mlp); err != nil {
			return fit, err
		}
		fit.Before = before
	}
	return fit, nil
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
