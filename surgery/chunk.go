package surgery

import (
	"errors"
	"fmt"
	"slices"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/tensor"
)

// chunkBytes is about how much output is made at a time: large enough for sequential
// disk speed, small enough that a few of them are nothing.
const chunkBytes = 256 << 10

// chunk is a stretch of rows of one output tensor.
type chunk struct {
	step   *Step
	row, n int
}

func (k chunk) bytes() int64  { return int64(k.n) * k.step.Out.RowBytes() }
func (k chunk) offset() int64 { return int64(k.row) * k.step.Out.RowBytes() }

// chunks cuts the program into pieces, in the order of the output.
func (p *Program) chunks() []chunk {
	var all []chunk
	for i := range p.Steps {
		s := &p.Steps[i]
		step := max(1, int(chunkBytes/max(1, s.Out.RowBytes(), s.In.RowBytes())))
		for r := 0; r < s.Out.Rows(); r += step {
			all = append(all, chunk{s, r, min(step, s.Out.Rows()-r)})
		}
	}
	return all
}

// maker makes chunks of output; it holds the buffers of one goroutine.
type maker struct {
	from           *checkpoint.Checkpoint
	refit          *refitter // nil where nothing is computed
	allowNonFinite bool
	in, mid, out   []byte
	floats         []float32
}

func grow[T any](b []T, n int) []T { return slices.Grow(b[:0], n)[:n] }

// make returns the bytes of a chunk, valid until the next call.
func (m *maker) make(k chunk) ([]byte, error) {
	s := k.step
	var b []byte
	var err error
	switch {
	case s.compute != copied:
		b, err = m.computed(k)
	case s.columns():
		b, err = m.columns(k)
	default:
		b, err = m.rows(k)
	}
	if err != nil {
		return nil, err
	}
	dtype := s.In.DType
	if s.compute != copied || s.columns() && dtype.IsBlock() {
		dtype = tensor.F32 // computed, or columns taken out of the decoded rows
	}
	if dtype != s.Out.DType {
		m.out = grow(m.out, int(k.bytes()))
		if err := tensor.Convert(m.out, s.Out.DType, b, dtype); err != nil {
			return nil, m.explain(k, err)
		}
		b = m.out
	}
	if !m.allowNonFinite && s.Out.DType.IsFloat() && !tensor.AllFinite(b, s.Out.DType) {
		return nil, fmt.Errorf("%s: tensor %q holds NaN or an infinity; the checkpoint is damaged, or pass --allow-nonfinite to go on", m.from.Path, s.name())
	}
	return b, nil
}

// explain names tensor, value and the way out of a failed conversion.
func (m *maker) explain(k chunk, err error) error {
	var over *tensor.OverflowError
	if errors.As(err, &over) {
		return fmt.Errorf("%s: tensor %q holds %v, which is beyond the range of %v; choose --dtype bf16 or f32", m.from.Path, k.step.name(), over.Value, over.To)
	}
	return fmt.Errorf("%s: tensor %q: %w", m.from.Path, k.step.name(), err)
}

// columns reports whether columns are taken, not rows.
func (s *Step) columns() bool { return s.unit == arch.Cols || s.unit == arch.HeadCols }

// rows reads the rows of a chunk in the stored type. Rows of neurons that follow one
// another in the input are read at once; zero neurons are zero bytes, which mean zero
// in every type: blocks with zero scales too.
func (m *maker) rows(k chunk) ([]byte, error) {
	s, size := k.step, int(k.step.In.RowBytes())
	m.in = grow(m.in, k.n*size)
	if s.unit == arch.Untouched {
		return m.in, m.from.ReadRows(s.In.Name, m.in, k.row, k.n)
	}
	for i := 0; i < k.n; {
		half, j := (k.row+i)/s.width, (k.row+i)%s.width
		n := 1
		if j >= len(s.keep) {
			n = min(k.n-i, s.width-j)
			clear(m.in[i*size : (i+n)*size])
		} else {
			for i+n < k.n && j+n < len(s.keep) && s.keep[j+n] == s.keep[j]+n {
				n++
			}
			if err := m.from.ReadRows(s.In.Name, m.in[i*size:(i+n)*size], half*s.from+s.keep[j], n); err != nil {
				return nil, err
			}
		}
		i += n
	}
	return m.in, nil
}

// columns reads whole rows and gathers the kept columns of each.
func (m *maker) columns(k chunk) ([]byte, error) {
	s := k.step
	m.in = grow(m.in, k.n*int(s.In.RowBytes()))
	if err := m.from.ReadRows(s.In.Name, m.in, k.row, k.n); err != nil {
		return nil, err
	}
	src, dtype := m.in, s.In.DType
	if dtype.IsBlock() {
		m.floats = grow(m.floats, k.n*s.from)
		if err := tensor.Decode(m.floats, m.in, dtype); err != nil {
			return nil, m.explain(k, err)
		}
		dtype = tensor.F32
		src = make([]byte, 4*len(m.floats))
		if err := tensor.Encode(src, m.floats, dtype); err != nil {
			return nil, m.explain(k, err)
		}
	} else if !m.allowNonFinite && !tensor.AllFinite(src, dtype) {
		// Columns that go are looked at too: they are part of a damaged file.
		return nil, fmt.Errorf("%s: tensor %q holds NaN or an infinity; the checkpoint is damaged, or pass --allow-nonfinite to go on", m.from.Path, s.In.Name)
	}
	size := dtype.BlockBytes()
	m.mid = grow(m.mid, k.n*s.width*size)
	for r := range k.n {
		row := src[r*s.from*size:][:s.from*size]
		dst := m.mid[r*s.width*size:][:s.width*size]
		gather(dst, row, s.keep, size)
		clear(dst[len(s.keep)*size:])
	}
	return m.mid, nil
}

// gather copies elements of size bytes at the given indices.
func gather(dst, src []byte, keep []int, size int) {
	switch size {
	case 2:
		for i, j := range keep {
			_ = src[2*j+1]
			dst[2*i], dst[2*i+1] = src[2*j], src[2*j+1]
		}
	case 4:
		for i, j := range keep {
			copy(dst[4*i:4*i+4], src[4*j:4*j+4])
		}
	default:
		for i, j := range keep {
			copy(dst[i*size:(i+1)*size], src[j*size:])
		}
	}
}
