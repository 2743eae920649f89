package cpu

import (
	"context"
	"math"

	"github.com/coppice-lm/coppice/engine"
)

// cache holds the keys and values of one sequence, layer by layer.
type cache struct {
	e        *Engine
	tokens   []int32
	computed int // tokens whose keys and values are in the layers
	regime   int // in which they were rotated
	capacity int // positions that the layers have room for
	layers   []store
}

// NewCache implements engine.Engine.
func (e *Engine) NewCache() engine.Cache {
	return &cache{e: e, layers: make([]store, len(e.layers))}
}

// Tokens implements engine.Cache.
func (c *cache) Tokens() []int32 { return c.tokens }

// Truncate implements engine.Cache.
func (c *cache) Truncate(n int) {
	c.tokens = c.tokens[:n]
	c.computed = min(c.computed, n)
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
		c.regime, c.computed = regime, 0
	}
	c.grow(total)
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
		stores: func(layer int) store { return c.layers[layer] },
	}
	p.wanted = []int{p.layout.n - 1}
	if err := p.run(); err != nil {
		return err
	}
	c.computed = len(c.tokens)
	last := &e.ws.last
	e.growRows(last, 1, h)
	e.norm(last.values, e.ws.x[:h], e.finalNorm)
	last.round(0, 1)
	logits = logits[:e.model.Vocab]
	e.pool.run(len(e.head), func(_, i int) {
		m := e.head[i]
		part := logits[i*vocabPart:][:m.out]
		m.mul(part, m.out, *last, 1, 0, m.Panels())
		e.finish(part)
	})
	for _, v := range logits {
		if v == v && v <= math.MaxFloat32 {
			continue
		}
		layer, err := e.firstNonFinite(ctx, c.tokens)
		if err != nil {
			return err
		}
		return &engine.NonFiniteError{Index: len(c.tokens) - 1, Layer: layer, Layers: len(e.layers)}
	}
	return nil
}

// grow makes room for n positions, keeping those that are computed.
func (c *cache) grow(n int) {
	if n <= c.capacity {
		return
	}
	stride := c.e.model.KVHeads * c.e.model.HeadDim
	c.capacity = min(max(n, 2*c.capacity, 64), max(n, c.e.maxLength))
	for i := range c.layers {
		old := c.layers[i]
		c.layers[i] = store{k: make([]float32, c.capacity*stride), v: make([]float32, c.capacity*stride), stride: stride}
		copy(c.layers[i].k, old.k)
		copy(c.layers[i].v, old.v)
	}
}
