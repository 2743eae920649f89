package engine

import "context"

// Backward is what a Layerwise can do beside running: take the gradient of a loss back
// through the model, layer after layer. The loss is a sum over the positions that the
// targets of a batch ask for. Gradients are float32 and, like streams, of the tokens of
// one node after those of another. In BF16 and F16 the rounding of weights and activations is
// that of running, and is differentiated as if there were none.
type Backward interface {
	Layerwise

	// DivergenceGradient is Divergence, and stores the gradient of the divergences' sum by
	// other in gradient, [batch.Tokens(), Hidden].
	DivergenceGradient(ctx context.Context, batch Batch, stream, other, gradient []float32) ([]float64, error)

	// SampledGradient draws for each position that the targets ask for a token from what
	// the model predicts after stream, and stores the gradient of the sum of these tokens'
	// negative log-probabilities by stream. The second moment of such gradients is the
	// Fisher information of the predictions (Martens, "New insights and perspectives on the
	// natural gradient method", 2020, section 5), which gradients of the text's own tokens are not. The tokens
	// depend on the seed and on the order of positions, on nothing else.
	SampledGradient(ctx context.Context, batch Batch, stream []float32, seed uint64, gradient []float32) error
}

// BackwardLayer is a Layer of a Backward.
type BackwardLayer interface {
	Layer

	// Back replaces the gradient by the residual stream after the layer by the one by the
	// stream before it, which is given. observe, if not nil, sees what passes back through
	// the MLP. After an error the gradient is of no use.
	Back(ctx context.Context, batch Batch, stream, gradient []float32, observe MLPGradientObserver) error
}

// MLPGradientObserver is called with all rows of a batch, in one or several calls. An error
// stops the call and is returned as it is.
type MLPGradientObserver func(MLPGradient) error

// MLPGradient is what goes through the gated MLP of a layer, and the gradients of the
// loss that come back. The slices are valid during the call only. The gradient by a
// matrix is the sum over rows of the gradient by what the matrix produces times what it receives: Gate'
// Input, Up' Input, Output' Activations.
type MLPGradient struct {
	Layer         int
	Rows          []Row
	Hidden, Width int
	Input         []float32 // [len(Rows), Hidden], as in MLP
	Activations   []float32 // [len(Rows), Width]
	Gate, Up      []float32 // [len(Rows), Width], by what gate and up produce, before the activation
	Output        []float32 // [len(Rows), Hidden], by what down produces
}
