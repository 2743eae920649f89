package cpu

import (
	"context"
	"errors"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
)

const (
	rowTile    = 32      // rows of one unit of work on rows
	queryTile  = 64      // query positions of one unit of attention
	mlpFloats  = 2 << 20 // values of gate and up that exist at a time
	mlpMinRows = 128
)

// workspace is the buffers of a forward pass. They grow to the largest batch seen.
type workspace struct {
	x    []float32 // [n, hidden], the residual stream
	out  []float32 // [n, hidden], of attention and of the MLP
	in   rows      // [n, hidden], normalised x
	own  []rows    // in, where each thread normalises for itself: one a thread
	last rows      // [wanted, hidden]

	// What attention and the MLP, which take turns, have in the same memory.
	first   []float32
	qkv, up []float32 // [n, queries + 2*keys], [chunk, width]
	second  rows
	att     rows // [n, queries]
	heads   rows // att, where an observer sees it
	act     rows // [chunk, width], gate, then activations

	logits [][]float32 // one block a thread
}

// pass is one run of the model over a layout. Each thread has a copy of it; what those
// say outside of units of work is the same and does not change.
type pass struct {
	e      *Engine
	ctx    context.Context
	layout layout
	n      int          // rows of the residual stream: all, until the last layer narrows them
	tables []*ropeTable // [nodes*ropes]
	// cached, if not nil, returns where keys and values of a node's sequence are kept in a
	// layer, head by head. Each node then is a sequence of its own.
	cached  func(node, layer int) []kernel.KVBlocks
	observe engine.MLPObserver
	// wanted, if not nil, is the rows of the layout whose results are wanted, ascending:
	// after run, e.ws.x holds these alone. An observer wants all.
	wanted []int
	// probe, if not nil, sees the residual stream after the embedding (-1) and after
	// each layer.
	probe func(layer int) (stop bool)

	// one, if not nil, is the weights of the layer that is run alone.
	one *layer

	blocks []queryBlock // of all rows
	// due is the weights of a norm that this thread calculates for itself when it has the
	// first unit of the next product; isDue, as they may be nil.
	due   []float32
	isDue bool

	ws workspace // the engine's
	*member
}

// weights are those of a layer.
func (p *pass) weights(layer int) *layer {
	if p.one != nil {
		return p.one
	}
	return &p.e.layers[layer]
}

// errStopped ends a pass that its probe stopped.
var errStopped = errors.New("stopped")

// run computes the residual stream, in e.ws.x, and then has all threads do what follows,
// if anything does.
func (p *pass) run(follows func(*pass)) error {
	e := p.e
	e.ws.x = grow(e.ws.x, p.layout.n*e.model.Hidden)
	widths := make([]int, len(e.layers))
	for i := range widths {
		widths[i] = e.layers[i].width()
	}
	return p.together(widths, func(p *pass) {
		if p.steps(); p.failed() == nil && follows != nil {
			follows(p)
		}
	})
}

// together has all threads do work that runs MLPs of the given widths.
func (p *pass) together(widths []int, work func(*pass)) error {
	e, n := p.e, p.layout.n
	p.n = n
	t, ws := e.model, &e.ws
	queries, keys := t.Heads*t.HeadDim, t.KVHeads*t.HeadDim
	most := 0 // values of gate and up
	for _, width := range widths {
		if width > 0 {
			most = max(most, min(n, mlpRows(width))*width)
		}
	}
	whole := func(n int) int { return (n + decodedBlock - 1) / decodedBlock * decodedBlock }
	most = whole(most)
	ws.out = grow(ws.out, n*t.Hidden)
	ws.first = grow(ws.first, max(n*(queries+2*keys), most))
	ws.second = e.sized(ws.second, 1, whole(max(n*queries, most)))
	ws.qkv, ws.up = ws.first, ws.first
	ws.att, ws.act = e.sized(ws.second, n, queries), ws.second
	if p.observe != nil { // who sees the heads beside the activations
		ws.heads = e.sized(ws.heads, 1, whole(n*queries))
		ws.att = e.sized(ws.heads, n, queries)
	}
	if p.own() {
		ws.own = grow(ws.own, e.pool.threads)
		for i := range ws.own {
			ws.own[i] = e.sized(ws.own[i], n, t.Hidden)
		}
	} else {
		ws.in = e.sized(ws.in, n, t.Hidden)
	}
	p.makeTables()
	p.blocks = p.queryBlocks(nil)
	p.ws = *ws
	c := newCrew(e.pool.threads)
	e.pool.join(func(id int) {
		q := *p
		q.member = &member{crew: c, id: id}
		work(&q)
	})
	if err := c.failed(); err != errStopped {
		return err
	}
	return nil
}

// own reports whether each thread normalises rows for itself before a product: what one
// thread does for the others takes longer to get there than to calculate where rows are
// few. An observer sees what all have in common.
func (p *pass) own() bool { return p.layout.n <= fewRows && p.observe == nil }

// steps is what a thread does for the whole model.
func (p *pass) steps() {
	e, t, ws := p.e, p.e.model, &p.ws
	p.rows(p.n, rowTile, func(_, r0, r1 int) {
		for r := r0; r < r1; r++ {
			token := int(p.layout.tokens[r])
			e.embed(ws.x[r*t.Hidden:(r+1)*t.Hidden], e.embedding[token/vocabPart], token%vocabPart)
		}
	})
	if p.stopped(-1) {
		return
	}
	for i := range e.layers {
		p.layer(i)
		if p.stopped(i) {
			return
		}
	}
}

// embed stores the embedding in a row of m in x.
func (e *Engine) embed(x []float32, m *matrix, row int) {
	m.Row(row, x)
	if e.model.EmbeddingScale != 1 {
		kernel.Scale(x, e.model.EmbeddingScale)
	}
}

// layer replaces the residual stream before a layer by the one after it. In the last one
// only the wanted rows are left.
func (p *pass) layer(i int) {
	l := p.weights(i)
	var only []int
	if i == len(p.e.model.Layers)-1 {
		only = p.wanted
	}
	if l.qkv != nil {
		p.attention(i, only)
	} else {
		p.ws.att.width = 0
		if only != nil {
			p.narrow(only)
		}
	}
	if l.down != nil {
		p.mlp(i)
	}
}

// attention adds the attention of a layer to the residual stream of all rows, or of the
// given ones, which then are all that are left.
func (p *pass) attention(i int, only []int) {
	t, ws, l := p.e.model, &p.ws, p.weights(i)
	heads := t.Layers[i]
	stride := (heads.Heads + 2*heads.KVHeads) * t.HeadDim
	ws.att = p.e.sized(ws.att, p.layout.n, heads.Heads*t.HeadDim)
	in := p.normed(l.attentionIn)
	p.then()
	column := 0
	for _, m := range l.qkv {
		p.regions(p.n, m, func(g region) {
			if p.settle() {
				p.thenAttention(i)
			}
			m.region(ws.qkv[column:], stride, in, g)
		})
		column += m.out
	}
	p.attend(i, only)
	p.then(kernel.Bytes(l.mlpIn), p.start(l.gate))
	p.regions(p.n, l.out, func(g region) {
		l.out.region(ws.out, t.Hidden, ws.att, g)
		if l.attentionOut == nil {
			p.addResidual(g)
		}
	})
	if l.attentionOut != nil {
		p.addRows(l.attentionOut, 0, p.n)
	}
}

// stopped reports whether the pass ends after a layer, because it failed or its probe
// says so.
func (p *pass) stopped(layer int) bool {
	if p.probe != nil {
		p.alone(func() {
			if p.failed() == nil && p.probe(layer) {
				p.fail(errStopped)
			}
		})
	}
	return p.failed() != nil
}

// then says what is read after the product that follows, where each thread has a share of
// its own.
func (p *pass) then(parts ...[]byte) {
	if p.own() {
		p.ahead, p.asked = append(p.ahead[:0], parts...), 0
	}
}

// thenLayer says that a layer is next, or the head.
func (p *pass) thenLayer(layer int) {
	switch {
	case p.one != nil:
		p.then()
	case layer == len(p.e.layers):
		p.then(kernel.Bytes(p.e.finalNorm), p.startOfHead())
	case p.e.layers[layer].qkv != nil:
		next := &p.e.layers[layer]
		p.then(kernel.Bytes(next.attentionIn), p.start(next.qkv[0]))
	default:
		p.then(kernel.Bytes(p.e.layers[layer].mlpIn), p.start(p.e.layers[layer].gate))
	}
}

// start is what this thread reads first of a matrix, which a layer may lack.
func (p *pass) start(m *matrix) []byte {
	if m == nil {
		return nil
	}
	return firstBytes(m.Panel(min(halving(p.id*unitsPerThread, m.Panels(), len(p.crew.lanes)), m.Panels()-1)), aheadBytes)
}

// narrow drops the rows that are not wanted: nothing after the last attention mixes
// rows.
func (p *pass) narrow(wanted []int) {
	ws, h, queries := &p.ws, p.e.model.Hidden, p.ws.att.width
	p.member.run(1, func(_, _ int) {
		for i, r := range wanted {
			copy(ws.x[i*h:(i+1)*h], ws.x[r*h:(r+1)*h])
			copy(ws.att.values[i*queries:(i+1)*queries], ws.att.values[r*queries:(r+1)*queries])
		}
	})
	p.n = len(wanted)
}

// normed returns where the normalised rows of x are for a product, each of whose units
// calls settle first.
func (p *pass) normed(weight []float32) rows {
	if p.own() {
		p.due, p.isDue = weight, true
		return p.ws.own[p.id]
	}
	p.rows(p.n, rowTile, func(_, r0, r1 int) { p.normalise(p.ws.in, weight, r0, r1) })
	return p.ws.in
}

// settle calculates the norm that is due, and reports whether one was.
func (p *pass) settle() bool {
	if !p.isDue {
		return false
	}
	p.normalise(p.ws.own[p.id], p.due, 0, p.n)
	p.isDue = false
	return true
}

// normalise stores the normalised rows r0 to r1 of x in dst, in all forms.
func (p *pass) normalise(dst rows, weight []float32, r0, r1 int) {
	h := p.e.model.Hidden
	for r := r0; r < r1; r++ {
		p.e.norm(dst.values[r*h:(r+1)*h], p.ws.x[r*h:(r+1)*h], weight)
	}
	dst.round(r0, r1)
}

// norm stores the normalised x in dst, or x itself where there is no norm.
func (e *Engine) norm(dst, x, weight []float32) {
	if weight == nil {
		copy(dst, x)
		return
	}
	kernel.RMSNorm(dst, x, weight, e.model.NormEpsilon, 0)
}

// addResidual adds a part of ws.out to the residual stream.
func (p *pass) addResidual(g region) {
	h := p.e.model.Hidden
	for r := g.r0; r < g.r1; r++ {
		x, out := p.ws.x[r*h+g.c0:r*h+g.c1], p.ws.out[r*h+g.c0:r*h+g.c1]
		if scale := p.e.model.ResidualScale; scale != 1 {
			kernel.Scale(out, scale)
		}
		kernel.Add(x, out)
	}
}

// addRows adds rows r0 to r1 of ws.out, normalised where there is a weight, to the
// residual stream.
func (p *pass) addRows(weight []float32, r0, r1 int) {
	h := p.e.model.Hidden
	p.rows(r1-r0, rowTile, func(_, a, b int) {
		for r := r0 + a; weight != nil && r < r0+b; r++ {
			out := p.ws.out[r*h : (r+1)*h]
			p.e.norm(out, out, weight)
		}
		p.addResidual(region{r0 + a, r0 + b, 0, h})
	})
}

// mlpRows is how many rows an MLP takes at a time.
func mlpRows(width int) int { return max(mlpMinRows, mlpFloats/(2*width)) }

// mlp adds down(act(gate) * up) of the normalised rows to the residual stream, some rows
// at a time.
func (p *pass) mlp(layer int) {
	e, l := p.e, p.weights(layer)
	h, width := e.model.Hidden, l.width()
	all := p.normed(l.mlpIn)
	parts := (p.n + mlpRows(width) - 1) / mlpRows(width)
	for i := range parts {
		r0, r1 := i*p.n/parts, (i+1)*p.n/parts
		n := r1 - r0
		in, act, up := all.slice(r0, r1), e.sized(p.ws.act, n, width), p.ws.up[:n*width]
		inParts := kernel.PanelCols%act.grain() == 0 // regions are whole panels
		p.then(p.start(l.down))
		p.regions(n, l.gate, func(g region) {
			p.settle()
			// So the change from one stream to another does not wait.
			kernel.Prefetch(firstBytes(l.up.Panel(g.c0/kernel.PanelCols), burst))
			l.gate.region(act.values, width, in, g)
			l.up.region(up, width, in, g)
			for r := g.r0; r < g.r1; r++ {
				from, to := r*width+g.c0, r*width+g.c1
				activate(e.model.Activation, act.values[from:to], up[from:to])
			}
			if inParts {
				act.roundRegion(g)
			}
		})
		if !inParts {
			p.rows(n, rowTile, func(_, r0, r1 int) { act.round(r0, r1) })
		}
		// An observer sees what is neither normalised nor scaled.
		out, add := p.ws.out[r0*h:r1*h], l.mlpOut == nil && p.observe == nil
		p.thenLayer(layer + 1)
		p.regions(n, l.down, func(g region) {
			l.down.region(out, h, act, g)
			if add {
				p.addResidual(region{r0 + g.r0, r0 + g.r1, g.c0, g.c1})
			}
		})
		if p.observe != nil {
			p.alone(func() {
				if err := p.observe(engine.MLP{
					Layer: layer, Rows: p.layout.rows[r0:r1], Hidden: h, Width: width,
					Input: in.values, Activations: act.values, Output: out, Residual: p.ws.x[r0*h : r1*h],
					Heads: p.ws.att.values[r0*p.ws.att.width : r1*p.ws.att.width],
				}); err != nil {
					p.fail(err)
				}
			})
			if p.failed() != nil {
				return
			}
		}
		if !add {
			p.addRows(l.mlpOut, r0, r1)
		}
	}
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
