package cpu

import (
	"context"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
)

const (
	rowTile    = 32      // rows of one unit of work on rows
	queryTile  = 64      // query positions of one unit of attention
	mlpFloats  = 4 << 20 // values of gate and up that exist at a time
	mlpMinRows = 128
)

// workspace is the buffers of a forward pass. They grow to the largest batch seen.
type workspace struct {
	x    []float32 // [n, hidden], the residual stream
	qkv  []float32 // [n, queries + 2*keys]
	out  []float32 // [n, hidden], of attention and of the MLP
	in   rows      // [n, hidden], normalised x
	att  rows      // [n, queries]
	act  rows      // [chunk, width], gate, then activations
	up   []float32 // [chunk, width]
	last rows      // [wanted, hidden]

	logits [][]float32 // one block a thread
}

// pass is one run of the model over a layout.
type pass struct {
	e      *Engine
	ctx    context.Context
	layout layout
	n      int          // rows of the residual stream: all, until the last layer narrows them
	tables []*ropeTable // [nodes*ropes]
	// cached, if not nil, returns where keys and values of a layer are kept, head by
	// head, for the one sequence of the layout.
	cached  func(layer int) []kernel.KVBlocks
	observe engine.MLPObserver
	// wanted, if not nil, is the rows of the layout whose results are wanted, ascending:
	// after run, e.ws.x holds these alone. An observer wants all.
	wanted []int
	// probe, if not nil, sees the residual stream after the embedding (-1) and after
	// each layer.
	probe func(layer int) (stop bool)
}

// run computes the residual stream, in e.ws.x.
func (p *pass) run() error {
	e, t, ws := p.e, p.e.model, &p.e.ws
	ws.x = grow(ws.x, p.layout.n*t.Hidden)
	p.begin()
	e.pool.rows(p.n, rowTile, func(_, r0, r1 int) {
		for r := r0; r < r1; r++ {
			token := int(p.layout.tokens[r])
			e.embed(ws.x[r*t.Hidden:(r+1)*t.Hidden], e.embedding[token/vocabPart], token%vocabPart)
		}
	})
	if p.probe != nil && p.probe(-1) {
		return nil
	}
	for i := range e.layers {
		if err := p.layer(i, &e.layers[i]); err != nil {
			return err
		}
		if p.probe != nil && p.probe(i) {
			return nil
		}
	}
	return nil
}

// embed stores the embedding in a row of m in x.
func (e *Engine) embed(x []float32, m *matrix, row int) {
	m.Row(row, x)
	if e.model.EmbeddingScale != 1 {
		kernel.Scale(x, e.model.EmbeddingScale)
	}
}

// begin makes room for all but the residual stream.
func (p *pass) begin() {
	e, n := p.e, p.layout.n
	t, ws := e.model, &e.ws
	p.n = n
	queries, keys := t.Heads*t.HeadDim, t.KVHeads*t.HeadDim
	ws.qkv, ws.out = grow(ws.qkv, n*(queries+2*keys)), grow(ws.out, n*t.Hidden)
	e.growRows(&ws.in, n, t.Hidden)
	e.growRows(&ws.att, n, queries)
	p.makeTables()
}

// layer replaces the residual stream in e.ws.x, that before layer i, by the one after
// it; l is the layer's weights.
func (p *pass) layer(i int, l *layer) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	e, t, ws := p.e, p.e.model, &p.e.ws
	stride := (t.Heads + 2*t.KVHeads) * t.HeadDim
	p.normInto(ws.in, l.attentionIn)
	e.pool.product(ws.qkv, stride, ws.in, p.n, l.qkv)
	p.rotate(i, l)
	if p.cached != nil {
		p.keep(p.cached(i))
	}
	if i == len(t.Layers)-1 && p.wanted != nil {
		p.attend(i, p.wanted)
		p.narrow()
	} else {
		p.attend(i, nil)
	}
	e.pool.rows(p.n, rowTile, func(_, r0, r1 int) { ws.att.round(r0, r1) })
	e.pool.product(ws.out, t.Hidden, ws.att, p.n, l.out)
	p.addResidual(l.attentionOut)
	p.normInto(ws.in, l.mlpIn)
	if err := p.mlp(i, l); err != nil {
		return err
	}
	p.addResidual(l.mlpOut)
	return nil
}

// narrow drops the rows that are not wanted: nothing after the last attention mixes
// rows.
func (p *pass) narrow() {
	ws, h, queries := &p.e.ws, p.e.model.Hidden, p.e.model.Heads*p.e.model.HeadDim
	for i, r := range p.wanted {
		copy(ws.x[i*h:(i+1)*h], ws.x[r*h:(r+1)*h])
		copy(ws.att.values[i*queries:(i+1)*queries], ws.att.values[r*queries:(r+1)*queries])
	}
	p.n = len(p.wanted)
}

// normInto stores the normalised rows of x in dst.
func (p *pass) normInto(dst rows, weight []float32) {
	e, h := p.e, p.e.model.Hidden
	e.pool.rows(p.n, rowTile, func(_, r0, r1 int) {
		for r := r0; r < r1; r++ {
			e.norm(dst.values[r*h:(r+1)*h], e.ws.x[r*h:(r+1)*h], weight)
		}
		dst.round(r0, r1)
	})
}

// norm stores the normalised x in dst, or x itself where there is no norm.
func (e *Engine) norm(dst, x, weight []float32) {
	if weight == nil {
		copy(dst, x)
		return
	}
	kernel.RMSNorm(dst, x, weight, e.model.NormEpsilon, 0)
}

// addResidual adds the rows of ws.out, normalised and scaled, to the residual stream.
func (p *pass) addResidual(weight []float32) {
	e, h, scale := p.e, p.e.model.Hidden, p.e.model.ResidualScale
	e.pool.rows(p.n, rowTile, func(_, r0, r1 int) {
		for r := r0; r < r1; r++ {
			out := e.ws.out[r*h : (r+1)*h]
			if weight != nil {
				e.norm(out, out, weight)
			}
			if scale != 1 {
				kernel.Scale(out, scale)
			}
			kernel.Add(e.ws.x[r*h:(r+1)*h], out)
		}
	})
}

// mlp computes down(act(gate) * up) of the rows of ws.in into ws.out, some rows at a
// time. How wide it is, its weights say.
func (p *pass) mlp(layer int, l *layer) error {
	e := p.e
	ws, h, width := &e.ws, e.model.Hidden, l.down.in
	chunk := max(mlpMinRows, mlpFloats/(2*width))
	for r0 := 0; r0 < p.n; r0 += chunk {
		r1 := min(r0+chunk, p.n)
		n := r1 - r0
		e.growRows(&ws.act, n, width)
		ws.up = grow(ws.up, n*width)
		in := ws.in.slice(r0, r1)
		e.pool.products(in, n, output{ws.act.values, width, l.gate}, output{ws.up, width, l.up})
		e.pool.rows(n, rowTile, func(_, a, b int) {
			activate(e.model.Activation, ws.act.values[a*width:b*width], ws.up[a*width:b*width])
			ws.act.round(a, b)
		})
		out := ws.out[r0*h : r1*h]
		e.pool.product(out, h, ws.act, n, l.down)
		if p.observe == nil {
			continue
		}
		if err := p.observe(engine.MLP{
			Layer: layer, Rows: p.layout.rows[r0:r1], Hidden: h, Width: width,
			Input: in.values, Activations: ws.act.values, Output: out, Residual: ws.x[r0*h : r1*h],
			Heads: ws.att.values[r0*ws.att.width : r1*ws.att.width],
		}); err != nil {
			return err
		}
	}
	return nil
}

// activate replaces gate by act(gate) * up.
func activate(a arch.Activation, gate, up []float32) {
	switch a {
	case arch.GELUTanh:
		kernel.GELUTanhMul(gate, gate, up)
	case arch.GELUErf:
		kernel.GELUErfMul(gate, gate, up)
	default:
		kernel.SiLUMul(gate, gate, up)
	}
}

func grow[E any](b []E, n int) []E {
	if cap(b) < n {
		return make([]E, n)
	}
	return b[:n]
}

// growRows makes room for n rows of width values, and for their other forms where
// products need them.
func (e *Engine) growRows(x *rows, n, width int) {
	x.width, x.values = width, grow(x.values, n*width)
	if e.takesBF16 {
		x.rounded = grow(x.rounded, n*width)
	}
	// Rows that are no whole number of blocks only enter products of other types.
	if x.hasBlocks = e.takesBlocks && width%kernel.BlockSize == 0; x.hasBlocks {
		x.blocks.Resize(n, width)
	}
}
