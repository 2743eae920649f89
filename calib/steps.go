package calib

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/tensor"
)

const (
	// streamsBytes is the most that residual streams, of all layers, take at a time.
	streamsBytes = 512 << 20
	// firstLength is the part of a step at DefaultStepDamping that is tried first. The blocks
	// of the curvature do not know of one another, and the steps of all layers' matrices add
	// up, so that a whole one is far too long.
	firstLength = 1.0 / 512
	// doublings is how often the first length may be doubled, or halved.
	doublings = 6
	// curvedBatches: one in so many batches of a step is what the curvature is of. Its sums take
	// as long as the gradient's, and the damping leaves little of their noise.
	curvedBatches = 3
	// momentum is how much of a step's direction is in the next one's: gradients of a share of
	// the text are mostly noise, and this is the mean over some shares.
	momentum = 0.7
)

// gaussNewton takes steps on the MLPs of a pruned model.
type gaussNewton struct {
	*stepper
	student engine.Backward
	mlps    []*engine.MLPWeights // by layer of the student, which runs them; nil where one stays as it is
	planned []int                // layer of the plan
	course  []*engine.MLPWeights // the direction of the last step, at its whole length; nil before the first
	adder   *adder
	loss    float64     // on the held-back text
	targets [][]float32 // there, by batch: the dense model's streams after the last layer
}

func newGaussNewton(s *stepper) (*gaussNewton, error) {
	meter := lossMeter{model: s.model, checkpoint: s.checkpoint, stats: s.stats, threads: s.opt.Threads}
	made, err := meter.pruned(s.ctx, s.plan)
	if err != nil {
		return nil, err
	}
	g := &gaussNewton{stepper: s, adder: &adder{threads: s.opt.Threads}}
	t := *made.Model()
	t.Layers = slices.Clone(t.Layers)
	given := givenWeights{made.weights, map[string]givenMatrix{}}
	g.mlps, g.planned = make([]*engine.MLPWeights, len(t.Layers)), make([]int, len(t.Layers))
	for planned, i := range made.layers {
		if i < 0 || s.head.Widths[planned] == 0 {
			continue
		}
		l := &t.Layers[i]
		// Zero neurons up to an alignment, which come last, stay zero, and are left out.
		mlp, err := keptMLP(made.weights, l, t.Hidden, rowRange(0, s.head.Widths[planned]))
		if err != nil {
			return nil, err
		}
		g.mlps[i], g.planned[i] = mlp, planned
		l.Width = mlp.Width
		l.Gate = given.take(fmt.Sprint(i, " gate"), mlp.Width, mlp.Gate)
		l.Up = given.take(fmt.Sprint(i, " up"), mlp.Width, mlp.Up)
		l.Down = given.take(fmt.Sprint(i, " down"), t.Hidden, mlp.Down)
	}
	e, err := s.model.Other(s.ctx, &t, given)
	if err != nil {
		return nil, err
	}
	var ok bool
	if g.student, ok = e.(engine.Backward); !ok {
		return nil, fmt.Errorf("this engine takes no gradients, which --target predictions needs")
	}
	return g, nil
}

// divergence is the mean divergence of the student's predictions over some batches from
// those after the dense model's streams: infinite where they are not numbers.
func (g *gaussNewton) divergence(batches []batch, targets [][]float32) (float64, error) {
	streams, err := g.through(g.student, batches, nil)
	if err != nil {
		return 0, err
	}
	sum, n := 0.0, 0
	for i := range batches {
		d, err := g.student.Divergence(g.ctx, forestOf(&batches[i], compared), targets[i], streams[i])
		if errors.As(err, new(*engine.NonFiniteError)) {
			return math.Inf(1), nil // too long a step
		}
		if err != nil {
			return 0, err
		}
		for _, v := range d {
			sum += v
		}
		n += len(d)
	}
	return sum / float64(n), nil
}

// measure finds the loss from which the steps go down.
func (g *gaussNewton) measure() (err error) {
	if g.targets, err = g.through(g.model.Engine(), g.held, nil); err != nil {
		return err
	}
	if g.loss, err = g.divergence(g.held, g.targets); err == nil && math.IsInf(g.loss, 0) {
		err = fmt.Errorf("the pruned model's predictions are not numbers: steps cannot mend that")
	}
	return err
}

// forestOf is the engine's form of a batch, with one in so many of its tokens, but first
// tokens, as a target.
func forestOf(b *batch, every int) engine.Batch {
	forest := batchOf(b.rows)
	for n, r := range b.rows {
		for at := every - 1; at < len(r.tokens); at += every {
			if !r.first[at] {
				forest.Nodes[n].Targets = append(forest.Nodes[n].Targets, engine.Target{Index: at})
			}
		}
	}
	return forest
}

// through runs batches through a model, shows the streams before each layer, and returns
// those after the last.
func (g *gaussNewton) through(m engine.Layerwise, batches []batch, before func(layer int, streams [][]float32)) ([][]float32, error) {
	streams := make([][]float32, len(batches))
	for i := range batches {
		streams[i] = make([]float32, batches[i].tokens*m.Model().Hidden)
		if err := m.Embed(g.ctx, batchOf(batches[i].rows), streams[i]); err != nil {
			return nil, err
		}
	}
	for l := range m.Model().Layers {
		if before != nil {
			before(l, streams)
		}
		layer, err := m.Layer(g.ctx, l)
		if err != nil {
			return nil, err
		}
		for i := range batches {
			if err := layer.Run(g.ctx, batchOf(batches[i].rows), streams[i], nil); err != nil {
				return nil, err
			}
		}
	}
	return streams, nil
}

// step adds up gradient and curvature over its share of the text, and goes as far as helps
// on the held-back part.
func (g *gaussNewton) step(index int) (*StepFit, error) {
	sums := make([]*mlpSums, len(g.mlps))
	for i, m := range g.mlps {
		if m != nil {
			sums[i] = newMLPSums(g.head.Hidden, m.Width)
		}
	}
	share, tokens := g.share(index), 0
	chunk := max(1, int(g.streams/g.batchBytes)) // how many batches go through all layers together
	for first := 0; first < len(share); first += chunk {
		part := share[first:min(first+chunk, len(share))]
		n, err := g.sum(sums, part, index, first)
		if err != nil {
			return nil, err
		}
		tokens += n
	}
	fit := &StepFit{Step: index, Before: g.loss}
	steps := make([]*engine.MLPWeights, len(g.mlps))
	for i, s := range sums {
		var err error
		if s != nil {
			if steps[i], err = s.step(float64(tokens), g.opt.Damping, g.opt.Threads); err != nil {
				return nil, fmt.Errorf("layer %d: %w", g.planned[i], err)
			}
			sums[i] = nil
		}
	}
	for i, last := range g.course {
		if last != nil {
			along(steps[i], steps[i], last, momentum)
		}
	}
	g.course = steps
	length, err := g.search(steps)
	fit.Length, fit.After = length, g.loss
	return fit, err
}

// share is the batches that a step looks at.
func (g *gaussNewton) share(index int) []batch {
	n := min(max(1, g.opt.StepTokens/batchTokens), len(g.fit))
	var share []batch
	for i := range n {
		share = append(share, g.fit[(index*n+i)%len(g.fit)])
	}
	return share
}

// sum adds the gradient over some batches of a step, from its number first on, and the
// curvature over some of these. It returns over how many predictions.
func (g *gaussNewton) sum(to []*mlpSums, batches []batch, step, first int) (n int, err error) {
	targets, err := g.through(g.model.Engine(), batches, nil)
	if err != nil {
		return 0, err
	}
	before := make([][][]float32, len(g.mlps)) // streams, by layer and batch
	last, err := g.through(g.student, batches, func(l int, streams [][]float32) {
		for _, s := range streams {
			before[l] = append(before[l], slices.Clone(s))
		}
	})
	if err != nil {
		return 0, err
	}
	gradients, sampled := make([][]float32, len(batches)), make([][]float32, len(batches))
	for i := range batches {
		forest := forestOf(&batches[i], 1)
		gradients[i] = make([]float32, len(last[i]))
		d, err := g.student.DivergenceGradient(g.ctx, forest, targets[i], last[i], gradients[i])
		if err != nil {
			return 0, err
		}
		n += len(d)
		if (first+i)%curvedBatches == 0 {
			sampled[i] = make([]float32, len(last[i]))
			seed := g.opt.Seed<<32 + uint64(step)<<16 + uint64(first+i)
			if err := g.student.SampledGradient(g.ctx, forest, last[i], seed, sampled[i]); err != nil {
				return 0, err
			}
		}
	}
	for l := len(g.mlps) - 1; l >= 0; l-- {
		if err := g.back(to[l], l, batches, before[l], gradients, sampled); err != nil {
			return 0, err
		}
		before[l] = nil
	}
	for _, b := range batches {
		g.progress(b.tokens)
	}
	return n, nil
}

// back takes gradients over a layer of the student, and adds what its MLP sees of them to
// sums, which are nil where it stays as it is.
func (g *gaussNewton) back(to *mlpSums, l int, batches []batch, streams, gradients, sampled [][]float32) error {
	loaded, err := g.student.Layer(g.ctx, l)
	if err != nil {
		return err
	}
	layer, ok := loaded.(engine.BackwardLayer)
	if !ok {
		return fmt.Errorf("layer %d: this engine takes no gradients", l)
	}
	finite := true
	observer := func(add func(*mlpSums, engine.MLPGradient) bool) engine.MLPGradientObserver {
		if to == nil {
			return nil
		}
		return func(m engine.MLPGradient) error {
			finite = add(to, m) && finite
			return nil
		}
	}
	for i := range batches {
		forest := batchOf(batches[i].rows)
		if err := layer.Back(g.ctx, forest, streams[i], gradients[i], observer(g.adder.addGradient)); err != nil {
			return err
		}
		if sampled[i] == nil {
			continue
		}
		if err := layer.Back(g.ctx, forest, streams[i], sampled[i], observer(g.adder.addCurvature)); err != nil {
			return err
		}
	}
	if !finite {
		return fmt.Errorf("layer %d: the sums of gradients are not finite", l)
	}
	return nil
}

// search moves the weights along a step: by the first length, and by twice as much as long
// as that loses less, or by half where the first does not. It returns the length taken.
func (g *gaussNewton) search(steps []*engine.MLPWeights) (best float64, err error) {
	from := make([]*engine.MLPWeights, len(g.mlps))
	for i, m := range g.mlps {
		if m != nil {
			from[i] = &engine.MLPWeights{Gate: slices.Clone(m.Gate), Up: slices.Clone(m.Up), Down: slices.Clone(m.Down)}
		}
	}
	move := func(length float64) {
		for i, m := range g.mlps {
			if m != nil {
				along(m, from[i], steps[i], length)
			}
		}
	}
	least := g.loss
	try := func(length float64) (better bool, err error) {
		move(length)
		loss, err := g.divergence(g.held, g.targets)
		if err == nil && loss < least {
			best, least, better = length, loss, true
		}
		return better, err
	}
	first := firstLength * g.opt.Damping / DefaultStepDamping
	length, factor := first, 2.0
	for n := 0; n <= doublings && err == nil; n++ {
		var better bool
		better, err = try(length)
		switch {
		case n == 0 && !better:
			factor = 0.5
		case better && factor < 1 || !better && factor > 1:
			n = doublings // halved till it helps, or doubled as long as it does
		}
		length *= factor
	}
	move(best)
	g.loss = least
	g.progress(int(g.head.Held))
	return best, err
}

// along stores from + length*step in to.
func along(to, from, step *engine.MLPWeights, length float64) {
	for _, p := range [][3][]float32{{to.Gate, from.Gate, step.Gate}, {to.Up, from.Up, step.Up}, {to.Down, from.Down, step.Down}} {
		for i, v := range p[1] {
			p[0][i] = v + float32(length)*p[2][i]
		}
	}
}

// givenWeights is a source of weights of which some are in memory, and may change while no
// layer is loaded.
type givenWeights struct {
	engine.Source
	given map[string]givenMatrix
}

type givenMatrix struct {
	shape  tensor.Shape
	values []float32
}

// take gives a projection other weights, under a name of their own, and returns it.
func (w givenWeights) take(name string, rows int, values []float32) arch.Projection {
	w.given[name] = givenMatrix{tensor.Shape{rows, len(values) / rows}, values}
	return arch.Projection{Weight: name, Rows: rows, OfRows: rows}
}

// Lookup implements engine.Source.
func (w givenWeights) Lookup(name string) (tensor.Info, bool) {
	if m, ok := w.given[name]; ok {
		return tensor.Info{Name: name, DType: tensor.F32, Shape: m.shape}, true
	}
	return w.Source.Lookup(name)
}

// ReadRows implements engine.Source.
func (w givenWeights) ReadRows(name string, dst []byte, first, n int) error {
	m, ok := w.given[name]
	if !ok {
		return w.Source.ReadRows(name, dst, first, n)
	}
	size := m.shape[1]
	return tensor.Encode(dst, m.values[first*size:(first+n)*size], tensor.F32)
}
