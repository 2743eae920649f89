package cpu

import (
	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
)

// attend computes attention again: b.raw, b.qkv and b.att.
func (b *backpass) attend(layer int) error {
	e, p, l, n := b.e, b.p, b.p.one, b.p.n
	t := e.model.Layers[layer]
	dim, queries, keys := e.model.HeadDim, t.Heads*e.model.HeadDim, t.KVHeads*e.model.HeadDim
	stride := queries + 2*keys
	b.in = b.normalise(b.in, b.x, l.attentionIn)
	b.qkv = grow(b.qkv, n*stride)
	column := 0
	for _, m := range l.qkv {
		e.multiply(b.qkv[column:], stride, m, b.in, n)
		column += m.out
	}
	if e.model.QKNorm != arch.NoQKNorm {
		b.raw = append(b.raw[:0], b.qkv...)
	}
	p.ws.qkv = b.qkv
	e.pool.rows(n, rowTile, func(_, r0, r1 int) {
		for r := r0; r < r1; r++ {
			if q := b.qkv[r*stride:]; e.model.QKNorm == arch.QKNormWhole {
				e.norm(q[:queries], q[:queries], l.qNorm)
				e.norm(q[queries:queries+keys], q[queries:queries+keys], l.kNorm)
			}
			p.rotate(layer, r, 0, t.Heads+t.KVHeads)
		}
	})
	b.att = e.sized(b.att, n, queries)
	attention := p.headsOf(layer)
	columns := attention.Heads * dim
	blocks := p.queryBlocks(nil)
	e.pool.run(len(blocks)*t.KVHeads, func(_, unit int) {
		at, head := blocks[len(blocks)-1-unit/t.KVHeads], unit%t.KVHeads
		s := &p.layout.nodes[at.node]
		r := s.first + at.first
		attention.Run(b.att.values[r*queries+head*columns:], queries, b.qkv[r*stride+head*columns:], stride, at.n, s.position+at.first,
			p.keysAndValues(at.node, layer, head))
	})
	e.pool.rows(n, rowTile, func(_, r0, r1 int) { b.att.round(r0, r1) })
	return p.ctx.Err()
}

// attentionBack takes the gradient by the stream after attention to that before it.
func (b *backpass) attentionBack(layer int) {
	e, p, l, n := b.e, b.p, b.p.one, b.p.n
	t, h := e.model.Layers[layer], e.model.Hidden
	dim := e.model.HeadDim
	queries, keys := t.Heads*dim, t.KVHeads*dim
	stride := queries + 2*keys
	if l.attentionOut != nil {
		e.multiply(b.out, h, l.out, b.att, n)
	}
	b.branchBack(l.attentionOut, b.out)
	e.multiply(b.att.values, queries, b.back.out, b.dOut, n) // by what the heads gave

	d := e.sized(b.dQKV, n, stride)
	b.dQKV = d
	clear(d.values)
	roots, trees := p.trees()
	scratch := make([]headBack, e.pool.threads)
	e.pool.run(roots*t.KVHeads, func(worker, unit int) {
		if p.ctx.Err() != nil {
			return
		}
		for _, node := range trees[unit/t.KVHeads] {
			scratch[worker].node(b, layer, node, unit%t.KVHeads)
		}
	})
	e.pool.rows(n, rowTile, func(_, r0, r1 int) {
		for r := r0; r < r1; r++ {
			b.unrotate(layer, r)
			d.round(r, r+1)
		}
	})
	clear(b.sum)
	column := 0
	for i, m := range b.back.qkv {
		part := e.sized(b.act, n, m.in)
		b.act = part
		e.pool.rows(n, rowTile, func(_, r0, r1 int) {
			for r := r0; r < r1; r++ {
				copy(part.values[r*m.in:(r+1)*m.in], d.values[r*stride+column:])
			}
			part.round(r0, r1)
		})
		e.multiply(b.add, h, m, part, n)
		kernel.Add(b.sum, b.add)
		column += b.p.one.qkv[i].out
	}
	b.rows(func(_ int, of func([]float32) []float32) {
		e.normBack(of(b.gradient), of(b.x), l.attentionIn, of(b.sum))
	})
}

// trees returns the nodes of each tree of the layout.
func (p *pass) trees() (n int, trees [][]int) {
	byRow := map[int]int{} // of the first row of a tree to its number
	for i, s := range p.layout.nodes {
		root := s.path[0].row
		k, ok := byRow[root]
		if !ok {
			k = len(trees)
			byRow[root] = k
			trees = append(trees, nil)
		}
		trees[k] = append(trees[k], i)
	}
	return len(trees), trees
}

// unrotate takes the gradients by a row's rotated queries and keys to those by what the
// projections gave.
func (b *backpass) unrotate(layer, r int) {
	e, p, l := b.e, b.p, b.p.one
	t, dim := e.model.Layers[layer], e.model.HeadDim
	queries, keys := t.Heads*dim, t.KVHeads*dim
	stride := queries + 2*keys
	d := b.dQKV.values[r*stride:][:queries+keys]
	if t.Rope >= 0 { // the transposed rotation is the one by the negative angle
		row := p.layout.rows[r]
		cos, sin := p.tables[row.Node*len(e.model.Ropes)+t.Rope].at(row.Position)
		back := make([]float32, len(sin))
		for i, v := range sin {
			back[i] = -v
		}
		for c := 0; c < len(d); c += dim {
			kernel.RoPE(d[c:c+dim], cos, back)
		}
	}
	if e.model.QKNorm == arch.NoQKNorm {
		return
	}
	raw := b.raw[r*stride:][:queries+keys]
	unnorm := func(c0, c1 int, weight []float32) {
		g := append([]float32(nil), d[c0:c1]...)
		clear(d[c0:c1])
		e.normBack(d[c0:c1], raw[c0:c1], weight, g)
	}
	if e.model.QKNorm == arch.QKNormWhole {
		unnorm(0, queries, l.qNorm)
		unnorm(queries, queries+keys, l.kNorm)
		return
	}
	for c := 0; c < len(d); c += dim {
		weight := l.qNorm
		if c >= queries {
			weight = l.kNorm
		}
		unnorm(c, c+dim, weight)
	}
}

// headBack differentiates attention of one key head; a thread keeps its buffers.
type headBack struct {
	k, v          []float32  // [keys, dim]
	keys, values  kernel.F32 // the same as weights
	keysT, tile   kernel.F32 // the transposed keys, and of a tile of queries what is multiplied with them
	dK, dV        []float32  // [dim, keys]
	p, dP         []float32  // [queryTile, keys]
	q, dO, dQ     []float32  // [queryTile, dim]
	turned, added []float32  // [dim, keys]
}

// node adds the gradients of the queries of one node. Probabilities are computed again, a
// tile of queries at a time: with P = softmax(S), dV = P' dO, dP = dO V', dS = P (dP -
// rowsum(P dP)), dQ = dS K, dK = dS' Q (Dao et al., "FlashAttention", 2022, algorithm 4).
func (w *headBack) node(b *backpass, layer, node, head int) {
	e, p := b.e, b.p
	t, dim := e.model.Layers[layer], e.model.HeadDim
	queries, kv := t.Heads*dim, t.KVHeads*dim
	stride := queries + 2*kv
	s := &p.layout.nodes[node]
	end := s.position + s.n
	w.k, w.v = grow(w.k, end*dim), grow(w.v, end*dim)
	w.dK, w.dV = grow(w.dK, end*dim), grow(w.dV, end*dim)
	clear(w.dK)
	clear(w.dV)
	each := func(f func(position, row int)) {
		position := 0
		for _, run := range s.path {
			for i := range run.n {
				f(position, run.row+i)
				position++
			}
		}
	}
	each(func(i, row int) {
		from := b.qkv[row*stride+queries+head*dim:]
		copy(w.k[i*dim:(i+1)*dim], from)
		copy(w.v[i*dim:(i+1)*dim], from[kv:])
	})
	w.turned = turn(w.turned, w.k, end, dim)
	w.keys.PackTransposed(end, dim, w.turned, end)
	w.turned = turn(w.turned, w.v, end, dim)
	w.values.PackTransposed(end, dim, w.turned, end)
	w.keysT.PackTransposed(dim, end, w.k, dim)
	width := (end + kernel.PanelCols - 1) / kernel.PanelCols * kernel.PanelCols
	group := t.Heads / t.KVHeads
	w.p, w.dP = grow(w.p, queryTile*width), grow(w.dP, queryTile*width)
	w.q, w.dO, w.dQ, w.added = grow(w.q, queryTile*dim), grow(w.dO, queryTile*dim), grow(w.dQ, queryTile*dim), grow(w.added, end*dim)
	for q := head * group; q < (head+1)*group; q++ {
		for first := 0; first < s.n; first += queryTile {
			n := min(queryTile, s.n-first)
			seen := s.position + first + n // keys that some query of the tile sees
			panels := (seen + kernel.PanelCols - 1) / kernel.PanelCols
			r0 := s.first + first
			for i := range n {
				copy(w.q[i*dim:(i+1)*dim], b.qkv[(r0+i)*stride+q*dim:])
				copy(w.dO[i*dim:(i+1)*dim], b.att.values[(r0+i)*queries+q*dim:])
			}
			w.keys.Mul(w.p, width, w.q, dim, n, 0, panels)
			w.values.Mul(w.dP, width, w.dO, dim, n, 0, panels)
			for i := range n {
				hi := s.position + first + i + 1
				lo := 0
				if t.Window > 0 {
					lo = max(0, hi-t.Window)
				}
				w.softmaxBack(e, w.p[i*width:(i+1)*width], w.dP[i*width:(i+1)*width], lo, hi)
			}
			w.keysT.Mul(w.dQ, dim, w.dP, width, n, 0, w.keysT.Panels())
			for i := range n {
				copy(b.dQKV.values[(r0+i)*stride+q*dim:][:dim], w.dQ[i*dim:])
			}
			w.addTo(w.dV, end, w.dO, w.p, width, n, seen, dim)
			w.addTo(w.dK, end, w.q, w.dP, width, n, seen, dim)
		}
	}
	each(func(i, row int) {
		to := b.dQKV.values[row*stride+queries+head*dim:]
		for c := range dim {
			to[c] += w.dK[c*end+i]
			to[kv+c] += w.dV[c*end+i]
		}
	})
}

// addTo adds x' y to dst, [dim, keys], end elements between rows: x is [n, dim], y is [n, seen], width elements
// between rows.
func (w *headBack) addTo(dst []float32, end int, x, y []float32, width, n, seen, dim int) {
	w.turned = turn(w.turned, x, n, dim)
	w.tile.PackTransposed(seen, n, y, width)
	w.tile.Mul(w.added, seen, w.turned, n, dim, 0, w.tile.Panels())
	for c := range dim {
		kernel.Add(dst[c*end:][:seen], w.added[c*seen:(c+1)*seen])
	}
}

// turn returns the transpose of x, [rows, cols], in the memory of dst where that is large enough.
func turn(dst, x []float32, rows, cols int) []float32 {
	dst = grow(dst, rows*cols)
	for r := range rows {
		for c, v := range x[r*cols : (r+1)*cols] {
			dst[c*rows+r] = v
		}
	}
	return dst
}

// softmaxBack turns the products q.k of a query, of which it sees keys lo to hi, into
// probabilities, and the gradient by them, dP, into that by the products; both are zero elsewhere.
func (w *headBack) softmaxBack(e *Engine, p, dP []float32, lo, hi int) {
	clear(p[:lo])
	clear(p[hi:])
	clear(dP[:lo])
	clear(dP[hi:])
	p, dP = p[lo:hi], dP[lo:hi]
	kernel.Scale(p, e.model.AttentionScale)
	limit := e.model.AttentionCap
	var capped []float32
	if limit != 0 {
		kernel.SoftCap(p, limit)
		capped = append(capped, p...)
	}
	kernel.Softmax(p)
	mean := kernel.Dot(p, dP)
	for i := range dP {
		dP[i] = p[i] * (dP[i] - mean)
	}
	for i, c := range capped {
		dP[i] *= 1 - (c/limit)*(c/limit)
	}
	kernel.Scale(dP, e.model.AttentionScale)
}
