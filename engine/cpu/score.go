package cpu

import (
	"context"
	"math"
	"slices"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
)

// The head's product is cut into blocks of headRows rows and vocabPart tokens, whose
// logits, 256 KiB, are reduced while they are in the cache.
const (
	headRows  = 64
	vocabPart = 1024
)

// Score implements engine.Engine.
func (e *Engine) Score(ctx context.Context, batch engine.Batch, observe engine.MLPObserver) ([][]engine.Score, error) {
	if err := e.accepts(batch); err != nil {
		return nil, err
	}
	p := &pass{e: e, ctx: ctx, layout: lay(batch, e.model.Regime), observe: observe}
	scores, wanted := wantedOf(batch, &p.layout)
	if len(batch.Nodes) == 0 || len(wanted) == 0 && observe == nil {
		return scores, ctx.Err()
	}
	defer e.begin()()
	rows := make([]int, len(wanted)) // of the residual stream
	for i := range wanted {
		rows[i] = wanted[i].row
	}
	if observe == nil && 2*len(rows) <= p.layout.n {
		p.wanted = rows
	}
	if err := p.run(nil); err != nil {
		return nil, err
	}
	if p.wanted != nil {
		for i := range rows {
			rows[i] = i
		}
	}
	if err := e.reduce(ctx, wanted, rows); err != nil {
		return nil, err
	}
	for i := range wanted {
		w := &wanted[i]
		if w.answer() {
			continue
		}
		row := p.layout.rows[w.row]
		path := batch.Path(row.Node)[:row.Position+1]
		layer, err := e.firstNonFinite(ctx, path)
		if err != nil {
			return nil, err
		}
		return nil, &engine.NonFiniteError{Node: row.Node, Index: row.Index, Layer: layer, Layers: len(e.layers)}
	}
	return scores, nil
}

// wanted is a position whose logits are needed, and what they are reduced to.
type wanted struct {
	row   int // of the layout
	asks  []ask
	parts []part // one for each part of the vocabulary
}

// ask is a token whose logit is needed and the place of its score.
type ask struct {
	token int
	label float32 // of Divergence
	logit float32
	score *engine.Score
}

// part is what is kept of the logits of one part of the vocabulary.
type part struct {
	logSumExp float64
	top       float32
	argTop    int // token
}

// wantedOf makes room for the answers to all targets and collects the positions that
// they ask for.
func wantedOf(b engine.Batch, l *layout) ([][]engine.Score, []wanted) {
	scores := make([][]engine.Score, len(b.Nodes))
	var list []wanted
	for i, n := range b.Nodes {
		scores[i] = make([]engine.Score, len(n.Targets))
		order := make([]int, len(n.Targets))
		for j := range order {
			order[j] = j
		}
		slices.SortStableFunc(order, func(a, b int) int { return n.Targets[a].Index - n.Targets[b].Index })
		for k, j := range order {
			t := n.Targets[j]
			if k == 0 || t.Index != n.Targets[order[k-1]].Index {
				list = append(list, wanted{row: l.nodes[i].first + t.Index})
			}
			w := &list[len(list)-1]
			w.asks = append(w.asks, ask{token: int(t.Token), label: t.Label, score: &scores[i][j]})
		}
	}
	return scores, list
}

// reduce computes the logits of the wanted positions, which are in the given rows of
// the residual stream, one block after another, and keeps of each block what scores
// need.
func (e *Engine) reduce(ctx context.Context, list []wanted, rows []int) error {
	h := e.model.Hidden
	last := &e.ws.last
	*last = e.sized(*last, len(list), h)
	parts := make([]part, len(list)*len(e.head))
	e.pool.rows(len(list), rowTile, func(_, r0, r1 int) {
		for i := r0; i < r1; i++ {
			list[i].parts = parts[i*len(e.head) : (i+1)*len(e.head)]
			e.norm(last.values[i*h:(i+1)*h], e.ws.x[rows[i]*h:][:h], e.finalNorm)
		}
		last.round(r0, r1)
	})
	blocks := (len(list) + headRows - 1) / headRows
	if e.ws.logits == nil {
		e.ws.logits = make([][]float32, e.pool.threads)
	}
	e.pool.run(blocks*len(e.head), func(worker, unit int) {
		if ctx.Err() != nil {
			return
		}
		i := unit / blocks
		m, r0 := e.head[i], unit%blocks*headRows
		r1 := min(r0+headRows, len(list))
		e.ws.logits[worker] = grow(e.ws.logits[worker], headRows*vocabPart)
		logits := e.ws.logits[worker][:(r1-r0)*m.out]
		m.mul(logits, m.out, last.slice(r0, r1), r1-r0, 0, m.Panels())
		e.finish(logits)
		for r := r0; r < r1; r++ {
			list[r].take(i, logits[(r-r0)*m.out:][:m.out])
		}
	})
	return ctx.Err()
}

// finish scales and caps logits.
func (e *Engine) finish(logits []float32) {
	if e.model.LogitScale != 1 {
		kernel.Scale(logits, e.model.LogitScale)
	}
	if e.model.LogitCap != 0 {
		kernel.SoftCap(logits, e.model.LogitCap)
	}
}

// take reduces the logits of part i of the vocabulary.
func (w *wanted) take(i int, logits []float32) {
	first := i * vocabPart
	p := part{logSumExp: kernel.LogSumExp(logits), argTop: -1}
	if top := kernel.ArgMax(logits); top >= 0 {
		p.top, p.argTop = logits[top], first+top
	}
	w.parts[i] = p
	w.keep(i, logits)
}

// keep keeps of the logits of part i of the vocabulary those that are asked for.
func (w *wanted) keep(i int, logits []float32) {
	for j := range w.asks {
		if token := w.asks[j].token - i*vocabPart; token >= 0 && token < len(logits) {
			w.asks[j].logit = logits[token]
		}
	}
}

// answer joins the parts and writes the scores; it reports whether the log-sum-exp is
// finite.
func (w *wanted) answer() bool {
	top, argTop := float32(0), -1
	for _, p := range w.parts {
		if p.argTop >= 0 && (argTop < 0 || p.top > top) {
			top, argTop = p.top, p.argTop
		}
	}
	all := logSumExp(w.parts)
	for _, a := range w.asks {
		*a.score = engine.Score{LogProb: float32(float64(a.logit) - all), Greedy: a.token == argTop}
	}
	return !math.IsNaN(all) && !math.IsInf(all, 0)
}

// logSumExp joins those of the parts of a vocabulary; NaN where one is.
func logSumExp(parts []part) float64 {
	most, sum := math.Inf(-1), 0.0
	for _, p := range parts {
		most = max(most, p.logSumExp)
	}
	for _, p := range parts {
		sum += math.Exp(p.logSumExp - most)
	}
	return most + math.Log(sum)
}

// firstNonFinite runs one sequence again and returns the first layer after which a
// value is infinite or not a number: -1 for the embedding, the number of layers where
// only the head is left.
func (e *Engine) firstNonFinite(ctx context.Context, tokens []int32) (int, error) {
	found := len(e.layers)
	one := engine.Batch{Nodes: []engine.Node{{Parent: -1, Tokens: tokens}}}
	p := &pass{e: e, ctx: ctx, layout: lay(one, e.model.Regime)}
	p.probe = func(layer int) (stop bool) {
		for _, v := range e.ws.x[:len(tokens)*e.model.Hidden] {
			if v-v != 0 {
				found = layer
				return true
			}
		}
		return false
	}
	err := p.run(nil)
	return found, err
}
