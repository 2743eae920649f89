package calib

import (
	"fmt"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/tensor"
)

// keptMLP reads the neurons of a layer's MLP that stay, and their biases.
func keptMLP(src engine.Source, l *arch.Layer, hidden int, keep []int) (*engine.MLPWeights, error) {
	r := &weightReader{src: src}
	m := &engine.MLPWeights{
		Width: len(keep),
		Gate:  r.rows(l.Gate, hidden, keep),
		Up:    r.rows(l.Up, hidden, keep),
		Down:  make([]float32, 0, hidden*len(keep)),
	}
	all := make([]int, hidden)
	for i := range all {
		all[i] = i
	}
	row := make([]float32, l.Width)
	for i := range hidden {
		r.row(l.Down.Weight, l.Down.FirstRow+i, row)
		for _, j := range keep {
			m.Down = append(m.Down, row[j])
		}
	}
	m.GateBias, m.UpBias, m.DownBias = r.bias(l.Gate.Bias, keep), r.bias(l.Up.Bias, keep), r.bias(l.Down.Bias, all)
	return m, r.err
}

// weightReader reads rows as float32 and keeps the first error.
type weightReader struct {
	src engine.Source
	raw []byte
	err error
}

// rows reads the given rows of a projection of so many columns.
func (r *weightReader) rows(p arch.Projection, cols int, which []int) []float32 {
	v := make([]float32, len(which)*cols)
	for i, j := range which {
		r.row(p.Weight, p.FirstRow+j, v[i*cols:(i+1)*cols])
	}
	return v
}

// bias reads the given values of a vector, nil for the empty name.
func (r *weightReader) bias(name string, which []int) []float32 {
	if name == "" {
		return nil
	}
	v := make([]float32, len(which))
	for i, j := range which {
		r.row(name, j, v[i:i+1])
	}
	return v
}

// row reads one row into dst.
func (r *weightReader) row(name string, row int, dst []float32) {
	if r.err != nil {
		return
	}
	info, ok := r.src.Lookup(name)
	if !ok {
		r.err = fmt.Errorf("the checkpoint has no tensor %q", name)
		return
	}
	if size := int(info.RowBytes()); cap(r.raw) < size {
		r.raw = make([]byte, size)
	}
	r.raw = r.raw[:info.RowBytes()]
	if r.err = r.src.ReadRows(name, r.raw, row, 1); r.err != nil {
		return
	}
	if err := tensor.Decode(dst, r.raw, info.DType); err != nil {
		r.err = fmt.Errorf("tensor %q, row %d: %w", name, row, err)
	}
}
