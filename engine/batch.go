package engine

import "fmt"

// Batch is a forest of token sequences: every path from a root to a node is a sequence,
// and what sequences have in common stands in one node and is computed once. For two
// continuations "x y" and "z" of a context c:
//
//	Nodes[0]: Parent -1, Tokens c,   Targets {len(c)-1, x}, {len(c)-1, z}
//	Nodes[1]: Parent 0,  Tokens [x], Targets {0, y}
type Batch struct {
	Nodes []Node
}

// Node is a run of tokens that continues the sequence of its parent.
type Node struct {
	Parent  int // index of an earlier node, or -1 for the start of a sequence
	Tokens  []int32
	Targets []Target
}

// Target asks for the log-probability that Token comes next after the node's token at
// Index, given all before it.
type Target struct {
	Index int
	Token int32
	// Label is the part of what Layerwise.Divergence compares with that is Token itself, 0 to 1; what a model predicts is
	// the rest. Scores do not depend on it.
	Label float32
}

// Validate reports what is wrong with the batch for a model with that many tokens in
// its vocabulary.
func (b Batch) Validate(vocab int) error {
	for i, n := range b.Nodes {
		if n.Parent < -1 || n.Parent >= i {
			return fmt.Errorf("node %d: the parent %d is not an earlier node", i, n.Parent)
		}
		if len(n.Tokens) == 0 {
			return fmt.Errorf("node %d has no tokens", i)
		}
		for _, t := range n.Tokens {
			if t < 0 || int(t) >= vocab {
				return fmt.Errorf("node %d: token %d is not in the vocabulary of %d", i, t, vocab)
			}
		}
		for _, t := range n.Targets {
			if t.Index < 0 || t.Index >= len(n.Tokens) {
				return fmt.Errorf("node %d: a target after token %d of %d", i, t.Index, len(n.Tokens))
			}
			if t.Token < 0 || int(t.Token) >= vocab {
				return fmt.Errorf("node %d: the target %d is not in the vocabulary of %d", i, t.Token, vocab)
			}
			if !(t.Label >= 0 && t.Label <= 1) {
				return fmt.Errorf("node %d: a label of %v: expected a share between 0 and 1", i, t.Label)
			}
		}
	}
	return nil
}

// Tokens is the number of tokens of all nodes, the rows that an engine computes.
func (b Batch) Tokens() int {
	n := 0
	for _, node := range b.Nodes {
		n += len(node.Tokens)
	}
	return n
}

// Lengths returns for each node the length of the sequence that ends with it. The batch
// must be valid.
func (b Batch) Lengths() []int {
	lengths := make([]int, len(b.Nodes))
	for i, n := range b.Nodes {
		lengths[i] = len(n.Tokens)
		if n.Parent >= 0 {
			lengths[i] += lengths[n.Parent]
		}
	}
	return lengths
}

// Path returns the whole sequence that ends with a node, root first.
func (b Batch) Path(node int) []int32 {
	if node < 0 {
		return nil
	}
	n := b.Nodes[node]
	return append(b.Path(n.Parent), n.Tokens...)
}
