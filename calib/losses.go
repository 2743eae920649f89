package calib

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/surgery"
	"github.com/coppice-lm/coppice/tensor"
)

// lossMeter measures what pruned models lose on text. The models run layer by layer and are
// made as they run; nothing is written.
type lossMeter struct {
	model      *lm.Layerwise
	checkpoint *checkpoint.Checkpoint
	stats      *score.Stats
	batches    []batch // of rows that nothing was fitted to
	threads    int
	progress   func(layers int) // called with the number of layers run over the text
}

// perToken are the negative log-likelihoods of the tokens of the text, in its order.
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

// of measures a plan's loss, and those of the plan with one layer as in changed, for each
// of the layers listed, ascending. What layers before the changed one compute is shared,
// so a list of all L layers costs L/2 runs of the model and streams of L+1 texts.
func (m *lossMeter) of(ctx context.Context, p, changed *plan.Plan, layers []int) (base perToken, others []perToken, err error) {
	model, texts, err := m.run(ctx, p, changed, layers)
	if err != nil {
		return nil, nil, err
	}
	for _, streams := range texts {
		loss, err := m.score(ctx, model, streams)
		if err != nil {
			return nil, nil, err
		}
		others = append(others, loss)
	}
	return others[0], others[1:], nil
}

// compared is how many tokens lie from one whose divergences are looked at to the next: they
// differ far less from token to token than losses do, and cost more.
const compared = 4

// divergences are those of what comes next in a plan's model with one layer as in changed
// from what comes next in the plan's, for each of the layers listed, ascending, at one of
// `compared` tokens.
func (m *lossMeter) divergences(ctx context.Context, p, changed *plan.Plan, layers []int) ([]perToken, error) {
	model, texts, err := m.run(ctx, p, changed, layers)
	if err != nil {
		return nil, err
	}
	all := make([]perToken, len(layers))
	for i, b := range m.batches {
		forest := batchOf(b.rows)
		for n, r := range b.rows {
			for at := compared - 1; at < len(r.tokens); at += compared {
				forest.Nodes[n].Targets = append(forest.Nodes[n].Targets, engine.Target{Index: at})
			}
		}
		for l := range all {
			d, err := model.Divergence(ctx, forest, texts[0][i], texts[l+1][i])
			if err != nil {
				return nil, fmt.Errorf("a pruned model cannot be judged: %w", err)
			}
			all[l] = append(all[l], d...)
		}
	}
	return all, nil
}

// run runs the text through the model of a plan, and through those with one layer as in
// changed. It returns the streams after the last layer of each batch: of the plan, then of
// each change.
func (m *lossMeter) run(ctx context.Context, p, changed *plan.Plan, layers []int) (*pruned, [][][]float32, error) {
	model, err := m.pruned(ctx, p)
	if err != nil {
		return nil, nil, err
	}
	var other *pruned
	if len(layers) > 0 {
		if other, err = m.pruned(ctx, changed); err != nil {
			return nil, nil, err
		}
	}
	first, err := embed(ctx, model, m.batches)
	if err != nil {
		return nil, nil, err
	}
	texts := [][][]float32{first} // the streams of each batch: of the plan, then of each change so far
	for l, index := range model.layers {
		if index < 0 {
			continue
		}
		var with [][]float32
		if len(texts) <= len(layers) && layers[len(texts)-1] == l {
			layer, err := other.Layer(ctx, other.layers[l])
			if err != nil {
				return nil, nil, err
			}
			for _, stream := range first {
				with = append(with, slices.Clone(stream))
			}
			if err := m.runLayer(ctx, layer, with); err != nil {
				return nil, nil, err
			}
		}
		layer, err := model.Layer(ctx, index)
		if err != nil {
			return nil, nil, err
		}
		for _, streams := range texts {
			if err := m.runLayer(ctx, layer, streams); err != nil {
				return nil, nil, err
			}
		}
		if with != nil {
			texts = append(texts, with)
		}
	}
	return model, texts, nil
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

// runLayer runs a layer over the text.
func (m *lossMeter) runLayer(ctx context.Context, layer engine.Layer, streams [][]float32) error {
	for i, b := range m.batches {
		if err := layer.Run(ctx, batchOf(b.rows), streams[i], nil); err != nil {
			return err
		}
	}
	if m.progress != nil {
		m.progress(1)
	}
	return nil
}

// score is the loss of each token that is no first token.
func (m *lossMeter) score(ctx context.Context, model *pruned, streams [][]float32) (perToken, error) {
	var all perToken
	for i, b := range m.batches {
		forest := batchOf(b.rows)
		for n, r := range b.rows {
			for at, t := range r.tokens[1:] {
				if !r.first[at+1] {
					forest.Nodes[n].Targets = append(forest.Nodes[n].Targets, engine.Target{Index: at, Token: t})
				}
			}
		}
		scores, err := model.Score(ctx, forest, streams[i])
		if err != nil {
			return nil, fmt.Errorf("a pruned model cannot be judged: %w", err)
		}
		for _, node := range scores {
			for _, s := range node {
				all = append(all, -float64(s.LogProb))
			}
		}
	}
	return all, nil
}
