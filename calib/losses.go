package calib

import (
	"context"
	"fmt"
	"math"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/surgery"
	"github.com/coppice-lm/coppice/tensor"
)

// lossMeter measures how far what pruned models say next is from what the dense model says
// (Kullback-Leibler divergence, in nats) on a text. The models run layer by layer and are
// made as they run; nothing is written.
type lossMeter struct {
	model      *lm.Layerwise
	checkpoint *checkpoint.Checkpoint
	stats      *score.Stats
	batches    []batch // of rows that nothing was fitted to
	threads    int
	kept       int    // bytes of streams that attribute keeps; 0: keptStreams
	progress   func() // called when a layer has run over a batch, there or back; may be nil

	dense [][]float32 // the dense model's streams after the last layer, by batch, once they are known
}

// perToken are losses, of the tokens that are looked at in the order of the text.
type perToken []float64

func (p perToken) mean() float64 {
	sum := 0.0
	for _, x := range p {
		sum += x
	}
	return sum / float64(len(p))
}

// rise is the mean of what p is above q, token by token, and its standard error.
func (p perToken) rise(q perToken) (mean, stderr float64) {
	n := float64(len(p))
	for i := range p {
		mean += (p[i] - q[i]) / n
	}
	squares := 0.0
	for i := range p {
		squares += (p[i] - q[i] - mean) * (p[i] - q[i] - mean)
	}
	return mean, math.Sqrt(squares / max(1, n-1) / n)
}

// pruned is a model as a plan makes it.
type pruned struct {
	engine.Layerwise
	layers  []int // of the model, by layer of the plan; -1 where it is dropped
	weights engine.Source
}

func (m *lossMeter) pruned(ctx context.Context, p *plan.Plan) (*pruned, error) {
	program, err := surgery.Compile(p, m.checkpoint, tensor.F32)
	if err != nil {
		return nil, err
	}
	if program.NeedsStats() {
		if err := program.Attach(m.stats, m.threads); err != nil {
			return nil, err
		}
		program.HoldBack() // the text that losses are measured on
	}
	weights, err := program.Source(m.checkpoint)
	if err != nil {
		return nil, err
	}
	transformer, err := program.Spec.Transformer(program.Config)
	if err != nil {
		return nil, err
	}
	e, err := m.model.Other(ctx, transformer, weights)
	if err != nil {
		return nil, err
	}
	made := &pruned{Layerwise: e, weights: weights}
	n := 0
	for _, l := range p.Layers {
		if l.Drop {
			made.layers = append(made.layers, -1)
			continue
		}
		made.layers = append(made.layers, n)
		n++
	}
	return made, nil
}

// compared is how many tokens lie from one whose divergence is looked at to the next: those of
// neighbours are much alike, and cost more than they add.
const compared = 4

// of measures what the model of a plan loses, at one of `compared` tokens.
func (m *lossMeter) of(ctx context.Context, p *plan.Plan) (perToken, error) {
	model, err := m.pruned(ctx, p)
	if err != nil {
		return nil, err
	}
	streams, err := through(ctx, model, m.batches, m.passed)
	if err != nil {
		return nil, err
	}
	return m.score(ctx, model, streams)
}

// score is what a model loses whose streams after the last layer are given.
func (m *lossMeter) score(ctx context.Context, model engine.Layerwise, streams [][]float32) (perToken, error) {
	if err := m.answer(ctx); err != nil {
		return nil, err
	}
	loss, err := divergences(ctx, model, m.batches, m.dense, streams, compared, 0)
	if err != nil {
		return nil, fmt.Errorf("a pruned model cannot be judged: %w", err)
	}
	return loss, nil
}

// answer runs the dense model, once.
func (m *lossMeter) answer(ctx context.Context) (err error) {
	if m.dense == nil {
		m.dense, err = through(ctx, m.model.Engine(), m.batches, m.passed)
	}
	return err
}

// passed reports that a layer ran over a batch.
func (m *lossMeter) passed(layer, batch int, stream []float32) error {
	if m.progress != nil {
		m.progress()
	}
	return nil
}

// runLayer runs a layer over the text.
func (m *lossMeter) runLayer(ctx context.Context, layer engine.Layer, streams [][]float32) error {
	for i, b := range m.batches {
		if err := layer.Run(ctx, batchOf(b.rows), streams[i], nil); err != nil {
			return err
		}
		if err := m.passed(0, i, nil); err != nil {
			return err
		}
	}
	return nil
}

// through runs batches through a model and returns the streams after the last layer. before is
// called with the stream of each batch before each layer; nil for none.
func through(ctx context.Context, m engine.Layerwise, batches []batch, before func(layer, batch int, stream []float32) error) ([][]float32, error) {
	streams, err := embed(ctx, m, batches)
	if err != nil {
		return nil, err
	}
	for l := range m.Model().Layers {
		layer, err := m.Layer(ctx, l)
		if err != nil {
			return nil, err
		}
		for i, b := range batches {
			if before != nil {
				if err := before(l, i, streams[i]); err != nil {
					return nil, err
				}
			}
			if err := layer.Run(ctx, batchOf(b.rows), streams[i], nil); err != nil {
				return nil, err
			}
		}
	}
	return streams, nil
}

// embed makes the streams of each batch before a model's first layer.
func embed(ctx context.Context, m engine.Layerwise, batches []batch) ([][]float32, error) {
	streams := make([][]float32, len(batches))
	for i, b := range batches {
		streams[i] = make([]float32, b.tokens*m.Model().Hidden)
		if err := m.Embed(ctx, batchOf(b.rows), streams[i]); err != nil {
			return nil, err
		}
	}
	return streams, nil
}

// divergences are those of what comes next after a model's streams from what comes next after
// the dense model's, at one in so many tokens; with labels as forestOf says.
func divergences(ctx context.Context, m engine.Layerwise, batches []batch, dense, streams [][]float32, every int, labels float32) (perToken, error) {
	var all perToken
	for i := range batches {
		d, err := m.Divergence(ctx, forestOf(&batches[i], every, labels), dense[i], streams[i])
		if err != nil {
			return nil, err
		}
		all = append(all, d...)
	}
	return all, nil
}

// forestOf is the engine's form of a batch, with one in so many of its tokens, but first
// tokens, as a target. labels is the share of the text's own next tokens in what the model is compared with there.
func forestOf(b *batch, every int, labels float32) engine.Batch {
	forest := batchOf(b.rows)
	for n, r := range b.rows {
		for at := every - 1; at < len(r.tokens); at += every {
			if !r.first[at] {
				target := engine.Target{Index: at}
				if labels > 0 && r.labels[at] {
					target.Token, target.Label = r.tokens[at+1], labels
				}
				forest.Nodes[n].Targets = append(forest.Nodes[n].Targets, target)
			}
		}
	}
	return forest
}
