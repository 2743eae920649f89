package cpu

import (
	"encoding/binary"
	"fmt"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
	"github.com/coppice-lm/coppice/tensor"
)

// rowReader delivers rows of the parts in ascending order, reading several at a time.
type rowReader struct {
	src   engine.Source
	parts []arch.Projection

	ahead  []byte // rows read but not delivered
	stored []byte
	info   tensor.Info // of the tensor they are of

	values    []float32 // a row on its way to another type
	converted []byte
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
		r.stored = grow(r.stored, size)
		if err := r.src.ReadRows(p.Weight, r.stored, p.FirstRow+first, n); err != nil {
			return nil, err
		}
		r.ahead = r.stored
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

// halves delivers a row as F16.
func (r *rowReader) halves(row int, dst []uint16) error {
	b, err := r.next(row)
	if err != nil {
		return err
	}
	if r.info.DType != tensor.F16 {
		r.converted = grow(r.converted, 2*len(dst))
		if err := tensor.Convert(r.converted, tensor.F16, b, r.info.DType); err != nil {
			return fmt.Errorf("tensor %q, row %d: %w; run it in another precision", r.info.Name, row, err)
		}
		b = r.converted
	}
	for i := range dst {
		dst[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return nil
}

// blocks delivers a row in blocks of a type: as it is, or rounded.
func (r *rowReader) blocks(row int, dst []byte, format tensor.DType) error {
	b, err := r.next(row)
	if err != nil {
		return err
	}
	if r.info.DType == format {
		copy(dst, b)
		return nil
	}
	r.values = grow(r.values, r.info.RowElements())
	if err = tensor.Decode(r.values, b, r.info.DType); err == nil {
		err = tensor.Quantise(dst, r.values, format)
	}
	if err != nil {
		return fmt.Errorf("tensor %q, row %d: %w", r.info.Name, row, err)
	}
	return nil
}
