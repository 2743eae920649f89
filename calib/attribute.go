package calib

import (
	"context"
	"fmt"
	"slices"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/linalg"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/tensor"
)

// keptStreams is about how many bytes of streams attribute keeps unless it is told, of all layers of some of the
// batches: with more text the layers are loaded more often.
const keptStreams = 1 << 30

// attribute shares out among the layers what is lost more by the model of a plan when it becomes that
// of another, which has narrower layers and else is the same: as much as the gradient of the divergence by
// what a layer's down_proj puts out says of what that changes by, taken in the model midway between the two.
// Were the divergence a quadratic function of the outputs, the parts would add up to the whole rise. It
// fills in the means and, from how batches differ, standard errors of rises, which are of the layers that
// become narrower.
func (m *lossMeter) attribute(ctx context.Context, p, narrower *plan.Plan, rises []rise) error {
	wide, err := m.pruned(ctx, p)
	if err != nil {
		return err
	}
	narrow, err := m.pruned(ctx, narrower)
	if err != nil {
		return err
	}
	mid := &midway{Source: wide.weights, to: narrow.weights, kept: map[string][]int{}}
	index := map[int]int{} // in rises, by layer of the model
	for i, r := range rises {
		at := wide.layers[r.layer]
		index[at] = i
		down := wide.Model().Layers[at].Down
		if mid.kept[down.Weight], err = positions(p.Layers[r.layer].Keep, narrower.Layers[r.layer].Keep); err != nil {
			return fmt.Errorf("layer %d: %w", r.layer, err)
		}
		if down.Bias != "" {
			mid.kept[down.Bias] = []int{0}
		}
	}
	e, err := m.model.Other(ctx, wide.Model(), mid)
	if err != nil {
		return err
	}
	student, ok := e.(engine.Backward)
	if !ok {
		return fmt.Errorf("this engine takes no gradients, which --allocation measured needs")
	}
	if err := m.answer(ctx); err != nil {
		return err
	}
	sums := make([]perToken, len(rises)) // by batch
	for l := range sums {
		sums[l] = make(perToken, len(m.batches))
	}
	tokens := 0
	size, most := len(wide.Model().Layers)*wide.Model().Hidden*4, m.kept
	if most == 0 {
		most = keptStreams
	}
	for first := 0; first < len(m.batches); {
		end, bytes := first, 0
		for end < len(m.batches) && (end == first || bytes+size*m.batches[end].tokens <= most) {
			bytes += size * m.batches[end].tokens
			end++
		}
		n, err := m.backThrough(ctx, student, mid, first, end, func(layer, batch int, part float64) { sums[index[layer]][batch] += part })
		if err != nil {
			return err
		}
		tokens, first = tokens+n, end
	}
	for i, s := range sums {
		for b := range s {
			s[b] *= float64(len(s)) / float64(tokens)
		}
		rises[i].mean, rises[i].stderr = s.rise(make(perToken, len(s)))
	}
	return nil
}

// backThrough takes some of the batches through the model midway and back. add is called with the part of
// the rise that each batch says a layer has; the parts are sums over as many predictions as it returns.
func (m *lossMeter) backThrough(ctx context.Context, student engine.Backward, mid *midway, first, end int, add func(layer, batch int, part float64)) (tokens int, err error) {
	batches := m.batches[first:end]
	before := make([][][]float32, len(student.Model().Layers))
	last, err := through(ctx, student, batches, func(layer, i int, stream []float32) error {
		before[layer] = append(before[layer], slices.Clone(stream))
		return m.passed(layer, i, stream)
	})
	if err != nil {
		return 0, err
	}
	gradients := make([][]float32, len(batches))
	for i := range batches {
		gradients[i] = make([]float32, len(last[i]))
		d, err := student.DivergenceGradient(ctx, forestOf(&batches[i], 1, 0), m.dense[first+i], last[i], gradients[i])
		if err != nil {
			return 0, fmt.Errorf("a pruned model cannot be judged: %w", err)
		}
		tokens += len(d)
	}
	products := adder{threads: m.threads}
	for l := len(before) - 1; l >= 0; l-- {
		layer, err := backLayer(ctx, student, l)
		if err != nil {
			return 0, err
		}
		change, err := mid.change(student, l)
		if err != nil {
			return 0, err
		}
		for i, b := range batches {
			var observe engine.MLPGradientObserver
			if change != nil {
				observe = func(g engine.MLPGradient) error {
					add(l, first+i, change.along(&products, g))
					return nil
				}
			}
			if err := layer.Back(ctx, batchOf(b.rows), before[l][i], gradients[i], observe); err != nil {
				return 0, err
			}
			if err := m.passed(l, i, nil); err != nil {
				return 0, err
			}
		}
		before[l] = nil
	}
	return tokens, nil
}

// positions returns where in a list each element of another is; both ascend.
func positions(all, some []int) ([]int, error) {
	at := make([]int, len(some))
	for i, x := range some {
		j, ok := slices.BinarySearch(all, x)
		if !ok {
			return nil, fmt.Errorf("neuron %d is among the %d that a narrower layer keeps, and not among the %d of a wider one", x, len(some), len(all))
		}
		at[i] = j
	}
	return at, nil
}

// midway is a source of which some matrices are the means of those of two sources, one of which has
// fewer columns: the others are zero there.
type midway struct {
	engine.Source
	to   engine.Source
	kept map[string][]int // by name, where each column of to is
}

// ReadRows implements engine.Source.
func (s *midway) ReadRows(name string, dst []byte, first, n int) error {
	at, ok := s.kept[name]
	if !ok {
		return s.Source.ReadRows(name, dst, first, n)
	}
	from, to, err := s.both(name, at, first, n)
	if err != nil {
		return err
	}
	for i, v := range to {
		from[i] = (from[i] + v) / 2
	}
	info, _ := s.Lookup(name)
	return tensor.Encode(dst, from, info.DType)
}

// both reads rows of both sources, as wide as the first's.
func (s *midway) both(name string, at []int, first, n int) (from, to []float32, err error) {
	read := func(src engine.Source) (v []float32, cols int, err error) {
		info, _ := src.Lookup(name)
		r := &weightReader{src: src}
		cols = int(info.RowElements())
		v = r.rows(arch.Projection{Weight: name, FirstRow: first}, cols, rowRange(0, n))
		return v, cols, r.err
	}
	from, wide, err := read(s.Source)
	if err != nil {
		return nil, nil, err
	}
	few, cols, err := read(s.to)
	if err != nil {
		return nil, nil, err
	}
	to = make([]float32, len(from))
	for i := range n {
		for k, j := range at {
			to[i*wide+j] = few[i*cols+k]
		}
	}
	return from, to, nil
}

// change is what a layer's down_proj changes by from one source to the other; nil if it does not.
func (s *midway) change(m engine.Layerwise, layer int) (*outputChange, error) {
	down := m.Model().Layers[layer].Down
	at, ok := s.kept[down.Weight]
	if !ok {
		return nil, nil
	}
	minus := func(name string, first int, at []int) ([]float32, error) {
		from, to, err := s.both(name, at, first, m.Model().Hidden)
		for i, v := range from {
			to[i] -= v
		}
		return to, err
	}
	weights, err := minus(down.Weight, down.FirstRow, at)
	if err != nil {
		return nil, err
	}
	c := &outputChange{weights: weights}
	if down.Bias != "" {
		c.bias, err = minus(down.Bias, 0, s.kept[down.Bias])
	}
	return c, err
}

// outputChange is a change of a down_proj, [hidden, width], and of its bias, if it has one.
type outputChange struct{ weights, bias []float32 }

// along is what a loss changes by, to the first order, when the outputs of all rows change so.
func (c *outputChange) along(a *adder, g engine.MLPGradient) (sum float64) {
	gradient := linalg.New(g.Hidden, g.Width)
	a.addDown(gradient, g)
	for i, v := range c.weights {
		sum += gradient.Data[i] * float64(v)
	}
	for i, v := range g.Output {
		if c.bias != nil {
			sum += float64(v) * float64(c.bias[i%g.Hidden])
		}
	}
	return sum
}
