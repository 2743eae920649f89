package lm

import (
	"context"
	"fmt"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu"
	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/tokenizer"
)

// Layerwise is a model that runs one layer at a time, for work over much text: only
// one layer's weights are in memory.
type Layerwise struct {
	engine    engine.Layerwise
	options   cpu.Options
	tokenizer *tokenizer.Tokenizer
	info      eval.ModelInfo
}

// NewLayerwise makes a model of a checkpoint, which must stay open while the model is
// used. Of the weights, only their names and shapes are looked at.
func NewLayerwise(ctx context.Context, c *checkpoint.Checkpoint, opt Options) (*Layerwise, error) {
	p, err := prepare(c)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Path, err)
	}
	options := cpu.Options{Precision: opt.Precision, Threads: opt.Threads, MaxLength: opt.MaxLength}
	e, err := cpu.NewLayerwise(ctx, p.model, c, options)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Path, err)
	}
	_, parameters := c.Spec.Parameters()
	info := eval.ModelInfo{
		Name: c.Path, Parameters: parameters, Bytes: c.Bytes(), DType: opt.Precision.String(),
		MaxLength: opt.MaxLength, Tokenizer: p.tokenizer.Fingerprint(),
	}
	if info.MaxLength == 0 {
		info.MaxLength = p.model.MaxPositions
	}
	return &Layerwise{engine: e, options: options, tokenizer: p.tokenizer, info: info}, nil
}

// Info describes the model, but for its special tokens.
func (m *Layerwise) Info() eval.ModelInfo { return m.info }

// Tokenizer is the model's tokenizer.
func (m *Layerwise) Tokenizer() *tokenizer.Tokenizer { return m.tokenizer }

// Precision is what weights and activations are multiplied in.
func (m *Layerwise) Precision() engine.Precision { return m.options.Precision }

// Engine is what runs the model.
func (m *Layerwise) Engine() engine.Layerwise { return m.engine }

// Other is another model that runs as this one does, such as this one pruned. src must
// stay open while it is used.
func (m *Layerwise) Other(ctx context.Context, model *arch.Transformer, src engine.Source) (engine.Layerwise, error) {
	return cpu.NewLayerwise(ctx, model, src, m.options)
}
