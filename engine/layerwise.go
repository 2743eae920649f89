package engine

import (
	"context"

	"github.com/coppice-lm/coppice/arch"
)

// Layerwise runs a model one layer at a time over the tokens of batches, with the
// weights of one layer in memory. What goes from layer to layer is the residual stream,
// which the caller keeps: Embed makes it, and each layer's Run replaces it by the next.
// Layer after layer, the streams, and what an observer sees, have the bits that they
// have in Engine.Score. All but Score ignore the targets of batches. Methods, and those of the layers,
// may be called from several goroutines and take turns.
type Layerwise interface {
	// Model is the computation. It must not be changed.
	Model() *arch.Transformer

	// Embed stores the residual stream before the first layer in stream, [batch.Tokens(),
	// Hidden], the tokens of one node after those of another. Errors for a batch are those
	// of Engine.Score.
	Embed(ctx context.Context, batch Batch, stream []float32) error

	// Layer loads the weights of a layer. Layers that were loaded before must not be used
	// any more.
	Layer(ctx context.Context, index int) (Layer, error)

	// Score answers the targets of a batch from the residual stream after the last layer,
	// laid out as by Embed, with the bits and errors of Engine.Score, but that where a
	// logit is not a number the error names the head. The first call loads the head, which
	// stays in memory.
	Score(ctx context.Context, batch Batch, stream []float32) ([][]Score, error)

	// Divergence returns for each position that the targets of a batch ask for, node after
	// node, ascending, the Kullback-Leibler divergence, in nats, of what comes next after
	// other from what comes next after stream: the sum over the vocabulary of p (log p -
	// log q). Both are residual streams after the last layer. Where a target has a label l it is (1-l) times that, and
	// l times the negative log-probability q of its token (Hinton et al., arXiv 1503.02531, section 2); of several
	// targets of a position the first has it. Where it is no number the error names the head.
	Divergence(ctx context.Context, batch Batch, stream, other []float32) ([]float64, error)
}

// Layer is one loaded layer of a model.
type Layer interface {
	// Run replaces the residual stream before the layer of all tokens of a batch, laid out
	// as by Embed, by the one after it. observe, if not nil, sees the MLP as it runs. After
	// an error the stream is of no use. Values that are not finite are no error.
	Run(ctx context.Context, batch Batch, stream []float32, observe MLPObserver) error

	// WithMLP is the layer with another MLP in the place of the one that it has. It ends the use of the layer that
	// an earlier call returned; the layer that it is called on can be used beside it.
	WithMLP(ctx context.Context, mlp MLPWeights) (Layer, error)

	// WithAttentionOut is the layer with another output projection of its attention, [Hidden,
	// Heads*HeadDim], whose bias stays as it is; an error where it has none; otherwise as WithMLP, of which it is
	// independent.
	WithAttentionOut(ctx context.Context, weights []float32) (Layer, error)
}

// MLPWeights are a gated MLP of any width, down(act(gate x + b) * (up x + b)) + b, row
// after row. An engine rounds them to its precision.
type MLPWeights struct {
	Width    int
	Gate, Up []float32 // [Width, Hidden]
	Down     []float32 // [Hidden, Width]

	// Biases, nil where there are none.
	GateBias, UpBias []float32 // [Width]
	DownBias         []float32 // [Hidden]
}
