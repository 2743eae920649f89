// Package safetensors reads and writes the header of a safetensors file: which
// tensors it holds and at which bytes. It never touches the weights themselves.
//
// A file is an 8-byte little-endian length n, a JSON object of n bytes, and then the
// data, every byte of which belongs to exactly one tensor:
//
//	{"__metadata__": {"format": "pt"},
//	 "wte": {"dtype": "BF16", "shape": [4, 8], "data_offsets": [0, 64]}}
//
// data_offsets count from the start of the data. [ReadHeader] turns them into byte
// ranges of the file; [EncodeHeader] lays tensors out and gives the bytes that come
// before the data.
//
// A header comes from strangers, so it is read as strictly as the reference reader,
// safetensors 0.8, reads it; TestPeer lists where the two differ and why (the reference
// lets the last of two equal names win, this package refuses both). The reader uses
// memory in proportion to the header that is there, never to a length that a field
// claims.
package safetensors

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/coppice-lm/coppice/tensor"
)

// maxHeader is the longest header in bytes that is read. safetensors 0.8 reads 100 MB; a
// header of that size would need hundreds of megabytes of memory to be judged. This is
// enough for 100,000 tensors, a hundred times those of the largest Llamas.
const maxHeader = 16_000_000

// lengthBytes is the size of the length that starts a file.
const lengthBytes = 8

// Entry is a tensor and the absolute byte range [Begin, End) of its data in the file.
type Entry struct {
	tensor.Info
	Begin, End int64
}

// Header is what a file says of its contents.
type Header struct {
	Metadata  map[string]string // the __metadata__ object; nil where it is absent or null
	Tensors   []Entry           // in the order of their offsets, then their names
	DataStart int64             // the absolute offset of the first byte of data

	index map[string]int
}

// Lookup returns the tensor of that name.
func (h *Header) Lookup(name string) (Entry, bool) {
	i, ok := h.index[name]
	if !ok {
		return Entry{}, false
	}
	return h.Tensors[i], true
}

// ReadHeader reads the header of a file of size bytes. Only the header is read, but it
// is checked against the file: the tensors' ranges must cover the data, from its first
// byte to its last, without overlap. Errors name the tensor where there is one and not
// the file, which r does not know.
func ReadHeader(r io.ReaderAt, size int64) (*Header, error) {
	text, err := readText(r, size)
	if err != nil {
		return nil, err
	}
	h := &Header{DataStart: lengthBytes + int64(len(text))}
	if err := h.parse(text); err != nil {
		return nil, err
	}
	if err := h.checkLayout(size - h.DataStart); err != nil {
		return nil, err
	}
	for i := range h.Tensors {
		e := &h.Tensors[i]
		e.Begin += h.DataStart
		e.End += h.DataStart
		h.index[e.Name] = i
	}
	return h, nil
}

// readText returns the JSON of the header, having compared its length with the file's
// before it allocates anything.
func readText(r io.ReaderAt, size int64) ([]byte, error) {
	if size < lengthBytes {
		return nil, fmt.Errorf("not a safetensors file: %d bytes, too few for the length of a header", size)
	}
	var length [lengthBytes]byte
	if err := readFull(r, length[:], 0); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(length[:])
	switch {
	case n > maxHeader:
		return nil, fmt.Errorf("not a safetensors file: its header claims %d bytes, the limit is %d", n, maxHeader)
	case n > uint64(size-lengthBytes):
		return nil, fmt.Errorf("truncated: the header claims %d bytes, the file has %d after its length", n, size-lengthBytes)
	case n < uint64(len("{}")):
		return nil, fmt.Errorf("not a safetensors file: a header of %d bytes cannot hold a JSON object", n)
	}
	text := make([]byte, n)
	if err := readFull(r, text, lengthBytes); err != nil {
		return nil, err
	}
	return text, nil
}

// readFull fills p from offset off; the caller has checked that the file is that long.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("the file became shorter while its header was read: %d of %d bytes at offset %d", n, len(p), off)
	}
	return fmt.Errorf("reading the header: %w", err)
}

// checkLayout sorts the tensors by their offsets, which still count from the start of
// the data, and checks that each has the size its type and shape imply and that
// together they cover the dataBytes bytes exactly.
func (h *Header) checkLayout(dataBytes int64) error {
	slices.SortFunc(h.Tensors, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Begin, b.Begin), cmp.Compare(a.End, b.End), cmp.Compare(a.Name, b.Name))
	})
	var end int64
	for i, e := range h.Tensors {
		switch {
		case e.End < e.Begin:
			return fmt.Errorf("tensor %q: data_offsets [%d, %d] end before they start", e.Name, e.Begin, e.End)
		case e.End > dataBytes:
			return fmt.Errorf("tensor %q: data_offsets [%d, %d] reach beyond the file, which has %d bytes of data (truncated?)",
				e.Name, e.Begin, e.End, dataBytes)
		case e.Begin < end:
			return fmt.Errorf("tensor %q: data_offsets [%d, %d] overlap those of tensor %q, which end at %d",
				e.Name, e.Begin, e.End, h.Tensors[i-1].Name, end)
		case e.Begin > end:
			return fmt.Errorf("tensor %q: data_offsets [%d, %d] leave a hole: bytes %d to %d belong to no tensor",
				e.Name, e.Begin, e.End, end, e.Begin)
		}
		want, err := e.Bytes()
		if err != nil {
			return err
		}
		if e.End-e.Begin != want {
			return fmt.Errorf("tensor %q: %v of shape %v takes %d bytes, its data_offsets [%d, %d] hold %d",
				e.Name, e.DType, []int(e.Shape), want, e.Begin, e.End, e.End-e.Begin)
		}
		end = e.End
	}
	if end != dataBytes {
		return fmt.Errorf("the file has %d bytes of data, its tensors cover the first %d: trailing bytes belong to no tensor", dataBytes, end)
	}
	return nil
}
