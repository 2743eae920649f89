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
	if e.ws.logits == nil {
		e.ws.logits = make([][]float32, e.pool.threads)
	}
	notFinite := make([]atomic.Bool, len(steps))
	if err := p.run(func(p *pass) { p.logits(steps, notFinite) }); err != nil {
		return err
	}
	for _, c := range caches {
		c.computed = len(c.tokens)
	}
	bad := 0
	for bad < len(steps) && !notFinite[bad].Load() {
		bad++
	}
	if bad == len(steps) {
		return nil
	}
	tokens := caches[bad].tokens
	layer, err := e.firstNonFinite(ctx, tokens)
	if err != nil {
		return err
	}
	return &engine.NonFiniteError{Node: bad, Index: len(tokens) - 1, Layer: layer, Layers: len(e.layers)}
}

// A unit of the head in decoding is a quarter of a part of the vocabulary: short, so that
// no thread waits long for another's last one.
const unitsOfPart = 4

// headUnit is the part of the vocabulary and the panels of it that are a unit.
func (e *Engine) headUnit(unit int) (part, p0, p1 int) {
	part = unit / unitsOfPart
	panels, i := e.head[part].Panels(), unit%unitsOfPart
	return part, i * panels / unitsOfPart, (i + 1) * panels / unitsOfPart
}

// startOfHead is what this thread reads first of the head.
func (p *pass) startOfHead() []byte {
	e, units := p.e, len(p.e.head)*unitsOfPart
	part, p0, _ := e.headUnit(min(share(units, p.id, len(p.crew.lanes)), units-1))
	return firstBytes(e.head[part].Panel(min(p0, e.head[part].Panels()-1)), aheadBytes)
}

// logits computes the logits after the rows of the residual stream, one a step, and says
// of which steps one is not finite.
func (p *pass) logits(steps []engine.Step, notFinite []atomic.Bool) {
	e, n := p.e, p.n
	last := p.normed(e.finalNorm)
	p.thenLayer(0) // of the next token
	p.member.run(len(e.head)*unitsOfPart, func(worker, unit int) {
		part, p0, p1 := e.headUnit(unit)
		if p0 == p1 {
			return
		}
		p.settle()
		m := e.head[part]
		c0, c1 := p0*kernel.PanelCols, min(p1*kernel.PanelCols, m.out)
		block := steps[0].Logits[part*vocabPart:][:m.out]
		if n > 1 {
			e.ws.logits[worker] = grow(e.ws.logits[worker], n*m.out)
			block = e.ws.logits[worker]
		}
		m.mul(block, m.out, last.slice(0, n), n, p0, p1)
		for r, s := range steps {
			row := s.Logits[part*vocabPart:][c0:c1]
			if n > 1 {
				copy(row, block[r*m.out+c0:])
			}
			e.finish(row)
			// A square is NaN where its root is.
			if kernel.Max(row) > math.MaxFloat32 || math.IsNaN(float64(kernel.Dot(row, row))) {
				notFinite[r].Store(true)
			}
		}
	})
}
