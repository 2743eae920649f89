package gguf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

const (
	// maxMemory bounds what Read keeps of a file. With it a hostile file is refused
	// within 64 MiB of resident memory.
	maxMemory = 48 << 20
	// entryMemory is what a key or a tensor costs beside its bytes: the structures and
	// the map entries that hold it, rounded up.
	entryMemory = 384
	// maxNesting is how deep arrays may stand in arrays.
	maxNesting = 8
	bufferSize = 64 << 10
)

// decoder reads the parts of a header in order. Every method checks a length against
// the rest of the file and the memory left before it allocates.
type decoder struct {
	r      io.ReaderAt
	buf    *bufio.Reader
	pos    int64 // of the next byte in the file
	size   int64 // of the file
	memory int64 // still to be spent
}

func newDecoder(r io.ReaderAt, size int64) *decoder {
	return &decoder{
		r:      r,
		buf:    bufio.NewReaderSize(io.NewSectionReader(r, 0, size), bufferSize),
		size:   size,
		memory: maxMemory,
	}
}

// left is the number of bytes from the next one to the end of the file.
func (d *decoder) left() int64 { return d.size - d.pos }

// need fails unless n more bytes are in the file.
func (d *decoder) need(n int64) error {
	if n > d.left() {
		return fmt.Errorf("truncated: %d bytes wanted at offset %d of a file of %d", n, d.pos, d.size)
	}
	return nil
}

// spend accounts for n bytes that Read will keep.
func (d *decoder) spend(n int64) error {
	if d.memory -= n; d.memory < 0 {
		return fmt.Errorf("the header takes more than %d MiB of memory, more than any model's", maxMemory>>20)
	}
	return nil
}

// failed explains an error of the reader. Lengths were checked against the file's size
// before, so that an end of file means that the file became shorter.
func (d *decoder) failed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the file became shorter while it was read at offset %d", d.pos)
	}
	return fmt.Errorf("reading the header: %w", err)
}

// fixed returns the next n bytes, which are valid until the next call; n is at most 8.
func (d *decoder) fixed(n int64) ([]byte, error) {
	if err := d.need(n); err != nil {
		return nil, err
	}
	b, err := d.buf.Peek(int(n))
	if err != nil {
		return nil, d.failed(err)
	}
	if _, err := d.buf.Discard(int(n)); err != nil {
		return nil, d.failed(err)
	}
	d.pos += n
	return b, nil
}

func (d *decoder) uint32() (uint32, error) {
	b, err := d.fixed(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (d *decoder) uint64() (uint64, error) {
	b, err := d.fixed(8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

// bytes returns the next n bytes in memory of their own.
func (d *decoder) bytes(n int64) ([]byte, error) {
	if err := d.need(n); err != nil {
		return nil, err
	}
	if err := d.spend(n); err != nil {
		return nil, err
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(d.buf, b); err != nil {
		return nil, d.failed(err)
	}
	d.pos += n
	return b, nil
}

// skip passes over n bytes.
func (d *decoder) skip(n int64) error {
	if err := d.need(n); err != nil {
		return err
	}
	for n > 0 {
		step := min(n, 1<<30) // Discard takes an int
		done, err := d.buf.Discard(int(step))
		d.pos += int64(done)
		if err != nil {
			return d.failed(err)
		}
		n -= step
	}
	return nil
}

// length reads the u64 that says how many bytes or elements of elemSize follow.
func (d *decoder) length(elemSize int64) (int64, error) {
	n, err := d.uint64()
	if err != nil {
		return 0, err
	}
	if n > uint64(d.left()/elemSize) {
		return 0, fmt.Errorf("truncated: %d elements of at least %d bytes claimed at offset %d of a file of %d bytes",
			n, elemSize, d.pos, d.size)
	}
	return int64(n), nil
}

// name reads the name of a key or a tensor.
func (d *decoder) name() (string, error) {
	n, err := d.length(1)
	if err != nil {
		return "", err
	}
	if n > maxNameBytes {
		return "", fmt.Errorf("its name has %d bytes, the format allows %d", n, maxNameBytes)
	}
	if err := d.spend(entryMemory); err != nil {
		return "", err
	}
	b, err := d.bytes(n)
	if err != nil {
		return "", err
	}
	if !utf8.Valid(b) {
		return "", fmt.Errorf("its name %q is not valid UTF-8", b)
	}
	return string(b), nil
}

// value reads a type and a value of that type.
func (d *decoder) value() (Value, error) {
	n, err := d.uint32()
	if err != nil {
		return Value{}, err
	}
	t := Type(n)
	if t >= numTypes {
		return Value{}, fmt.Errorf("value type %d is unknown", n)
	}
	// The extent of a string or an array shows only as it is passed over, so the bytes
	// are fetched afterwards, once it is known what they cost.
	start := d.pos
	if err := d.skipValue(t, 0); err != nil {
		return Value{}, err
	}
	data := make([]byte, d.pos-start)
	if n, err := d.r.ReadAt(data, start); n < len(data) {
		return Value{}, d.failed(err)
	}
	return Value{t, data}, nil
}

// skipValue passes over a value of that type that stands inside nesting arrays, checks
// that all of it is there, and spends the memory it will take.
func (d *decoder) skipValue(t Type, nesting int) error {
	if t.fixed() {
		return d.skipKept(types[t].size)
	}
	if t == String {
		n, err := d.length(1)
		if err != nil {
			return err
		}
		if err := d.spend(stringHead); err != nil {
			return err
		}
		return d.skipKept(n)
	}
	return d.skipArray(nesting)
}

func (d *decoder) skipArray(nesting int) error {
	if nesting >= maxNesting {
		return fmt.Errorf("arrays nest deeper than %d", maxNesting)
	}
	number, err := d.uint32()
	if err != nil {
		return err
	}
	elem := Type(number)
	if elem >= numTypes {
		return fmt.Errorf("element type %d of an array is unknown", number)
	}
	n, err := d.length(types[elem].size)
	if err != nil {
		return err
	}
	if err := d.spend(arrayHead); err != nil {
		return err
	}
	if elem.fixed() {
		return d.skipKept(n * types[elem].size)
	}
	for i := range n {
		if err := d.skipValue(elem, nesting+1); err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
	}
	return nil
}

// skipKept passes over n bytes that will be kept.
func (d *decoder) skipKept(n int64) error {
	if err := d.spend(n); err != nil {
		return err
	}
	return d.skip(n)
}
