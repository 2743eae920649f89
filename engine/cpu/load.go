package cpu

import (
	"context"
	"fmt"
	"sync"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
	"github.com/coppice-lm/coppice/tensor"
)

// layer is the weights of a decoder layer; a nil norm is left out. Without attention, qkv
// and out are nil; without MLP, gate, up and down.
type layer struct {
	attentionIn, attentionOut, mlpIn, mlpOut []float32 // [hidden]
	qNorm, kNorm                             []float32

	qkv            []*matrix // queries, keys and values, one below the other; several where formats differ
	out            *matrix
	gate, up, down *matrix
}

// width is the neurons of the MLP: other than the model's where another MLP is run.
func (l *layer) width() int {
	if l.down == nil {
		return 0
	}
	return l.down.in
}

// load reads and packs all weights.
func (e *Engine) load(ctx context.Context, src engine.Source) error {
	l := e.loader(ctx, src)
	err := l.fill(&kernel.Memory{}, e.assemble)
	e.takes = l.takes
	return err
}

// assemble makes everything that is loaded.
func (e *Engine) assemble(l *loader) {
	t := e.model
	e.embedding = l.vocabulary(t.Embedding, t.Vocab, t.Hidden)
	e.head = e.embedding
	if t.Head != t.Embedding {
		e.head = l.vocabulary(t.Head, t.Vocab, t.Hidden)
	}
	e.finalNorm = l.norm(t.FinalNorm, t.Hidden, t.NormPlusOne)
	e.layers = make([]layer, len(t.Layers))
	for i := range e.layers {
		e.layers[i] = e.assembleLayer(l, i)
	}
}

// assembleLayer makes one layer.
func (e *Engine) assembleLayer(l *loader, i int) (to layer) {
	t, from := e.model, &e.model.Layers[i]
	queries, keys := from.Heads*t.HeadDim, from.KVHeads*t.HeadDim
	qNorm, kNorm := t.HeadDim, t.HeadDim
	if t.QKNorm == arch.QKNormWhole {
		qNorm, kNorm = queries, keys
	}
	to.attentionIn = l.norm(from.AttentionIn, t.Hidden, t.NormPlusOne)
	to.attentionOut = l.norm(from.AttentionOut, t.Hidden, t.NormPlusOne)
	to.mlpIn = l.norm(from.MLPIn, t.Hidden, t.NormPlusOne)
	to.mlpOut = l.norm(from.MLPOut, t.Hidden, t.NormPlusOne)
	to.qNorm = l.norm(from.QNorm, qNorm, t.NormPlusOne)
	to.kNorm = l.norm(from.KNorm, kNorm, t.NormPlusOne)
	if from.Heads > 0 {
		to.qkv = l.matrices(t.Hidden, from.Q, from.K, from.V)
		to.out = l.matrix(queries, from.Out)
	}
	if from.Width > 0 {
		to.gate = l.matrix(t.Hidden, from.Gate)
		to.up = l.matrix(t.Hidden, from.Up)
		to.down = l.matrix(from.Width, from.Down)
	}
	return to
}

// loader packs one tensor after another and keeps the first error.
type loader struct {
	ctx       context.Context
	src       engine.Source
	precision engine.Precision
	pool      *pool
	readers   []rowReader // one a thread
	memory    *kernel.Memory
	measuring bool  // nothing is read
	takes     forms // as in Engine
	err       error
}

// loader makes a loader for the engine's model.
func (e *Engine) loader(ctx context.Context, src engine.Source) *loader {
	l := &loader{ctx: ctx, src: src, precision: e.precision, pool: &e.pool, readers: make([]rowReader, e.pool.threads)}
	for i := range l.readers {
		l.readers[i].src = src
	}
	return l
}

// fill calls assemble twice: to check that all is there and to learn how much memory it
// takes, and to fill that.
func (l *loader) fill(memory *kernel.Memory, assemble func(*loader)) error {
	l.memory, l.measuring = memory, true
	memory.Reset()
	assemble(l)
	if l.err == nil {
		l.measuring = false
		memory.Allocate()
		assemble(l)
	}
	return l.err
}

// vocabulary packs a matrix [vocab, in] in parts of vocabPart rows.
func (l *loader) vocabulary(name string, vocab, in int) []*matrix {
	var parts []*matrix
	for first := 0; first < vocab; first += vocabPart {
		p := arch.Projection{Weight: name, FirstRow: first, Rows: min(vocabPart, vocab-first), OfRows: vocab}
		parts = append(parts, l.packed(l.vocabularyFormat(in, p), in, p))
	}
	return parts
}

// matrix packs a matrix of `in` columns.
func (l *loader) matrix(in int, p arch.Projection) *matrix { return l.packed(l.format(in, p), in, p) }

// matrices packs the parts, each with `in` columns, one below the other: in one matrix, or
// in several where the format changes from one part to the next.
func (l *loader) matrices(in int, parts ...arch.Projection) (runs []*matrix) {
	for len(parts) > 0 {
		format, n := l.format(in, parts[0]), 1
		for n < len(parts) && l.format(in, parts[n]) == format {
			n++
		}
		runs = append(runs, l.packed(format, in, parts[:n]...))
		parts = parts[n:]
	}
	return runs
}

// packed packs the parts, one below the other, in the given format.
func (l *loader) packed(format tensor.DType, in int, parts ...arch.Projection) *matrix {
	m := &matrix{in: in}
	biased := false
	for _, p := range parts {
		l.check(p.Weight, tensor.Shape{p.OfRows, in})
		m.out += p.Rows
		biased = biased || p.Bias != ""
	}
	if l.err != nil {
		return m
	}
	if biased {
		for _, p := range parts {
			bias := make([]float32, p.Rows)
			if p.Bias != "" {
				copy(bias, l.vector(p.Bias, p.Rows))
			}
			m.bias = append(m.bias, bias...)
		}
	}
	if l.err == nil {
		l.pack(m, format, parts)
	}
	return m
}

// pack makes the weights of m and fills their panels on all threads.
func (l *loader) pack(m *matrix, format tensor.DType, parts []arch.Projection) {
	var fill func(p0, p1 int, r *rowReader) error
	switch format {
	case tensor.F32:
		var w *kernel.F32
		w, l.err = kernel.NewF32(l.memory, m.out, m.in)
		m.weights = f32Weights{w}
		fill = func(p0, p1 int, r *rowReader) error { return w.Pack(p0, p1, r.decode) }
	case tensor.BF16:
		var w *kernel.BF16
		w, l.err = kernel.NewBF16(l.memory, m.out, m.in)
		m.weights, l.takes.bf16 = bf16Weights{w}, true
		fill = func(p0, p1 int, r *rowReader) error { return w.Pack(p0, p1, r.decode) }
	case tensor.F16:
		var w *kernel.F16
		w, l.err = kernel.NewF16(l.memory, m.out, m.in)
		m.weights = f16Weights{w}
		fill = func(p0, p1 int, r *rowReader) error { return w.Pack(p0, p1, r.halves) }
	case tensor.Q8_0, tensor.Q4_0, tensor.Q4_1:
		var w *kernel.Quant
		w, l.err = kernel.NewQuant(l.memory, format, m.out, m.in)
		m.weights, l.takes.blocks = quantWeights{w}, true
		fill = func(p0, p1 int, r *rowReader) error {
			return w.Pack(p0, p1, func(o int, dst []byte) error { return r.blocks(o, dst, format) })
		}
	default: // blocks without a product of their own
		var w *kernel.F32
		w, l.err = kernel.NewF32(l.memory, m.out, m.in)
		if format.BlockSize() == kernel.BlockSize {
			m.weights, l.takes.by32 = by32Weights{w}, true
		} else {
			m.weights, l.takes.by256 = by256Weights{w}, true
		}
		fill = func(p0, p1 int, r *rowReader) error { return w.Pack(p0, p1, r.decode) }
	}
	if l.err != nil || l.measuring {
		return
	}
	const unit = 4 // panels
	n := m.Panels()
	var once sync.Once
	l.pool.run((n+unit-1)/unit, func(worker, i int) {
		r := &l.readers[worker]
		r.parts, r.ahead = parts, nil
		err := l.ctx.Err()
		if err == nil {
			err = fill(i*unit, min((i+1)*unit, n), r)
		}
		if err != nil {
			once.Do(func() { l.err = err })
		}
	})
}

// norm reads a norm's weights, nil for the empty name.
func (l *loader) norm(name string, n int, plusOne bool) []float32 {
	if name == "" {
		return nil
	}
	w := l.vector(name, n)
	if plusOne {
		for i := range w {
			w[i]++
		}
	}
	return w
}

// vector reads a tensor of one dimension.
func (l *loader) vector(name string, n int) []float32 {
	w := make([]float32, n)
	l.check(name, tensor.Shape{n})
	if l.err != nil || l.measuring {
		return w
	}
	info, _ := l.src.Lookup(name)
	size, err := info.Bytes()
	if err == nil {
		stored := make([]byte, size)
		if err = l.src.ReadRows(name, stored, 0, n); err == nil {
			err = tensor.Decode(w, stored, info.DType)
		}
	}
	if err != nil {
		l.err = fmt.Errorf("tensor %q: %w", name, err)
	}
	return w
}

// check reports a tensor that is missing or has another shape.
func (l *loader) check(name string, want tensor.Shape) {
	if l.err != nil {
		return
	}
	info, ok := l.src.Lookup(name)
	if !ok {
		l.err = fmt.Errorf("the checkpoint has no tensor %q, which the model needs", name)
	} else if !info.Shape.Equal(want) {
		l.err = fmt.Errorf("tensor %q has the shape %v, the model needs %v", name, info.Shape, want)
	}
}
