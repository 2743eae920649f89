package export

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/internal/parallel"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/tensor"
)

// RunOptions are what Run can be told.
type RunOptions struct {
	Threads  int               // goroutines that convert; at least 1
	Progress func(bytes int64) // called with the bytes written since the last call; may be nil
}

// chunkBytes is about how much is read and made at a time: enough for sequential disk
// speed, little enough that a few of them are nothing.
const chunkBytes = 512 << 10

// chunk is a stretch of rows of one tensor.
type chunk struct {
	step   *step
	row, n int
}

// chunks cuts the program into pieces, in the order of the output. Pieces of an
// interleaved tensor are whole heads.
func (p *Program) chunks() []chunk {
	var all []chunk
	for i := range p.steps {
		s := &p.steps[i]
		rows := max(1, int(chunkBytes/max(1, s.out.RowBytes(), s.in.RowBytes())))
		if s.headDim > 0 {
			rows = max(s.headDim, rows/s.headDim*s.headDim)
		}
		if s.values != nil {
			rows = s.out.Rows()
		}
		for r := 0; r < s.out.Rows(); r += rows {
			all = append(all, chunk{s, r, min(rows, s.out.Rows()-r)})
		}
	}
	return all
}

// Run writes the files: headers first, then the data in one pass. On an error or a
// cancelled context nothing is published, and the caller aborts the sink.
func (p *Program) Run(ctx context.Context, sink *checkpoint.FileSink, opt RunOptions) error {
	importance, err := p.importance()
	if err != nil {
		return err
	}
	for i, part := range p.Layout.Parts {
		if err := sink.WriteAt(i, part.Header, 0); err != nil {
			return err
		}
		// The padding after a tensor reads as zero where nothing is written; that of the last
		// must be made.
		if n := len(part.Tensors); n > 0 {
			end := part.Tensors[n-1].End
			if err := sink.WriteAt(i, make([]byte, part.Size-end), end); err != nil {
				return err
			}
		}
	}
	chunks := p.chunks()
	newMaker := func() *maker { return &maker{from: p.from, importance: importance} }
	err = parallel.Stream(ctx, opt.Threads, len(chunks), newMaker, func(m *maker, i int) ([]byte, error) {
		return m.make(chunks[i])
	}, func(i int, b []byte) error {
		k := chunks[i]
		err := sink.WriteAt(k.step.part, b, k.step.begin+int64(k.row)*k.step.out.RowBytes())
		if err == nil && opt.Progress != nil {
			opt.Progress(int64(len(b)))
		}
		return err
	})
	if err != nil {
		return err
	}
	return sink.Commit()
}

// importance is what the errors of each layer's down projection are weighed by, one number
// a column: the mean square of its input over all tokens, at a mean of 1. A neuron that
// the text never woke keeps a thousandth, since other texts may. Nil without statistics.
func (p *Program) importance() ([][]float32, error) {
	if p.stats == nil {
		return nil, nil
	}
	const floor = 1e-3
	all := make([][]float32, p.from.Spec.Layers)
	for l := range all {
		moments, err := p.stats.SecondMoments(l, score.DefaultCap)
		if err != nil {
			return nil, err
		}
		mean := 0.0
		for _, x := range moments {
			mean += x / float64(len(moments))
		}
		all[l] = make([]float32, len(moments))
		for i, x := range moments {
			all[l][i] = floor
			if mean > 0 {
				all[l][i] = float32(max(floor, x/mean))
			}
		}
	}
	return all, nil
}

// maker makes chunks; it holds the buffers of one goroutine.
type maker struct {
	from         *checkpoint.Checkpoint
	importance   [][]float32
	in, mid, out []byte
	floats       []float32
}

func grow[T any](b []T, n int) []T { return slices.Grow(b[:0], n)[:n] }

// make returns the bytes of a chunk, valid until the next call.
func (m *maker) make(k chunk) ([]byte, error) {
	s := k.step
	size := int(int64(k.n) * s.out.RowBytes())
	if s.values != nil {
		m.out = grow(m.out, size)
		return m.out, tensor.Encode(m.out, s.values, s.out.DType)
	}
	m.in = grow(m.in, int(int64(k.n)*s.in.RowBytes()))
	if err := m.from.ReadRows(s.in.Name, m.in, k.row, k.n); err != nil {
		return nil, err
	}
	b := m.in
	if s.headDim > 0 {
		m.mid = grow(m.mid, len(b))
		interleave(m.mid, b, s.headDim, k.n)
		b = m.mid
	}
	if s.out.DType.IsBlock() {
		return m.quantise(k, b, size)
	}
	d := s.in.DType
	if s.plusOne {
		m.floats = grow(m.floats, k.n*s.in.RowElements())
		if err := tensor.Decode(m.floats, b, d); err != nil {
			return nil, m.explain(s, err)
		}
		for i := range m.floats {
			m.floats[i]++
		}
		m.mid, d = grow(m.mid, 4*len(m.floats)), tensor.F32
		if err := tensor.Encode(m.mid, m.floats, d); err != nil {
			return nil, m.explain(s, err)
		}
		b = m.mid
	}
	if d != s.out.DType {
		m.out = grow(m.out, size)
		if err := tensor.Convert(m.out, s.out.DType, b, d); err != nil {
			return nil, m.explain(s, err)
		}
		b = m.out
	}
	if !tensor.AllFinite(b, s.out.DType) {
		return nil, m.nonFinite(k, b)
	}
	return b, nil
}

// quantise rounds the rows of a chunk to blocks.
func (m *maker) quantise(k chunk, b []byte, size int) ([]byte, error) {
	s := k.step
	if s.in.DType == s.out.DType {
		return b, nil
	}
	n := s.in.RowElements()
	m.floats, m.out = grow(m.floats, n), grow(m.out, size)
	var w []float32
	if s.layer >= 0 {
		w = m.importance[s.layer]
	}
	in, out := int(s.in.RowBytes()), int(s.out.RowBytes())
	for r := range k.n {
		row := b[r*in:][:in]
		if s.in.DType.IsFloat() && !tensor.AllFinite(row, s.in.DType) {
			return nil, m.nonFinite(k, b)
		}
		err := tensor.Decode(m.floats, row, s.in.DType)
		if err == nil && slices.ContainsFunc(m.floats, func(x float32) bool { return x-x != 0 }) { // a step that is no number
			err = errors.New("a block has values that are not finite; the input is damaged")
		}
		if err == nil {
			err = tensor.QuantiseWeighted(m.out[r*out:][:out], m.floats, w, s.out.DType)
		}
		if err != nil {
			return nil, m.explain(s, fmt.Errorf("row %d: %w", k.row+r, err))
		}
	}
	return m.out, nil
}

// nonFinite names the first row of a chunk that holds a NaN or an infinity. An interleaved
// row has its model's number only within a head.
func (m *maker) nonFinite(k chunk, b []byte) error {
	s := k.step
	row, size := k.row, len(b)/max(1, k.n)
	d := s.out.DType
	if d.IsBlock() {
		d = s.in.DType
	}
	for r := range k.n {
		if !tensor.AllFinite(b[r*size:][:size], d) {
			row += modelRow(r, s.headDim)
			break
		}
	}
	return fmt.Errorf("%s: tensor %q, row %d, holds NaN or an infinity; the checkpoint is damaged", m.from.Path, s.in.Name, row)
}

// explain names the tensor of a failed conversion, and the way out.
func (m *maker) explain(s *step, err error) error {
	if over := new(*tensor.OverflowError); errors.As(err, over) {
		return fmt.Errorf("%s: tensor %q: %w; choose --type bf16 or f32", m.from.Path, s.in.Name, err)
	}
	return fmt.Errorf("%s: tensor %q: %w", m.from.Path, s.in.Name, err)
}

// interleave puts the rows of whole heads of d rows into the order of a llama in GGUF: row
// s*d/2+p of the model, half s of the rotary pair p, becomes row 2p+s.
func interleave(dst, src []byte, d, rows int) {
	size := len(src) / rows
	for r := range rows {
		copy(dst[r*size:][:size], src[modelRow(r, d)*size:])
	}
}

// modelRow is where the model has row r of a GGUF tensor whose heads of d rows are
// interleaved; r itself where d is 0.
func modelRow(r, d int) int {
	if d == 0 {
		return r
	}
	head, in := r/d*d, r%d
	return head + in%2*(d/2) + in/2
}
