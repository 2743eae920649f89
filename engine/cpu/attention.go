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

// end is the position after the last of all sequences.
func (p *pass) end() int {
	end := 0
	for _, s := range p.layout.nodes {
		end = max(end, s.position+s.n)
	}
	return end
}

// rotate normalises queries and keys in ws.qkv where the family does, and turns them by
// their positions.
func (p *pass) rotate(layer int, l *layer) {
	e, t := p.e, p.e.model
	dim, queries, keys := t.HeadDim, t.Heads*t.HeadDim, t.KVHeads*t.HeadDim
	stride, ropes, rope := queries+2*keys, len(t.Ropes), t.Layers[layer].Rope
	if rope < 0 && t.QKNorm == arch.NoQKNorm {
		return
	}
	e.pool.rows(p.layout.n, rowTile, func(_, r0, r1 int) {
		for r := r0; r < r1; r++ {
			q, k := e.ws.qkv[r*stride:][:queries], e.ws.qkv[r*stride+queries:][:keys]
			switch t.QKNorm {
			case arch.QKNormWhole:
				e.norm(q, q, l.qNorm)
				e.norm(k, k, l.kNorm)
			case arch.QKNormPerHead:
				for h := 0; h < queries; h += dim {
					e.norm(q[h:h+dim], q[h:h+dim], l.qNorm)
				}
				for h := 0; h < keys; h += dim {
					e.norm(k[h:h+dim], k[h:h+dim], l.kNorm)
				}
			}
			if rope < 0 {
				continue
			}
			row := p.layout.rows[r]
			cos, sin := p.tables[row.Node*ropes+rope].at(row.Position)
			qk := e.ws.qkv[r*stride:][:queries+keys]
			for h := 0; h < len(qk); h += dim {
				kernel.RoPE(qk[h:h+dim], cos, sin)
			}
		}
	})
}

// keep copies keys and values of the rows to the cache of each head.
func (p *pass) keep(cached []kernel.KVBlocks) {
	t := p.e.model
	dim, queries, keys := t.HeadDim, t.Heads*t.HeadDim, t.KVHeads*t.HeadDim
	for r, row := range p.layout.rows {
		k := p.e.ws.qkv[r*(queries+2*keys)+queries:][:keys]
		v := p.e.ws.qkv[r*(queries+2*keys)+queries+keys:][:keys]
		for h := range cached {
			cached[h].Set(row.Position, k[h*dim:(h+1)*dim], v[h*dim:(h+1)*dim])
		}
	}
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

// attend computes attention of all rows, or of the given ones, into ws.att. A unit of
// work is a block of queries and one key head with the query heads that share it.
func (p *pass) attend(layer int, only []int) {
	e, t := p.e, p.e.model
	dim, queries := t.HeadDim, t.Heads*t.HeadDim
	keys := t.KVHeads * dim
	stride := queries + 2*keys
	attention := kernel.Attention{
		HeadDim: dim, Heads: t.Heads / t.KVHeads,
		Scale: t.AttentionScale, SoftCap: t.AttentionCap, Window: t.Layers[layer].Window,
		BF16: e.attentionBF16(),
	}
	blocks := p.queryBlocks(only)
	e.pool.run(len(blocks)*t.KVHeads, func(_, unit int) {
		// The last positions see the most keys: they come first.
		b, head := blocks[len(blocks)-1-unit/t.KVHeads], unit%t.KVHeads
		s := &p.layout.nodes[b.node]
		r, column := s.first+b.first, head*attention.Heads*dim
		out, q, at := e.ws.att.values[r*queries+column:], e.ws.qkv[r*stride+column:], s.position+b.first
		if p.cached != nil {
			attention.RunBlocks(out, queries, q, stride, b.n, at, &p.cached(layer)[head])
			return
		}
		kv := make([]kernel.KV, len(s.path))
		for i, run := range s.path {
			from := e.ws.qkv[run.row*stride+queries+head*dim:]
			kv[i] = kernel.KV{N: run.n, K: from, V: from[keys:], LdK: stride, LdV: stride}
		}
		attention.Run(out, queries, q, stride, b.n, at, kv)
	})
}
