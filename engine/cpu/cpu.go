// Package cpu is the default engine: a decoder's forward pass on the processor, with
// the kernels of package kernel.
//
// # How a batch runs
//
// A batch is laid out as rows, one a token of the tree, nodes one after another. All
// but attention treats rows alike, so each step is one matrix product or one pass over
// rows for the whole batch: norm, product with Q, K and V, rotation, attention,
// product, residual, norm, gated MLP, residual. Attention looks up the keys of a node's
// sequence where its ancestors' rows are. Logits are computed for wanted positions
// only, a block of rows and a block of the vocabulary at a time, and reduced at once to
// a maximum and a log-sum-exp; the logits of all positions never exist together.
//
// # Why the bits do not change
//
// No sum crosses from one row to another but attention's, and that runs over blocks of
// keys on a grid that starts at position 0 of the sequence, wherever its rows are. So
// neither the batch around a sequence, nor shared prefixes, nor the way in which
// threads divide a step has any effect on a result.
//
// # Memory
//
// Weights are read row by row from the checkpoint and packed for the kernels; the
// checkpoint's bytes are not kept. A tied embedding is held once, in the packed form.
// A Layerwise runs the same code with the weights of one layer, which it reads when it
// is asked for the layer; the embeddings of a batch's tokens are read for the batch.
package cpu

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
)

// Options says how to run a model. The zero value is float32, all processors, and the
// model's own longest sequence.
type Options struct {
	Precision engine.Precision
	Threads   int // 0: as many as there are processors
	// MaxLength is the longest sequence accepted, in tokens; 0: max_position_embeddings.
	// A larger number asks for a context for which the model was not made.
	MaxLength int
}

// Engine is a model in memory. It implements engine.Engine.
type Engine struct {
	model     *arch.Transformer
	precision engine.Precision
	maxLength int

	takes forms // of activations

	embedding []*matrix // [Vocab, Hidden] in parts of vocabPart tokens; also the head where tied
	head      []*matrix
	finalNorm []float32
	layers    []layer

	pool pool

	mu    sync.Mutex // held while a call runs: each uses all threads and the buffers below
	ws    workspace
	ropes ropeTables
}

// begin takes the engine for one call; end gives it back.
func (e *Engine) begin() (end func()) {
	e.mu.Lock()
	stop := e.pool.start()
	return func() {
		stop()
		e.mu.Unlock()
	}
}

var _ engine.Engine = (*Engine)(nil)

// maxHeadDim is the widest head that kernel.Attention takes.
const maxHeadDim = 256

// New reads and packs the weights of model from src. A tensor that is missing or has
// another shape than the model says is an error that names it.
func New(ctx context.Context, model *arch.Transformer, src engine.Source, opt Options) (*Engine, error) {
	e, err := prepare(model, opt)
	if err != nil {
		return nil, err
	}
	stop := e.pool.start()
	err = e.load(ctx, src)
	stop()
	if err != nil {
		return nil, err
	}
	return e, nil
}

// prepare makes an engine without weights.
func prepare(model *arch.Transformer, opt Options) (*Engine, error) {
	if opt.Threads < 0 || opt.MaxLength < 0 {
		return nil, fmt.Errorf("%d threads, %d tokens: expected positive numbers, or 0 for the default", opt.Threads, opt.MaxLength)
	}
	if model.HeadDim > maxHeadDim {
		return nil, fmt.Errorf("heads of %d values are not supported by this engine: head_dim is at most %d", model.HeadDim, maxHeadDim)
	}
	e := &Engine{model: model, precision: opt.Precision, maxLength: opt.MaxLength, pool: pool{threads: opt.Threads}}
	if e.pool.threads == 0 {
		e.pool.threads = runtime.GOMAXPROCS(0)
	}
	if e.maxLength == 0 {
		e.maxLength = model.MaxPositions
	}
	e.ropes.model = model
	return e, nil
}

// accepts is an error unless the engine can run the batch.
func (e *Engine) accepts(batch engine.Batch) error {
	if err := batch.Validate(e.model.Vocab); err != nil {
		return err
	}
	for i, n := range batch.Lengths() {
		if n > e.maxLength {
			return &engine.LengthError{Node: i, Length: n, Max: e.maxLength}
		}
	}
	return nil
}

// Model implements engine.Engine.
func (e *Engine) Model() *arch.Transformer { return e.model }
