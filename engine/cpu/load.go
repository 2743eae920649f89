package cpu

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
	"github.com/coppice-lm/coppice/tensor"
)

// layer is the weights of a decoder layer; a nil norm is left out.
type layer struct {
	attentionIn, attentionOut, mlpIn, mlpOut []float32 // [hidden]
	qNorm, kNorm                             []float32

	qkv            *matrix // queries, keys and values, one below the other
	out            *matrix
	gate, up, down *matrix
}

// load reads and packs all weights.
func (e *Engine) load(ctx context.Context, src engine.Source) error {
	t := e.model
	l := &loader{ctx: ctx, src: src, precision: e.precision, pool: &e.pool, readers: make([]rowReader, e.pool.threads)}
	for i := range l.readers {
		l.readers[i].src = src
	}
	e.embedding = l.vocabulary(t.Embedding, t.Vocab, t.Hidden)
	e.head = e.embedding
	if t.Head != t.Embedding {
		e.head = l.vocabulary(t.Head, t.Vocab, t.Hidden)
	}
	e.finalNorm = l.norm(t.FinalNorm, t.Hidden, t.NormPlusOne)
	e.layers = make([]layer, len(t.Layers))
	queries, keys := t.Heads*t.HeadDim, t.KVHeads*t.HeadDim
	qNorm, kNorm := t.HeadDim, t.HeadDim
	if t.QKNorm == arch.QKNormWhole {
		qNorm, kNorm = queries, keys
	}
	for i := range t.Layers {
		from, to := &t.Layers[i], &e.layers[i]
		to.attentionIn = l.norm(from.AttentionIn, t.Hidden, t.NormPlusOne)
		to.attentionOut = l.norm(from.AttentionOut, t.Hidden, t.NormPlusOne)
		to.mlpIn = l.norm(from.MLPIn, t.Hidden, t.NormPlusOne)
		to.mlpOut = l.norm(from.MLPOut, t.Hidden, t.NormPlusOne)
		to.qNorm = l.norm(from.QNorm, qNorm, t.NormPlusOne)
		to.kNorm = l.norm(from.KNorm, kNorm, t.NormPlusOne)
		to.qkv = l.matrix(t.Hidden, from.Q, from.K, from.V)
		to.out = l.matrix(queries, from.Out)
		to.gate = l.matrix(t.Hidden, from.Gate)
		to.up = l.matrix(t.Hidden, from.Up)
		to.down = l.matrix(from.Width, from.Down)
	}
	e.rounds = l.rounds
	return l.err
}

// loader packs one tensor after another and keeps the first error.
type loader struct {
	ctx       context.Context
	src       engine.Source
	precision engine.Precision
	pool      *pool
	readers   []rowReader // one a thread
	rounds    bool        // some weights are in bfloat16
	err       error
}

// vocabulary packs a matrix [vocab, in] in parts of vocabPart rows.
func (l *loader) vocabulary(name string, vocab, in int) []*matrix {
	var parts []*matrix
	for first := 0; first < vocab; first += vocabPart {
		parts = append(parts, l.matrix(in, arch.Projection{
			Weight: name, FirstRow: first, Rows: min(vocabPart, vocab-first), OfRows: vocab,
		}))
	}
	return parts
}

// matrix packs the parts, each with `in` columns, one below the other.
func (l *loader) matrix(in int, parts ...arch.Projection) *matrix {
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
		l.pack(m, parts)
	}
	return m
}

// format is the type in which the rows of the parts are packed.
func (l *loader) format(parts []arch.Projection) tensor.DType {
	switch l.precision {
	case engine.F32:
		return tensor.F32
	case engine.BF16:
		return tensor.BF16
	}
	stored := tensor.Invalid
	for _, p := range parts {
		info, _ := l.src.Lookup(p.Weight)
		if stored != tensor.Invalid && info.DType != stored {
			return tensor.F32
		}
		stored = info.DType
	}
	switch stored {
	case tensor.BF16, tensor.F16, tensor.Q8_0, tensor.Q4_0, tensor.Q4_1:
		return stored
	}
	return tensor.F32
}

// pack makes the weights of m and fills their panels on all threads.
func (l *loader) pack(m *matrix, parts []arch.Projection) {
	var fill func(p0, p1 int, r *rowReader) error
	switch format := l.format(parts); format {
	case tensor.F32:
		var w *kernel.F32
		w, l.err = kernel.NewF32(m.out, m.in)
		m.weights = f32Weights{w}
		fill = func(p0, p1 int, r *rowReader) error { return w.Pack(p0, p1, r.decode) }
	case tensor.BF16:
		var w *kernel.BF16
		w, l.err = kernel.NewBF16(m.out, m.in)
		m.weights, l.rounds = bf16Weights{w}, true
		fill = func(p0, p1 int, r *rowReader) error { return w.Pack(p0, p1, r.decode) }
	case tensor.F16:
		var w *kernel.F16
		w, l.err = kernel.NewF16(m.out, m.in)
		m.weights = f16Weights{w}
		fill = func(p0, p1 int, r *rowReader) error { return w.Pack(p0, p1, r.halves) }
	default:
		var w *kernel.Quant
		w, l.err = kernel.NewQuant(format, m.out, m.in)
		m.weights = quantWeights{w}
		fill = func(p0, p1 int, r *rowReader) error { return w.Pack(p0, p1, r.bytes) }
	}
	if l.err != nil {
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

// rowReader delivers rows of the parts in ascending order, reading several at a time.
type rowReader struct {
	src   engine.Source
	parts []arch.Projection

	ahead  []byte // rows read but not delivered
	stored []byte
	info   tensor.Info // of the tensor they are of
}

const readAhead = kernel.PanelCols // rows in one read

// next returns a row as it is stored.
func (r *rowReader) next(row int) ([]byte, error) {
	if len(r.ahead) == 0 {
		first, i := row, 0
		for ; first >= r.parts[i].Rows; i++ {
			first -= r.parts[i].Rows
		}
		p := r.parts[i]
		n := min(readAhead, p.Rows-first)
		r.info, _ = r.src.Lookup(p.Weight)
		size := n * int(r.info.RowBytes())
		if cap(r.stored) < size {
			r.stored = make([]byte, size)
		}
		if err := r.src.ReadRows(p.Weight, r.stored[:size], p.FirstRow+first, n); err != nil {
			return nil, err
		}
		r.ahead = r.stored[:size]
	}
	size := int(r.info.RowBytes())
	b := r.ahead[:size]
	r.ahead = r.ahead[size:]
	return b, nil
}

// decode delivers a row as float32.
func (r *rowReader) decode(row int, dst []float32) error {
	b, err := r.next(row)
	if err != nil {
		return err
	}
	if err := tensor.Decode(dst, b, r.info.DType); err != nil {
		return fmt.Errorf("tensor %q: %w", r.info.Name, err)
	}
	return nil
}

// halves delivers a row of F16 as it is.
func (r *rowReader) halves(row int, dst []uint16) error {
	b, err := r.next(row)
	if err != nil {
		return err
	}
	for i := range dst {
		dst[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return nil
}

// bytes delivers a row of blocks as it is.
func (r *rowReader) bytes(row int, dst []byte) error {
	b, err := r.next(row)
	copy(dst, b)
	return err
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
	if l.err != nil {
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
