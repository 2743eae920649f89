package cpu

import (
	"context"
	"fmt"
	"math"
	"slices"
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

// Append implements engine.Cache.
func (c *cache) Append(ctx context.Context, tokens []int32, logits []float32) error {
	return c.e.Decode(ctx, []engine.Step{{Cache: c, Tokens: tokens, Logits: logits}})
}

// Decode implements engine.Engine. Where a sequence grows into another regime of the
// rotary embedding, all of it is computed again, as it would be from the start.
func (e *Engine) Decode(ctx context.Context, steps []engine.Step) error {
	caches, err := e.cachesOf(steps)
	if err != nil || len(steps) == 0 {
		return err
	}
	defer e.begin()()
	for i, c := range caches {
		if regime := e.model.Regime(len(c.tokens) + len(steps[i].Tokens)); regime != c.regime {
			c.regime = regime
			c.forget(0)
		}
		c.tokens = append(c.tokens, steps[i].Tokens...)
	}
	err = e.advance(ctx, caches, steps)
	if err != nil {
		for i, c := range caches {
			c.Truncate(len(c.tokens) - len(steps[i].Tokens))
		}
	}
	return err
}

// cachesOf returns the caches of steps that can be taken.
func (e *Engine) cachesOf(steps []engine.Step) ([]*cache, error) {
	caches := make([]*cache, len(steps))
	nodes := make([]engine.Node, len(steps))
	for i, s := range steps {
		c, ok := s.Cache.(*cache)
		switch {
		case !ok || c.e != e:
			return nil, fmt.Errorf("step %d: the cache is another engine's", i)
		case slices.Contains(caches[:i], c):
			return nil, fmt.Errorf("step %d: the cache is in an earlier step, too", i)
		case len(s.Logits) != e.model.Vocab:
			return nil, fmt.Errorf("step %d: room for %d logits, the vocabulary has %d", i, len(s.Logits), e.model.Vocab)
		}
		caches[i], nodes[i] = c, engine.Node{Parent: -1, Tokens: s.Tokens}
	}
	if err := (engine.Batch{Nodes: nodes}).Validate(e.model.Vocab); err != nil {
		return nil, err
	}
	for i, c := range caches {
		if n := len(c.tokens) + len(steps[i].Tokens); n > e.maxLength {
			return nil, &engine.LengthError{Node: i, Length: n, Max: e.maxLength}
		}
	}
	return caches, nil
}

// advance computes the tokens that are not computed yet, and the logits after the last
// of each cache.
func (e *Engine) advance(ctx context.Context, caches []*cache, steps []engine.Step) error {
	p := &pass{
		e: e, ctx: ctx, layout: extend(caches),
		cached: func(node, layer int) []kernel.KVBlocks { return caches[node].layers[layer] },
	}
	for _, s := range p.layout.nodes {
		p.wanted = append(p.wanted, s.first+s.n-1)
	}
	if err := p.run(); err != nil {
		return err
	}
	for _, c := range caches {
		c.computed = len(c.tokens)
	}
	bad := e.logits(steps)
	if bad < 0 {
		return nil
	}
	tokens := caches[bad].tokens
	layer, err := e.firstNonFinite(ctx, tokens)
	if err != nil {
		return err
	}
	return &engine.NonFiniteError{Node: bad, Index: len(tokens) - 1, Layer: layer, Layers: len(e.layers)}
}

// logits computes the logits after the rows of the residual stream, one a step. It
// returns the first step with one that is not finite, or -1.
func (e *Engine) logits(steps []engine.Step) (bad int) {
	n, h := len(steps), e.model.Hidden
	last := &e.ws.last
	*last = e.sized(*last, n, h)
	e.pool.rows(n, rowTile, func(_, r0, r1 int) {
		for r := r0; r < r1; r++ {
			e.norm(last.values[r*h:(r+1)*h], e.ws.x[r*h:(r+1)*h], e.finalNorm)
		}
		last.round(r0, r1)
	})
	if e.ws.logits == nil {
		e.ws.logits = make([][]float32, e.pool.threads)
	}
	notFinite := make([]atomic.Bool, n)
	e.pool.run(len(e.head), func(worker, i int) {
		m := e.head[i]
		block := steps[0].Logits[i*vocabPart:][:m.out]
		if n > 1 {
			e.ws.logits[worker] = grow(e.ws.logits[worker], n*m.out)
			block = e.ws.logits[worker]
		}
		m.mul(block, m.out, *last, n, 0, m.Panels())
		e.finish(block)
		for r, s := range steps {
			part := block[r*m.out:][:m.out]
			if n > 1 {
				copy(s.Logits[i*vocabPart:], part)
			}
			for _, v := range part {
				if !(v <= math.MaxFloat32) { // or NaN
					notFinite[r].Store(true)
					break
				}
			}
		}
	})
	for r := range notFinite {
		if notFinite[r].Load() {
			return r
		}
	}
	return -1
}
