package cpu

import (
	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/tensor"
)

// format is the type in which the rows of the parts, of `in` elements, are packed.
func (l *loader) format(in int, parts ...arch.Projection) tensor.DType {
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
		switch d := l.stored(parts...); d {
		case tensor.BF16, tensor.F16, tensor.Q8_0, tensor.Q4_0, tensor.Q4_1:
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

// stored is the type of the parts in the file; Invalid where they differ.
func (l *loader) stored(parts ...arch.Projection) tensor.DType {
	first, _ := l.src.Lookup(parts[0].Weight)
	for _, p := range parts[1:] {
		if info, _ := l.src.Lookup(p.Weight); info.DType != first.DType {
			return tensor.Invalid
		}
	}
	return first.DType
}
