package engine

import "fmt"

// LengthError reports a sequence that is longer than the engine accepts.
type LengthError struct {
	Node        int // index into Batch.Nodes
	Length, Max int // in tokens
}

func (e *LengthError) Error() string {
	return fmt.Sprintf("node %d: a sequence of %d tokens is longer than the model's %d; shorten it, or ask for a longer context", e.Node, e.Length, e.Max)
}

// NonFiniteError reports a logit that is not a number, or infinite, and the first
// place where the sequence's values stopped being finite.
type NonFiniteError struct {
	Node, Index int // the token after which it was predicted
	Layer       int // the first layer whose output is not finite; -1: the embedding; the number of layers: the head
	Layers      int // of the model
}

func (e *NonFiniteError) Error() string {
	where := fmt.Sprintf("layer %d", e.Layer)
	switch e.Layer {
	case -1:
		where = "the embedding"
	case e.Layers:
		where = "the head"
	}
	return fmt.Sprintf("node %d, token %d: logits are not finite; values first became infinite or NaN in %s", e.Node, e.Index, where)
}
