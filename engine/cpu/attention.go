package cpu

import (
	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
)

// makeTables looks up the rotary tables of every node.
func (p *pass) makeTables() {
	ropes := len(p.e.model.Ropes)
	made := map[ropeKey]*ropeTable{}
	p.tables = make([]*ropeTable, len(p.layout.nodes)*ropes)
	for i, s := range p.layout.nodes {
		for j := range ropes {
			key := ropeKey{j, s.regime}
			if made[key] == nil {
				made[key] = p.e.ropes.get(key, p.end())
			}
			p.tables[i*ropes+j] = made[key]
		}
	}
}

// burst is how many bytes a thread prefetches at a time. Of more, asked for at once, a
// core drops the rest: of 64 KiB a third came (Zen 5).
const burst = 4 << 10

// end is the position after the last of all sequences.
func (p *pass) end() int {
	end := 0
	for _, s := range p.layout.nodes {
		end = max(end, s.position+s.n)
	}
	return end
}

// normQK normalises queries and keys in ws.qkv where the family does so over all heads.
func (p *pass) normQK(layer int) {
	e, t, l := p.e, p.e.model, p.weights(layer)
	queries, keys := t.Layers[layer].Heads*t.HeadDim, t.Layers[layer].KVHeads*t.HeadDim
	stride := queries + 2*keys
	if t.QKNorm != arch.QKNormWhole {
		return
	}
	p.rows(p.layout.n, rowTile, func(_, r0, r1 int) {
		for r := r0; r < r1; r++ {
			q, k := p.ws.qkv[r*stride:][:queries], p.ws.qkv[r*stride+queries:][:keys]
			e.norm(q, q, l.qNorm)
			e.norm(k, k, l.kNorm)
		}
	})
}

// rotate turns heads h0 to h1 of a row of ws.qkv by the row's position, those of keys
// after those of queries, and normalises them before where the family does so by head.
func (p *pass) rotate(layer, r, h0, h1 int) {
	e, t, l := p.e, p.e.model, p.weights(layer)
	has := t.Layers[layer]
	dim, ropes, rope := t.HeadDim, len(t.Ropes), has.Rope
	heads := p.ws.qkv[r*(has.Heads+2*has.KVHeads)*dim:]
	if t.QKNorm == arch.QKNormPerHead {
		for h := h0; h < h1; h++ {
			weight := l.qNorm
			if h >= has.Heads {
				weight = l.kNorm
			}
			e.norm(heads[h*dim:(h+1)*dim], heads[h*dim:(h+1)*dim], weight)
		}
	}
	if rope < 0 {
		return
	}
	row := p.layout.rows[r]
	cos, sin := p.tables[row.Node*ropes+rope].at(row.Position)
	for h := h0; h < h1; h++ {
		kernel.RoPE(heads[h*dim:(h+1)*dim], cos, sin)
	}
}

// keep rotates a head's keys of a node's rows and copies them and the values to the cache.
func (p *pass) keep(layer, node, head int) {
	t, dim, s := p.e.model.Layers[layer], p.e.model.HeadDim, p.layout.nodes[node]
	stride := (t.Heads + 2*t.KVHeads) * dim
	cached := &p.cached(node, layer)[head]
	for i := range s.n {
		p.rotate(layer, s.first+i, t.Heads+head, t.Heads+head+1)
		k := p.ws.qkv[(s.first+i)*stride+(t.Heads+head)*dim:]
		cached.Set(s.position+i, k[:dim], k[t.KVHeads*dim:][:dim])
	}
}

// thenAttention says that attention is next, and then the product with its output matrix.
// It is called in a unit, as attention changes what it looks at.
func (p *pass) thenAttention(layer int) {
	t, n := p.e.model.Layers[layer], len(p.crew.lanes)
	p.then()
	units := len(p.layout.nodes) * t.KVHeads
	for unit := share(units, p.id, n); p.cached != nil && unit < share(units, p.id+1, n); unit++ {
		node := len(p.layout.nodes) - 1 - unit/t.KVHeads
		p.ahead = p.cached(node, layer)[unit%t.KVHeads].Ahead(p.ahead, p.layout.nodes[node].position, t.Window)
	}
	p.ahead = append(p.ahead, p.start(p.weights(layer).out))
}

// queryBlock is successive query positions of a node, a unit of attention.
type queryBlock struct{ node, first, n int }

// queryBlocks cuts the rows of the layout, all or the given ones, into blocks.
func (p *pass) queryBlocks(only []int) []queryBlock {
	var blocks []queryBlock
	if only == nil {
		for i, s := range p.layout.nodes {
			for first := 0; first < s.n; first += queryTile {
				blocks = append(blocks, queryBlock{i, first, min(queryTile, s.n-first)})
			}
		}
		return blocks
	}
	for _, r := range only {
		row := p.layout.rows[r]
		if k := len(blocks) - 1; k >= 0 {
			b := &blocks[k]
			if b.node == row.Node && b.first+b.n == row.Index && b.n < queryTile {
				b.n++
				continue
			}
		}
		blocks = append(blocks, queryBlock{row.Node, row.Index, 1})
	}
	return blocks
}

// attentionBF16 reports whether attention multiplies in bfloat16.
func (e *Engine) attentionBF16() bool { return e.precision == engine.BF16 }

// headsOf is the attention of the query heads that share a key head in a layer.
func (p *pass) headsOf(layer int) kernel.Attention {
	t, m := p.e.model.Layers[layer], p.e.model
	return kernel.Attention{
		HeadDim: m.HeadDim, Heads: t.Heads / t.KVHeads,
		Scale: m.AttentionScale, SoftCap: m.AttentionCap, Window: t.Window, BF16: p.e.attentionBF16(),
	}
}

// keysAndValues are those of a node's sequence in ws.qkv, for one key head.
func (p *pass) keysAndValues(node, layer, head int) []kernel.KV {
	t, dim := p.e.model.Layers[layer], p.e.model.HeadDim
	queries, keys := t.Heads*dim, t.KVHeads*dim
	stride := queries + 2*keys
	path := p.layout.nodes[node].path
	kv := make([]kernel.KV, len(path))
	for i, run := range path {
		from := p.ws.qkv[run.row*stride+queries+head*dim:]
		kv[i] = kernel.KV{N: run.n, K: from, V: from[keys:], LdK: stride, LdV: stride}
	}
	return kv
}

// attend computes attention of all rows, or of the given ones, which then are all that
// are left, into ws.att, from queries and keys that are not rotated yet. A unit of work is a block of queries and one key
// head with the query heads that share it; where each cached sequence has one block, as in
// decoding, the unit does all that is to be done for its key head.
func (p *pass) attend(layer int, only []int) {
	t, dim := p.e.model.Layers[layer], p.e.model.HeadDim
	queries, keys := t.Heads*dim, t.KVHeads*dim
	stride := queries + 2*keys
	attention := p.headsOf(layer)
	columns := attention.Heads * dim // of a unit
	blocks := p.blocks
	if only != nil {
		blocks = p.queryBlocks(only)
	}
	oneEach := len(blocks) == len(p.layout.nodes)
	p.normQK(layer)
	if p.cached == nil {
		p.rows(p.layout.n, rowTile, func(_, r0, r1 int) {
			for r := r0; r < r1; r++ {
				p.rotate(layer, r, t.Heads, t.Heads+t.KVHeads)
			}
		})
	} else if !oneEach {
		p.member.run(len(p.layout.nodes)*t.KVHeads, func(_, unit int) { p.keep(layer, unit/t.KVHeads, unit%t.KVHeads) })
	}
	p.member.run(len(blocks)*t.KVHeads, func(_, unit int) {
		if err := p.ctx.Err(); unit == 0 && err != nil {
			p.fail(err)
		}
		// The last positions see the most keys: they come first.
		b, head := blocks[len(blocks)-1-unit/t.KVHeads], unit%t.KVHeads
		s := &p.layout.nodes[b.node]
		if p.cached != nil && oneEach {
			p.prefetch(burst)
			p.keep(layer, b.node, head)
			p.prefetch(burst)
		}
		r, column := s.first+b.first, head*columns
		for i := range b.n {
			p.rotate(layer, r+i, head*attention.Heads, (head+1)*attention.Heads)
		}
		p.prefetch(burst)
		out, q, at := p.ws.att.values[r*queries+column:], p.ws.qkv[r*stride+column:], s.position+b.first
		if p.cached != nil {
			attention.RunBlocks(out, queries, q, stride, b.n, at, &p.cached(b.node, layer)[head])
		} else {
			attention.Run(out, queries, q, stride, b.n, at, p.keysAndValues(b.node, layer, head))
		}
		p.prefetch(burst)
		if columns%p.ws.att.grain() == 0 {
			p.ws.att.roundRegion(region{r, r + b.n, column, column + columns})
		}
	})
	if only != nil {
		p.narrow(only)
	}
	if only != nil || columns%p.ws.att.grain() != 0 {
		p.rows(p.n, rowTile, func(_, r0, r1 int) { p.ws.att.round(r0, r1) })
	}
}
