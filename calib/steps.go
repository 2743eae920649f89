package calib

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/surgery"
	"github.com/coppice-lm/coppice/tensor"
)

const (
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
	pruned  *pruned // as the plan makes it
	student engine.Backward
	given   *stepWeights // what the student reads
	planned []int        // layer of the plan, by layer of the student; -1 where the MLP stays as it is
	before  *store       // the student's streams before each layer, of the text of a step
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
	g := &gaussNewton{stepper: s, pruned: made, adder: &adder{threads: s.opt.Threads}}
	g.given = &stepWeights{Source: made.weights, shapes: map[string]tensor.Shape{}}
	t := *made.Model()
	t.Layers = slices.Clone(t.Layers)
	g.planned = slices.Repeat([]int{-1}, len(t.Layers))
	for planned, i := range made.layers {
		if width := s.head.Widths[planned]; i >= 0 && width > 0 {
			g.planned[i] = planned
			g.given.take(&t.Layers[i], planned, width, t.Hidden)
		}
	}
	e, err := s.model.Other(s.ctx, &t, g.given)
	if err != nil {
		return nil, err
	}
	var ok bool
	if g.student, ok = e.(engine.Backward); !ok {
		return nil, fmt.Errorf("this engine takes no gradients, which --target predictions needs")
	}
	return g, nil
}

// begin writes the MLPs that the plan makes. Zero neurons up to an alignment, which come last, stay
// zero, and are left out.
func (g *gaussNewton) begin() (err error) {
	g.given.weights, err = g.write(g.file(0, "weights"), g.after(0), func(l int) (*surgery.LayerWeights, error) {
		if g.planned[l] < 0 {
			return nil, nil
		}
		m, err := keptMLP(g.pruned.weights, &g.pruned.Model().Layers[l], g.head.Hidden, rowRange(0, g.head.Widths[g.planned[l]]))
		return &surgery.LayerWeights{Gate: m.Gate, Up: m.Up, Down: m.Down}, err
	})
	return err
}

// divergence is the mean divergence of the student's predictions over the held-back text
// from those after the dense model's streams: infinite where they are not numbers.
func (g *gaussNewton) divergence() (float64, error) {
	streams, err := through(g.ctx, g.student, g.held, nil)
	if err != nil {
		return 0, err
	}
	d, err := divergences(g.ctx, g.student, g.held, g.targets, streams, compared)
	if errors.As(err, new(*engine.NonFiniteError)) {
		return math.Inf(1), nil // too long a step
	}
	return d.mean(), err
}

// measure finds the loss from which the steps go down.
func (g *gaussNewton) measure() (err error) {
	if g.targets, err = through(g.ctx, g.model.Engine(), g.held, nil); err != nil {
		return err
	}
	if g.loss, err = g.divergence(); err == nil && math.IsInf(g.loss, 0) {
		err = fmt.Errorf("the pruned model's predictions are not numbers: steps cannot mend that")
	}
	return err
}

// place is where g.before has the streams of a batch of a share.
func (g *gaussNewton) place(layer int, b *batch) int64 { return int64(layer)*g.most + b.first }

// step takes the text of a step through the model and back, layer by layer, each of which then
// knows its course, and goes as far as helps on the held-back part.
func (g *gaussNewton) step(index int) (*StepFit, error) {
	share, tokens := g.share(index)
	gradients, sampled, predictions, err := g.gradients(share, tokens, index)
	if err != nil {
		return nil, err
	}
	course, err := g.write(g.file(index+1, "course"), g.after(index+1), func(l int) (*surgery.LayerWeights, error) {
		defer g.progress(tokens / 2 / int64(len(g.planned))) // half of it is the way back
		if g.planned[l] < 0 {
			return nil, g.back(nil, l, share, gradients, sampled)
		}
		sums := newMLPSums(g.head.Hidden, g.head.Widths[g.planned[l]])
		if err := g.back(sums, l, share, gradients, sampled); err != nil {
			return nil, err
		}
		step, err := sums.step(float64(predictions), g.opt.Damping, g.opt.Threads)
		if err == nil && g.given.course != nil {
			var last surgery.LayerWeights
			if last, err = g.given.course.Layer(g.planned[l]); err == nil {
				alongAll(step, step, &last, momentum)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", g.planned[l], err)
		}
		return step, nil
	})
	if err != nil {
		return nil, err
	}
	g.given.course.Close()
	g.given.course = course
	fit := &StepFit{Step: index, Before: g.loss}
	fit.Length, err = g.search()
	fit.After = g.loss
	return fit, err
}

// gradients takes batches through both models. It returns the gradients of the divergence by
// the student's last streams, over how many predictions that is, and those of sampled losses, of some
// of the batches.
func (g *gaussNewton) gradients(batches []batch, tokens int64, step int) (gradients, sampled [][]float32, n int, err error) {
	targets, err := through(g.ctx, g.model.Engine(), batches, nil)
	if err != nil {
		return nil, nil, 0, err
	}
	g.progress(tokens / 4)
	last, err := through(g.ctx, g.student, batches, func(layer, i int, stream []float32) error {
		return g.before.put(g.place(layer, &batches[i]), stream)
	})
	if err != nil {
		return nil, nil, 0, err
	}
	g.progress(tokens / 4)
	gradients, sampled = make([][]float32, len(batches)), make([][]float32, len(batches))
	var done []float32 // room: targets that are needed no more
	for i := range batches {
		forest := forestOf(&batches[i], 1)
		gradients[i] = grow(done, len(last[i]))
		d, err := g.student.DivergenceGradient(g.ctx, forest, targets[i], last[i], gradients[i])
		if err != nil {
			return nil, nil, 0, err
		}
		n += len(d)
		if i%curvedBatches == 0 {
			sampled[i] = make([]float32, len(last[i]))
			seed := g.opt.Seed<<32 + uint64(step)<<16 + uint64(i)
			if err := g.student.SampledGradient(g.ctx, forest, last[i], seed, sampled[i]); err != nil {
				return nil, nil, 0, err
			}
		}
		done, targets[i], last[i] = targets[i], nil, nil
	}
	return gradients, sampled, n, nil
}

// backLayer loads a layer that takes gradients.
func backLayer(ctx context.Context, m engine.Backward, l int) (engine.BackwardLayer, error) {
	loaded, err := m.Layer(ctx, l)
	if err != nil {
		return nil, err
	}
	layer, ok := loaded.(engine.BackwardLayer)
	if !ok {
		return nil, fmt.Errorf("layer %d: this engine takes no gradients", l)
	}
	return layer, nil
}

// back takes gradients over a layer of the student, and adds what its MLP sees of them to
// sums, which are nil where it stays as it is.
func (g *gaussNewton) back(to *mlpSums, l int, batches []batch, gradients, sampled [][]float32) error {
	layer, err := backLayer(g.ctx, g.student, l)
	if err != nil {
		return err
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
	for i, b := range batches {
		stream, err := g.before.get(g.place(l, &b), b.tokens)
		if err != nil {
			return err
		}
		forest := batchOf(b.rows)
		if err := layer.Back(g.ctx, forest, stream, gradients[i], observer(g.adder.addGradient)); err != nil {
			return err
		}
		if sampled[i] == nil {
			continue
		}
		if err := layer.Back(g.ctx, forest, stream, sampled[i], observer(g.adder.addCurvature)); err != nil {
			return err
		}
	}
	if !finite {
		return fmt.Errorf("layer %d: the sums of gradients are not finite", l)
	}
	return nil
}

// search moves the student along the course: by the first length, and by twice as much as long
// as that loses less, or by half where the first does not. It returns the length taken.
func (g *gaussNewton) search() (best float64, err error) {
	least := g.loss
	try := func(length float64) (better bool, err error) {
		g.given.move(length)
		loss, err := g.divergence()
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
	g.given.move(best)
	g.loss = least
	g.progress(g.judged)
	return best, err
}
