package cpu

import (
	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/tensor"
)

// format is the type of whose values the rows of a matrix, of `in` elements, are when they
// are multiplied.
func (l *loader) format(in int, p arch.Projection) tensor.DType {
	blocks := func(d tensor.DType) tensor.DType {
		if in%d.BlockSize() != 0 {
			return tensor.F16
		}
		return d
	}
	switch l.precision {
	case engine.BF16:
		return tensor.BF16
	case engine.F16:
		return tensor.F16
	case engine.Q8_0:
		return blocks(tensor.Q8_0)
	case engine.Q4_0:
		return blocks(tensor.Q4_0)
	case engine.Q4_1:
		return blocks(tensor.Q4_1)
	case engine.Stored:
		if d := l.stored(p); d.IsBlock() || d == tensor.BF16 || d == tensor.F16 {
			return d
		}
	}
	return tensor.F32
}

// vocabularyFormat is format for the rows of embedding and head, which get no 4-bit type
// that they do not have in the file.
func (l *loader) vocabularyFormat(in int, p arch.Projection) tensor.DType {
	d := l.format(in, p)
	if (d == tensor.Q4_0 || d == tensor.Q4_1) && d != l.stored(p) {
		return tensor.Q8_0
	}
	return d
}

// stored is the type of a matrix in the file.
func (l *loader) stored(p arch.Projection) tensor.DType {
	info, _ := l.src.Lookup(p.Weight)
	return info.DType
}
