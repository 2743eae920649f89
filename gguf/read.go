package gguf

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/coppice-lm/coppice/tensor"
)

// Read reads the header of a file of size bytes: everything before the data. Errors
// name the key or the tensor where there is one and not the file, which r does not
// know.
func Read(r io.ReaderAt, size int64) (*File, error) {
	d := newDecoder(r, size)
	f := new(File)
	if err := f.read(d); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *File) read(d *decoder) error {
	if err := f.readVersion(d); err != nil {
		return err
	}
	tensors, err := d.uint64()
	if err != nil {
		return err
	}
	keys, err := d.uint64()
	if err != nil {
		return err
	}
	// The smallest tensor takes a name's length, n, a type and an offset; the smallest
	// key a length, a type and one byte.
	const minTensor, minKey = stringHead + 4 + 4 + 8, stringHead + 4 + 1
	if left := uint64(d.left()); tensors > left/minTensor || keys > left/minKey {
		return fmt.Errorf("the header claims %d tensors and %d keys, more than a file of %d bytes holds", tensors, keys, d.size)
	}
	if err := f.readKeys(d, keys); err != nil {
		return err
	}
	if f.Alignment, err = f.alignment(); err != nil {
		return err
	}
	if err := f.readTensors(d, tensors); err != nil {
		return err
	}
	var ok bool
	if f.DataStart, ok = alignUp(d.pos, f.Alignment); !ok {
		return fmt.Errorf("key %q is %d, too large for the file", alignmentKey, f.Alignment)
	}
	return f.place(d.size)
}

// readVersion checks the magic and the version, and tells other files of the family
// apart.
func (f *File) readVersion(d *decoder) error {
	if d.size < int64(len(magic)) {
		return fmt.Errorf("not a GGUF file: %d bytes", d.size)
	}
	start, err := d.bytes(int64(len(magic)))
	if err != nil {
		return err
	}
	errBigEndian := errors.New("the file is big-endian, only little-endian GGUF is supported")
	switch string(start) {
	case magic:
	case "FUGG":
		return errBigEndian
	default:
		return fmt.Errorf("not a GGUF file: it starts with %q, not with %q", start, magic)
	}
	if f.Version, err = d.uint32(); err != nil {
		return err
	}
	switch {
	case f.Version == 2 || f.Version == 3:
		return nil
	case f.Version&0xffff == 0 && f.Version != 0:
		return errBigEndian
	default:
		return fmt.Errorf("GGUF version %d is not supported, 2 and 3 are: convert the file again with a current llama.cpp", f.Version)
	}
}

func (f *File) readKeys(d *decoder, n uint64) error {
	f.keys = make(map[string]int)
	for i := range n {
		key, err := d.name()
		if err != nil {
			return fmt.Errorf("key %d of %d: %w", i+1, n, err)
		}
		if key == "" {
			return fmt.Errorf("key %d of %d is empty", i+1, n)
		}
		if _, dup := f.keys[key]; dup {
			return fmt.Errorf("key %q comes twice", key)
		}
		v, err := d.value()
		if err != nil {
			return fmt.Errorf("key %q: %w", key, err)
		}
		f.keys[key] = len(f.KV)
		f.KV = append(f.KV, KeyValue{key, v})
	}
	return nil
}

func (f *File) readTensors(d *decoder, n uint64) error {
	seen := make(map[string]struct{})
	for i := range n {
		name, err := d.name()
		if err != nil {
			return fmt.Errorf("tensor %d of %d: %w", i+1, n, err)
		}
		if _, dup := seen[name]; dup {
			return fmt.Errorf("tensor %q comes twice", name)
		}
		seen[name] = struct{}{}
		e, err := readEntry(d, name)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		f.Tensors = append(f.Tensors, e)
	}
	return nil
}

// readEntry reads the description of a tensor after its name. The offset, which counts
// from DataStart, is left in Begin.
func readEntry(d *decoder, name string) (Entry, error) {
	e := Entry{Info: tensor.Info{Name: name}}
	dims, err := d.uint32()
	if err != nil {
		return e, err
	}
	if dims > maxDims {
		return e, fmt.Errorf("it has %d dimensions, the format allows %d", dims, maxDims)
	}
	e.Shape = make(tensor.Shape, dims)
	for i := range e.Shape {
		n, err := d.uint64()
		if err != nil {
			return e, err
		}
		if n > math.MaxInt {
			return e, fmt.Errorf("extent %d is %d, which overflows", i, n)
		}
		e.Shape[len(e.Shape)-1-i] = int(n)
	}
	number, err := d.uint32()
	if err != nil {
		return e, err
	}
	if e.DType, err = parseTensorType(number); err != nil {
		return e, err
	}
	offset, err := d.uint64()
	if err != nil {
		return e, err
	}
	if offset > uint64(d.size) {
		return e, fmt.Errorf("its offset %d is outside the file of %d bytes", offset, d.size)
	}
	e.Begin = int64(offset)
	return e, nil
}

// place turns the tensors' offsets into byte ranges of the file and checks that they
// are aligned, inside the file and apart. Unlike those of safetensors they may leave
// holes: the padding.
func (f *File) place(size int64) error {
	for i := range f.Tensors {
		e := &f.Tensors[i]
		n, err := e.Bytes()
		if err != nil {
			return err // names the tensor
		}
		if e.Begin%f.Alignment != 0 {
			return fmt.Errorf("tensor %q: its offset %d is not a multiple of the alignment %d", e.Name, e.Begin, f.Alignment)
		}
		// Both are at most size, so that neither sum overflows before it is compared.
		if f.DataStart > size-e.Begin || n > size-e.Begin-f.DataStart {
			return fmt.Errorf("tensor %q: its %d bytes at offset %d of the data end outside the file of %d bytes (truncated?)",
				e.Name, n, e.Begin, size)
		}
		e.Begin += f.DataStart
		e.End = e.Begin + n
	}
	order := make([]*Entry, len(f.Tensors))
	for i := range order {
		order[i] = &f.Tensors[i]
	}
	slices.SortStableFunc(order, func(a, b *Entry) int {
		return cmp.Or(cmp.Compare(a.Begin, b.Begin), cmp.Compare(a.End, b.End))
	})
	for i := 1; i < len(order); i++ {
		if a, b := order[i-1], order[i]; b.Begin < a.End {
			return fmt.Errorf("tensors %q and %q overlap: bytes %d to %d and %d to %d of the file",
				a.Name, b.Name, a.Begin, a.End, b.Begin, b.End)
		}
	}
	return nil
}
