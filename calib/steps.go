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
	// stepMoves is how many moves a step makes, each by the gradient of its own part of the text. Further moves
	// by fresh gradients come further than a long one, which its curvature ends.
	stepMoves = 4
	// firstLength is the part of a move at DefaultStepDamping that is tried first. The blocks
	// of the curvature do not know of one another, and the moves of all layers' matrices add
	// up, so that a whole one is far too long.
	firstLength = 1.0 / 512
	// firstRetries is how often the first step may be taken again, half as long.
	firstRetries = 6
	// tolerated is by what a step may make the loss on the held-back part larger. The noise of shares of the text
	// does, while what it hides still gets better, until lengths fall.
	tolerated = 1.05
	// curvedBatches: one in so many batches of a move is what the curvature is of. Its sums take
	// as long as the gradient's, and the damping leaves little of their noise.
	curvedBatches = 4
)

// gaussNewton takes steps on the MLPs of a pruned model.
type gaussNewton struct {
	*stepper
	pruned  *pruned // as the plan makes it
	student engine.Backward
	given   *stepWeights // what the student reads
	length  float64      // of moves before they get shorter; 0: not searched yet
	planned []int        // layer of the plan, by layer of the student; -1 where the MLP stays as it is
	lowest  int          // layer of the student whose MLP does not
	before  *store       // the student's streams before each layer, of the text of a move
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
	g := &gaussNewton{stepper: s, pruned: made, adder: &adder{threads: s.opt.Threads, half: s.model.Precision() != engine.F32}}
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
	g.lowest = slices.IndexFunc(g.planned, func(layer int) bool { return layer >= 0 })
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
// from those after the dense model's streams, with labels as they are asked for: infinite where they are not numbers.
func (g *gaussNewton) divergence() (float64, error) {
	streams, err := through(g.ctx, g.student, g.held, nil)
	if err != nil {
		return 0, err
	}
	d, err := divergences(g.ctx, g.student, g.held, g.targets, streams, compared, float32(g.opt.Labels))
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

// step moves the student, and judges where that leads on the held-back part. Where that is worse than tolerated
// the student goes back to where it was, and further moves are half as long. The first step, which is to find out
// how long they may be, has to help: it is taken again, half as long, until it does. Its first move says too
// little of that, since what a long one loses those after it, by gradients of other text, make up for.
func (g *gaussNewton) step(index int) (*StepFit, error) {
	from, first := g.given.weights, index*stepMoves
	fit := &StepFit{Step: index, Before: g.loss, After: g.loss}
	limit, tries := tolerated*g.loss, 1
	if index == 0 {
		limit, tries = g.loss, 1+firstRetries
	}
	for range tries {
		g.done = int64(index) * g.perStep()
		loss, err := g.moves(first, from)
		if err == nil && loss < limit {
			g.loss, fit.After, fit.Length = loss, loss, g.left(first)
			from.Close()
			return fit, nil
		}
		g.reads(from, nil)
		if err != nil {
			return nil, err
		}
		g.length /= 2
	}
	return fit, nil
}

// moves makes the moves of a step, which begin at the weights from, and returns the loss that they lead to:
// infinite where they are too long.
func (g *gaussNewton) moves(first int, from *surgery.Weights) (loss float64, err error) {
	for n := range stepMoves {
		w, err := g.move(first + n)
		switch {
		case n > 0 && errors.As(err, new(*engine.NonFiniteError)):
			return math.Inf(1), nil
		case err != nil:
			return math.Inf(1), err
		}
		g.reads(w, from)
	}
	defer g.progress(g.judged)
	return g.divergence()
}

// reads has the student read weights, and closes those that it read unless they are still needed.
func (g *gaussNewton) reads(w, needed *surgery.Weights) {
	if g.given.weights != needed && g.given.weights != w {
		g.given.weights.Close()
	}
	g.given.weights = w
}

// left is the length of a move. Over the last third lengths fall to none, which takes their noise out.
func (g *gaussNewton) left(move int) float64 {
	all := float64(g.opt.Steps * stepMoves)
	return g.length * min(1, 3*(all-float64(move))/all)
}

// move takes the text of a move through the model and back, layer by layer, and returns where
// it leads.
func (g *gaussNewton) move(index int) (*surgery.Weights, error) {
	share, tokens := g.share(index)
	gradients, sampled, predictions, err := g.gradients(share, tokens, index)
	if err != nil {
		return nil, err
	}
	course := func(l int) (*surgery.LayerWeights, error) {
		defer g.progress(tokens / 2 / int64(len(g.planned))) // half of it is the way back
		switch {
		case l < g.lowest:
			return nil, nil
		case g.planned[l] < 0:
			return nil, g.back(nil, l, share, gradients, sampled)
		}
		sums := newMLPSums(g.head.Hidden, g.head.Widths[g.planned[l]])
		if err := g.back(sums, l, share, gradients, sampled); err != nil {
			return nil, err
		}
		step, err := sums.step(float64(predictions), g.opt.Damping, g.opt.Threads)
		if err != nil {
			err = fmt.Errorf("layer %d: %w", g.planned[l], err)
		}
		return step, err
	}
	if g.length == 0 {
		w, err := g.write(g.file(0, "course"), g.after(0), course)
		if err != nil {
			return nil, err
		}
		defer w.Close()
		course = func(l int) (*surgery.LayerWeights, error) { return g.read(w, l) }
		if err := g.search(course); err != nil {
			return nil, err
		}
	}
	return g.moved(fmt.Sprint("moved-", index%2), course, g.left(index))
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
		forest := forestOf(&batches[i], 1, float32(g.opt.Labels))
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

// search finds the length of moves, by the first one's course: firstLength, or twice as much as long as that loses
// less. That a first move loses is no sign that moves are too long, which step finds out.
func (g *gaussNewton) search(course func(l int) (*surgery.LayerWeights, error)) error {
	from, least := g.given.weights, g.loss
	defer func() { g.given.weights = from }()
	g.length = firstLength * g.opt.Damping / DefaultStepDamping
	for length := g.length; ; length *= 2 {
		g.given.weights = from
		w, err := g.moved("tried", course, length)
		if err != nil {
			return err
		}
		g.given.weights = w
		loss, err := g.divergence()
		w.Close()
		if err != nil || !(loss < least) {
			return err
		}
		g.length, least = length, loss
	}
}
