package cpu

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
	"github.com/coppice-lm/coppice/tensor"
)

// Layerwise is a model whose weights stay where they are but for one layer's. It
// implements engine.Layerwise.
type Layerwise struct {
	e   *Engine // without embedding, head and layers
	src engine.Source

	// The memory of a layer, of one with another MLP or output projection, and of the
	// embeddings of a batch: kept, so that no layer's weights wait for the garbage collector
	// beside the next one's.
	layerMemory, mlpMemory, outMemory, embeddingMemory, headMemory, backMemory kernel.Memory

	headBack []*matrix   // the head's parts transposed, once a gradient was asked for
	buffers  backBuffers // of Back
}

var _ engine.Layerwise = (*Layerwise)(nil)

// NewLayerwise checks that src has all weights of a model, and reads none. src must stay
// open while the result is used.
func NewLayerwise(ctx context.Context, model *arch.Transformer, src engine.Source, opt Options) (*Layerwise, error) {
	e, err := prepare(model, opt)
	if err != nil {
		return nil, err
	}
	l := e.loader(ctx, src)
	l.memory, l.measuring = &kernel.Memory{}, true
	e.assemble(l)
	e.takes = l.takes
	if l.err != nil {
		return nil, l.err
	}
	e.embedding, e.head, e.finalNorm, e.layers = nil, nil, nil, nil // measured, not read
	return &Layerwise{e: e, src: src}, nil
}

// Model implements engine.Layerwise.
func (w *Layerwise) Model() *arch.Transformer { return w.e.model }

// fits is an error unless the batch can be run, and the stream is that of its tokens.
func (w *Layerwise) fits(batch engine.Batch, stream []float32) error {
	if err := w.e.accepts(batch); err != nil {
		return err
	}
	if want := batch.Tokens() * w.e.model.Hidden; len(stream) != want {
		return fmt.Errorf("a residual stream of %d values for %d tokens: expected %d", len(stream), batch.Tokens(), want)
	}
	return nil
}

// Embed implements engine.Layerwise.
func (w *Layerwise) Embed(ctx context.Context, batch engine.Batch, stream []float32) error {
	if err := w.fits(batch, stream); err != nil {
		return err
	}
	e, t := w.e, w.e.model
	defer e.begin()()
	tokens := make([]int32, 0, batch.Tokens())
	for _, n := range batch.Nodes {
		tokens = append(tokens, n.Tokens...)
	}
	// The embedding is packed as the whole one would be, but of these tokens alone.
	distinct := slices.Clone(tokens)
	slices.Sort(distinct)
	distinct = slices.Compact(distinct)
	if len(distinct) == 0 {
		return ctx.Err()
	}
	rows := make([]arch.Projection, len(distinct))
	for i, token := range distinct {
		rows[i] = arch.Projection{Weight: t.Embedding, FirstRow: int(token), Rows: 1, OfRows: t.Vocab}
	}
	var m *matrix
	err := e.loader(ctx, w.src).fill(&w.embeddingMemory, func(l *loader) {
		m = l.packed(l.vocabularyFormat(t.Hidden, rows[0]), t.Hidden, rows...)
	})
	if err != nil {
		return err
	}
	e.pool.rows(len(tokens), rowTile, func(_, r0, r1 int) {
		for r := r0; r < r1; r++ {
			row, _ := slices.BinarySearch(distinct, tokens[r])
			e.embed(stream[r*t.Hidden:(r+1)*t.Hidden], m, row)
		}
	})
	return nil
}

// Layer implements engine.Layerwise.
func (w *Layerwise) Layer(ctx context.Context, index int) (engine.Layer, error) {
	if index < 0 || index >= len(w.e.model.Layers) {
		return nil, fmt.Errorf("no layer %d of %d", index, len(w.e.model.Layers))
	}
	defer w.e.begin()()
	one := &oneLayer{w: w, index: index}
	err := w.e.loader(ctx, w.src).fill(&w.layerMemory, func(l *loader) { one.weights = w.e.assembleLayer(l, index) })
	if err != nil {
		return nil, err
	}
	return one, nil
}

// loadHead loads the head and the norm before it, unless they are.
func (w *Layerwise) loadHead(ctx context.Context) error {
	e, t := w.e, w.e.model
	if e.head != nil {
		return nil
	}
	err := e.loader(ctx, w.src).fill(&w.headMemory, func(l *loader) {
		e.head = l.vocabulary(t.Head, t.Vocab, t.Hidden)
		e.finalNorm = l.norm(t.FinalNorm, t.Hidden, t.NormPlusOne)
	})
	if err != nil {
		e.head = nil
	}
	return err
}

// headError says that the logits of a row are not numbers.
func (w *Layerwise) headError(row engine.Row) error {
	layers := len(w.e.model.Layers)
	return &engine.NonFiniteError{Node: row.Node, Index: row.Index, Layer: layers, Layers: layers}
}

// Score implements engine.Layerwise.
func (w *Layerwise) Score(ctx context.Context, batch engine.Batch, stream []float32) ([][]engine.Score, error) {
	if err := w.fits(batch, stream); err != nil {
		return nil, err
	}
	layout := lay(batch, w.e.model.Regime)
	scores, wanted := wantedOf(batch, &layout)
	if len(wanted) == 0 {
		return scores, ctx.Err()
	}
	e := w.e
	defer e.begin()()
	if err := w.loadHead(ctx); err != nil {
		return nil, err
	}
	rows := make([]int, len(wanted))
	for i := range wanted {
		rows[i] = wanted[i].row
	}
	e.ws.x = stream
	defer func() { e.ws.x = nil }()
	if err := e.reduce(ctx, wanted, rows); err != nil {
		return nil, err
	}
	for i := range wanted {
		if !wanted[i].answer() {
			return nil, w.headError(layout.rows[wanted[i].row])
		}
	}
	return scores, nil
}

// oneLayer implements engine.Layer.
type oneLayer struct {
	w       *Layerwise
	index   int
	weights layer
	back    *layerBack // once Back was called
}

// Run implements engine.Layer.
func (o *oneLayer) Run(ctx context.Context, batch engine.Batch, stream []float32, observe engine.MLPObserver) error {
	if err := o.w.fits(batch, stream); err != nil {
		return err
	}
	if len(stream) == 0 {
		return ctx.Err()
	}
	e := o.w.e
	defer e.begin()()
	e.ws.x = stream
	defer func() { e.ws.x = nil }()
	p := &pass{e: e, ctx: ctx, layout: lay(batch, e.model.Regime), observe: observe, one: &o.weights}
	return p.together([]int{o.weights.width()}, func(q *pass) {
		if !q.stopped(-1) {
			q.layer(o.index)
		}
	})
}

// WithMLP implements engine.Layer.
func (o *oneLayer) WithMLP(ctx context.Context, mlp engine.MLPWeights) (engine.Layer, error) {
	src, err := mlpGiven(mlp, o.w.e.model.Hidden)
	if err == nil && o.weights.down == nil {
		err = errors.New("has no MLP that another could replace")
	}
	if err != nil {
		return nil, fmt.Errorf("layer %d: %w", o.index, err)
	}
	e := o.w.e
	defer e.begin()()
	other := &oneLayer{w: o.w, index: o.index, weights: o.weights}
	err = e.loader(ctx, src).fill(&o.w.mlpMemory, func(l *loader) {
		to := &other.weights
		to.gate = l.matrix(e.model.Hidden, src.projection("gate"))
		to.up = l.matrix(e.model.Hidden, src.projection("up"))
		to.down = l.matrix(mlp.Width, src.projection("down"))
	})
	if err != nil {
		return nil, fmt.Errorf("layer %d: %w", o.index, err)
	}
	return other, nil
}

// WithAttentionOut implements engine.Layer.
func (o *oneLayer) WithAttentionOut(ctx context.Context, weights []float32) (engine.Layer, error) {
	e, from := o.w.e, o.weights.out
	if from == nil {
		return nil, fmt.Errorf("layer %d: has no attention whose output projection could be replaced", o.index)
	}
	if len(weights) != from.out*from.in {
		return nil, fmt.Errorf("layer %d: an output projection of %d values: expected %d x %d", o.index, len(weights), from.out, from.in)
	}
	src := givenWeights{"out": {tensor.Shape{from.out, from.in}, weights}}
	defer e.begin()()
	other := &oneLayer{w: o.w, index: o.index, weights: o.weights}
	err := e.loader(ctx, src).fill(&o.w.outMemory, func(l *loader) { other.weights.out = l.matrix(from.in, src.projection("out")) })
	if err != nil {
		return nil, fmt.Errorf("layer %d: %w", o.index, err)
	}
	other.weights.out.bias = from.bias
	return other, nil
}

// givenWeights are weights that a caller gives: matrices by name, and their biases as
// name.bias.
type givenWeights map[string]givenTensor

type givenTensor struct {
	shape  tensor.Shape
	values []float32
}

func mlpGiven(m engine.MLPWeights, hidden int) (givenWeights, error) {
	s := givenWeights{
		"gate": {tensor.Shape{m.Width, hidden}, m.Gate}, "gate.bias": {tensor.Shape{m.Width}, m.GateBias},
		"up": {tensor.Shape{m.Width, hidden}, m.Up}, "up.bias": {tensor.Shape{m.Width}, m.UpBias},
		"down": {tensor.Shape{hidden, m.Width}, m.Down}, "down.bias": {tensor.Shape{hidden}, m.DownBias},
	}
	if m.Width < 1 {
		return nil, fmt.Errorf("an MLP of width %d: expected at least one neuron", m.Width)
	}
	for name, t := range s {
		if len(t.shape) == 1 && t.values == nil {
			delete(s, name)
			continue
		}
		want, err := t.shape.Elements()
		if err != nil || int64(len(t.values)) != want {
			return nil, fmt.Errorf("an MLP of width %d whose %s has %d values: expected %v", m.Width, name, len(t.values), []int(t.shape))
		}
	}
	return s, nil
}

// projection is where a matrix of the MLP is.
func (s givenWeights) projection(name string) arch.Projection {
	n := s[name].shape[0]
	p := arch.Projection{Weight: name, Rows: n, OfRows: n}
	if _, biased := s[name+".bias"]; biased {
		p.Bias = name + ".bias"
	}
	return p
}

// Lookup implements engine.Source.
func (s givenWeights) Lookup(name string) (tensor.Info, bool) {
	t, ok := s[name]
	return tensor.Info{Name: name, DType: tensor.F32, Shape: t.shape}, ok
}

// ReadRows implements engine.Source.
func (s givenWeights) ReadRows(name string, dst []byte, first, n int) error {
	size := len(s[name].values) / s[name].shape[0]
	return tensor.Encode(dst, s[name].values[first*size:(first+n)*size], tensor.F32)
}
