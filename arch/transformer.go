package arch

import "fmt"

// Transformer is the computation of a decoder, as data: what an engine needs to know
// besides the weights. A family's peculiarities are values here, never code in an
// engine. All families compute, for the hidden state x of a token (Hidden values),
//
//	x = EmbeddingScale * embedding
//	for each layer:
//	    x += ResidualScale * norm(AttentionOut, attention(norm(AttentionIn, x)))   unless it has no heads
//	    x += ResidualScale * norm(MLPOut, mlp(norm(MLPIn, x)))                     unless its width is 0
//	logits = cap(LogitCap, LogitScale * head(norm(FinalNorm, x)))
//
// where a norm whose name is empty is left out, mlp(x) = down(act(gate(x)) * up(x)), and
// cap(c, z) = c*tanh(z/c), or z where c is 0.
type Transformer struct {
	Hidden       int
	Vocab        int
	MaxPositions int // longest sequence the model was made for, in tokens

	Heads   int // the most query heads of any layer
	KVHeads int // the most key-value heads
	HeadDim int

	Activation  Activation
	NormEpsilon float32 // added to the mean square
	NormPlusOne bool    // norms multiply by 1 + weight (gemma)
	QKNorm      QKNorm

	EmbeddingScale float32
	AttentionScale float32 // multiplies q.k
	ResidualScale  float32
	LogitScale     float32
	AttentionCap   float32 // of the scaled q.k; 0: none
	LogitCap       float32 // 0: none

	Embedding string // tensor [Vocab, Hidden]
	FinalNorm string // tensor [Hidden]
	Head      string // tensor [Vocab, Hidden]; equal to Embedding where tied

	Layers []Layer
	Ropes  []Rope // the rotary embeddings that layers refer to
}

// Layer is what may differ from layer to layer, and the names of the layer's tensors.
// An empty name means that the layer has no such tensor.
type Layer struct {
	Heads   int `json:",omitempty"` // query heads, a multiple of KVHeads; 0: the layer has no attention
	KVHeads int `json:",omitempty"`
	Width   int // neurons of the MLP; 0: the layer has none
	Window  int // a token sees this many tokens, itself included; 0: all before it
	Rope    int // index into Ropes; -1: no positional encoding in this layer (NoPE)

	AttentionIn, AttentionOut, MLPIn, MLPOut string // norms, [Hidden]
	QNorm, KNorm                             string // [HeadDim], or all heads (QKNormWhole)

	Q, K, V, Out   Projection
	Gate, Up, Down Projection
}

// Projection says where a matrix [out, in] is stored: in Rows rows of the tensor Weight
// from FirstRow on, all of its rows but in fused tensors, which have OfRows; the bias
// [out] is the tensor Bias.
type Projection struct {
	Weight                 string
	FirstRow, Rows, OfRows int
	Bias                   string
}

// QKNorm says whether queries and keys are normalised before they are rotated.
type QKNorm uint8

// No norm; one over each head (qwen3, gemma3); one over all heads together (olmo2).
const (
	NoQKNorm QKNorm = iota
	QKNormPerHead
	QKNormWhole
)

// Activation is the function of the gated MLP.
type Activation uint8

// The activations that the families use.
const (
	SiLU     Activation = iota // x * sigmoid(x)
	GELUTanh                   // GELU in its tanh approximation
	GELUErf                    // GELU by the error function
)

// parseActivation reads the value of hidden_act or hidden_activation.
func parseActivation(name string) (Activation, error) {
	switch name {
	case "silu", "swish":
		return SiLU, nil
	case "gelu_pytorch_tanh", "gelu_new", "gelu_fast":
		return GELUTanh, nil
	case "gelu":
		return GELUErf, nil
	}
	return 0, fmt.Errorf("unknown activation %q (known: silu, swish, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh)", name)
}

// String is the activation's name in a config.
func (a Activation) String() string {
	return [...]string{"silu", "gelu_pytorch_tanh", "gelu"}[a]
}

// Regime tells sequences apart that are rotated differently because of their lengths
// (dynamic and longrope scaling): what was computed for a prefix serves another
// sequence only where the regimes are equal.
func (t *Transformer) Regime(length int) int {
	regime := 0
	for i := range t.Ropes {
		regime = max(regime, t.Ropes[i].Regime(length))
	}
	return regime
}
