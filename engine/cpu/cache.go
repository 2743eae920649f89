package cpu

import (
	"context"
	"math"
	"sync/atomic"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
)

// cache holds the keys and values of one sequence, layer by layer.
type cache struct {
	e        *Engine
	tokens   []int32
	computed int                 // tokens whose keys and values are in the layers
	regime   int                 // in which they were rotated
	layers   [][]kernel.KVBlocks // layer by layer, head by head; nothing of layers without attention
}

// NewCache implements engine.Engine.
func (e *Engine) NewCache() engine.Cache {
	c := &cache{e: e, layers: make([][]kernel.KVBlocks, len(e.layers))}
	for i := range c.layers {
		c.layers[i] = make([]kernel.KVBlocks, e.model.Layers[i].KVHeads)
		for h := range c.layers[i] {
			c.layers[i][h] = kernel.KVBlocks{HeadDim: e.model.HeadDim, BF16: e.attentionBF16()}
		}
	}
	return c
}

// Tokens implements engine.Cache.
func (c *cache) Tokens() []int32 { return c.tokens }

// Truncate implements engine.Cache.
func (c *cache) Truncate(n int) {
	c.tokens = c.tokens[:n]
	c.forget(n)
}

// forget drops keys and values of all but the first n positions, as far as computed, and
// whatever an error left beyond.
func (c *cache) forget(n int) {
	c.computed = min(c.computed, n)
	for _, heads := range c.layers {
		for h := range heads {
			heads[h].Truncate(c.computed)
		}
	}
}

// Append implements engine.Cache. Where the sequence grows into another regime of the
// rotary embedding, all of it is computed again, as it would be from the start.
func (c *cache) Append(ctx context.Context, tokens []int32, logits []float32) error {
	e := c.e
	if err := (engine.Batch{Nodes: []engine.Node{{Parent: -1, Tokens: tokens}}}).Validate(e.model.Vocab); err != nil {
		return err
	}
	before := len(c.tokens)
	total := before + len(tokens)
	if total > e.maxLength {
		return &engine.LengthError{Length: total, Max: e.maxLength}
	}
	defer e.begin()()
	if regime := e.model.Regime(total); regime != c.regime {
		c.regime = regime
		c.forget(0)
	}
	c.tokens = append(c.tokens, tokens...)
	err := c.advance(ctx, logits)
	if err != nil {
		c.Truncate(before)
	}
	return err
}

// advance computes the tokens that are not computed yet, and the logits after the last.
func (c *cache) advance(ctx context.Context, logits []float32) error {
	e, h := c.e, c.e.model.Hidden
	p := &pass{
		e: e, ctx: ctx, layout: extend(c.tokens[c.computed:], c.computed, c.regime),
		cached: func(layer int) []kernel.KVBlocks { return c.layers[layer] },
	}
	p.wanted = []int{p.layout.n - 1}
	if err := p.run(); err != nil {
		return err
	}
	c.computed = len(c.tokens)
	last := &e.ws.last
	*last = e.sized(*last, 1, h)
	e.norm(last.values, e.ws.x[:h], e.finalNorm)
	last.round(0, 1)
	logits = logits[:e.model.Vocab]
	var bad atomic.Bool
	e.pool.run(len(e.head), func(_, i int) {
		m := e.head[i]
		part := logits[i*vocabPart:][:m.out]
		m.mul(part, m.out, *last, 1, 0, m.Panels())
		e.finish(part)
		for _, v := range part {
			if !(v <= math.MaxFloat32) { // or NaN
				bad.Store(true)
				break
			}
		}
	})
	if !bad.Load() {
		return nil
	}
	layer, err := e.firstNonFinite(ctx, c.tokens)
	if err != nil {
		return err
	}
	return &engine.NonFiniteError{Index: len(c.tokens) - 1, Layer: layer, Layers: len(e.layers)}
}
