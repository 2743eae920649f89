// Package engine says what a running model can do, without saying how: score token
// sequences, be observed while it does, and decode one token after another with a
// cache; and, for models that are larger than memory or change while they are looked at,
// run one layer at a time over many tokens (Layerwise) and take the gradient of a loss back
// over its layers (Backward).
//
// The contract is coarse on purpose. An engine takes a whole batch, a tree of token
// sequences with the predictions wanted of them, and answers with log-probabilities. It
// never hands out tensors or single operations, because an engine on another device
// wants whole graphs. What it does promise:
//
//   - Scoring a sequence gives the same bits whatever else is in the batch, in whatever
//     order, with its prefix shared or not, and at any number of threads.
//   - Running layer after layer (Layerwise) gives the same bits as running the whole model.
//   - Decoding through a Cache may use other kernels; its logits are within 1e-4 of those
//     of scoring. What other sequences are decoded in the same pass changes no bit.
//   - F32 is the precision of record. BF16 rounds weights, and activations where they
//     enter a matrix product (attention's included), to bfloat16; sums, norms, softmax
//     and the residual stream stay in float32. The other precisions say what they round.
//
// Package enginetest holds the suite that every engine must pass.
package engine

import (
	"context"
	"fmt"
	"strings"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/tensor"
)

// Engine is a model that is loaded and can run. Its methods may be called from several
// goroutines; each call uses all of the engine's threads, so calls gain nothing from
// running side by side.
type Engine interface {
	// Model is the computation that the engine runs. It must not be changed.
	Model() *arch.Transformer

	// Score answers every Target of the batch; result[i][j] belongs to
	// batch.Nodes[i].Targets[j]. observe, if not nil, sees every MLP as it runs.
	//
	// A batch that Validate refuses is an error, and so is a sequence beyond the longest
	// that the engine accepts (a *LengthError), and a logit that is not a number (a
	// *NonFiniteError). When ctx ends, Score returns its error soon.
	Score(ctx context.Context, batch Batch, observe MLPObserver) ([][]Score, error)

	// NewCache returns an empty cache. It may be used beside others, but not by two
	// goroutines at a time.
	NewCache() Cache

	// Decode takes a step with each of several caches, all in one pass, so that the
	// weights are read once for all of them. Each step gives the bits that its cache's
	// Append gives. Errors are those of Score, with the step's index as the node; a cache
	// that is not this engine's, or is in two steps, is one too. After an error all caches
	// hold what they held before.
	Decode(ctx context.Context, steps []Step) error
}

// Step is what Decode does with one sequence.
type Step struct {
	Cache  Cache
	Tokens []int32   // to run after those that are cached, at least one
	Logits []float32 // [Vocab]; receives the logits of the token that follows the last
}

// Cache holds what a model remembers of one sequence while it is being decoded.
type Cache interface {
	// Append is Decode with this cache alone: it runs the tokens after those that are
	// cached and stores the logits of the token that follows the last of them in logits.
	Append(ctx context.Context, tokens []int32, logits []float32) error

	// Tokens returns the cached sequence. It must not be changed.
	Tokens() []int32

	// Truncate forgets all but the first n tokens; n is at most the number cached.
	Truncate(n int)
}

// Score is the answer to a Target.
type Score struct {
	// LogProb is the natural logarithm of the token's probability: its logit less the
	// log-sum-exp of the logits of the whole vocabulary.
	LogProb float32
	// Greedy is true where no logit is larger than the token's and none with a lower id
	// is equal to it.
	Greedy bool
}

// MLPObserver is called with the rows of one layer's MLP as they are computed: in the
// order of layers, a layer in one or several calls, each row of the batch in exactly
// one of them; layers without MLP are left out. An error stops the call and is returned as it is.
type MLPObserver func(MLP) error

// MLP is what passes through the gated MLP of a layer. The slices are valid during the
// call only. In BF16 they hold the values before rounding.
type MLP struct {
	Layer         int
	Rows          []Row
	Hidden, Width int
	Input         []float32 // [len(Rows), Hidden], normalised, as gate and up receive it
	Activations   []float32 // [len(Rows), Width], act(gate) * up, as down receives it
	Output        []float32 // [len(Rows), Hidden], of down, before any norm or scale
	Residual      []float32 // [len(Rows), Hidden], the residual stream that the output is added to
	Heads         []float32 // [len(Rows), Heads*HeadDim], of the layer's attention, if it has one, as its output projection received them
}

// Row says which token of a batch a row of values belongs to.
type Row struct {
	Node     int // index into Batch.Nodes
	Index    int // of the token in the node
	Position int // of the token in its sequence, from 0
}

// Source gives the weights of a model by the names of a Hugging Face checkpoint, and a
// checkpoint.Checkpoint is one. Reads may come from several goroutines.
type Source interface {
	// Lookup returns type and shape of a tensor, and whether there is one.
	Lookup(name string) (tensor.Info, bool)
	// ReadRows stores rows first to first+n-1 of a tensor in dst as they are stored.
	ReadRows(name string, dst []byte, first, n int) error
}

// Precision is the number format of weights and matrix products. All else, norms and
// biases among it, is float32.
type Precision uint8

// The precisions. F32 is the mode of record.
const (
	F32  Precision = iota
	BF16           // weights, and activations where they enter a product, rounded to bfloat16
	F16            // weights rounded to half precision; a weight beyond it is an error
	// Weights rounded to GGUF's blocks of 32 (tensor.Quantise), or taken as they are where
	// the file has them in that type; activations rounded to blocks of 8 bits where they
	// enter a product. Embedding and head are in Q8_0 also with the 4-bit types (as
	// llama.cpp's quantiser keeps them in more bits), unless the file has them in 4 bits.
	// A matrix whose rows are no whole number of blocks is in F16.
	Q8_0
	Q4_0
	Q4_1
	// Weights in the type of the file. What is multiplied with blocks is rounded to 8 bits
	// in blocks of the same size, 32 or (K types) 256, as llama.cpp's processor backend does;
	// blocks that the engine has no product for are decoded to float32. Types that are
	// neither blocks nor 16 bits wide are F32.
	Stored
)

var precisionNames = [...]string{"f32", "bf16", "f16", "q8_0", "q4_0", "q4_1", "stored"}

// Precisions lists all.
func Precisions() []Precision { return []Precision{F32, BF16, F16, Q8_0, Q4_0, Q4_1, Stored} }

// String is the name that ParsePrecision reads.
func (p Precision) String() string { return precisionNames[p] }

// ParsePrecision reads the name of a precision.
func ParsePrecision(s string) (Precision, error) {
	var names []string
	for _, p := range Precisions() {
		if p.String() == s {
			return p, nil
		}
		names = append(names, p.String())
	}
	return 0, fmt.Errorf("unknown precision %q (known: %s)", s, strings.Join(names, ", "))
}
