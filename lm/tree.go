package lm

import (
	"slices"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/eval"
)

// tree is a batch made of requests, and where each request's answers are in it.
type tree struct {
	batch  engine.Batch
	starts []int     // position of each node's first token in its sequence
	places [][]place // of each request, one a token of its continuation
}

// place is a target in the batch.
type place struct{ node, target int }

// sequence is a request's model input: all of it but the last token, whose prediction
// needs no row.
type sequence struct {
	request int
	tokens  []int32
}

// input returns the model's input for a request.
func input(r eval.TokenRequest) []int32 {
	all := make([]int32, 0, len(r.Context)+len(r.Continuation)-1)
	return append(append(all, r.Context...), r.Continuation[:len(r.Continuation)-1]...)
}

// grow builds the tree of requests. Sequences whose lengths make the model rotate them
// differently (regime) do not share nodes.
func grow(requests []eval.TokenRequest, regime func(length int) int) *tree {
	t := &tree{places: make([][]place, len(requests))}
	groups := map[int][]sequence{}
	var regimes []int
	for i, r := range requests {
		s := sequence{i, input(r)}
		k := regime(len(s.tokens))
		if groups[k] == nil {
			regimes = append(regimes, k)
		}
		groups[k] = append(groups[k], s)
	}
	leaves := make([]int, len(requests))
	for _, k := range regimes {
		slices.SortStableFunc(groups[k], func(a, b sequence) int { return slices.Compare(a.tokens, b.tokens) })
		t.branch(groups[k], 0, -1, leaves)
	}
	for i, r := range requests {
		t.ask(i, r, leaves[i])
	}
	return t
}

// branch adds nodes for sorted sequences that agree in their first `depth` tokens,
// which end in node parent, and notes the node in which each sequence ends.
func (t *tree) branch(sorted []sequence, depth, parent int, leaves []int) {
	for len(sorted) > 0 {
		if len(sorted[0].tokens) == depth {
			leaves[sorted[0].request] = parent
			sorted = sorted[1:]
			continue
		}
		n := 1
		for n < len(sorted) && sorted[n].tokens[depth] == sorted[0].tokens[depth] {
			n++
		}
		group := sorted[:n]
		end := depth + commonPrefix(group[0].tokens[depth:], group[n-1].tokens[depth:])
		t.batch.Nodes = append(t.batch.Nodes, engine.Node{Parent: parent, Tokens: group[0].tokens[depth:end]})
		t.starts = append(t.starts, depth)
		t.branch(group, end, len(t.batch.Nodes)-1, leaves)
		sorted = sorted[n:]
	}
}

// ask adds the targets of a request, whose sequence ends in node leaf.
func (t *tree) ask(i int, r eval.TokenRequest, leaf int) {
	t.places[i] = make([]place, len(r.Continuation))
	node := leaf
	for j := len(r.Continuation) - 1; j >= 0; j-- {
		position := len(r.Context) - 1 + j // whose next token is continuation[j]
		for position < t.starts[node] {
			node = t.batch.Nodes[node].Parent
		}
		n := &t.batch.Nodes[node]
		t.places[i][j] = place{node, len(n.Targets)}
		n.Targets = append(n.Targets, engine.Target{Index: position - t.starts[node], Token: r.Continuation[j]})
	}
}

// result adds up a request's scores.
func (t *tree) result(i int, scores [][]engine.Score) eval.TokenResult {
	r := eval.TokenResult{Greedy: true}
	for _, p := range t.places[i] {
		s := scores[p.node][p.target]
		r.LogLikelihood += float64(s.LogProb)
		r.Greedy = r.Greedy && s.Greedy
	}
	return r
}

// requestAt finds the request that asked for a prediction after a token of a node.
func (t *tree) requestAt(node, index int) int {
	for i, places := range t.places {
		for _, p := range places {
			if p.node == node && t.batch.Nodes[node].Targets[p.target].Index == index {
				return i
			}
		}
	}
	return -1
}

func commonPrefix(a, b []int32) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
