package cpu

import "github.com/coppice-lm/coppice/engine"

// layout places the tokens of a batch on rows, and says where the keys of each token's
// sequence are.
type layout struct {
	n      int // rows
	tokens []int32
	rows   []engine.Row
	nodes  []segment
}

// segment is the rows of a node.
type segment struct {
	first, n int // rows
	position int // of the first row in its sequence
	regime   int // of the rotary embedding
	path     []span
}

// span is a run of successive positions that stand on successive rows. The spans of a
// path, one after another, are positions 0, 1, ...
type span struct{ row, n int }

// lay makes the layout of a valid batch. All sequences of a tree are rotated as its
// longest one is.
func lay(b engine.Batch, regime func(length int) int) layout {
	l := layout{n: b.Tokens()}
	l.tokens = make([]int32, 0, l.n)
	l.rows = make([]engine.Row, 0, l.n)
	l.nodes = make([]segment, len(b.Nodes))
	longest := make([]int, len(b.Nodes)) // of the tree, at its root
	root := make([]int, len(b.Nodes))
	lengths := b.Lengths()
	for i, n := range b.Nodes {
		s := &l.nodes[i]
		*s = segment{first: len(l.tokens), n: len(n.Tokens), position: lengths[i] - len(n.Tokens)}
		root[i] = i
		if n.Parent >= 0 {
			root[i] = root[n.Parent]
			s.path = append(s.path, l.nodes[n.Parent].path...)
		}
		longest[root[i]] = max(longest[root[i]], lengths[i])
		if k := len(s.path) - 1; k >= 0 && s.path[k].row+s.path[k].n == s.first {
			s.path[k].n += s.n
		} else {
			s.path = append(s.path, span{s.first, s.n})
		}
		l.tokens = append(l.tokens, n.Tokens...)
		for j := range n.Tokens {
			l.rows = append(l.rows, engine.Row{Node: i, Index: j, Position: s.position + j})
		}
	}
	for i := range l.nodes {
		l.nodes[i].regime = regime(longest[root[i]])
	}
	return l
}

// extend makes the layout of the tokens of caches that are not computed yet, one node a
// cache. Keys and values are in the caches: there is no path to them over rows.
func extend(caches []*cache) layout {
	var l layout
	for i, c := range caches {
		tokens := c.tokens[c.computed:]
		l.nodes = append(l.nodes, segment{first: l.n, n: len(tokens), position: c.computed, regime: c.regime})
		l.tokens = append(l.tokens, tokens...)
		for j := range tokens {
			l.rows = append(l.rows, engine.Row{Node: i, Index: j, Position: c.computed + j})
		}
		l.n += len(tokens)
	}
	return l
}
