package calib

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/tensor"
)

// store is rows of float32 values, one a token, in memory or in a file.
type store struct {
	width  int
	memory []float32
	file   *os.File // nil for memory

	values []float32 // of a batch on its way
	bytes  []byte
}

// openStore makes room for the rows of that many tokens: in the file of that name, which is
// emptied unless keep is set, or in memory where the name is empty.
func openStore(name string, tokens int64, width int, keep bool) (*store, error) {
	s := &store{width: width}
	if name == "" {
		s.memory = make([]float32, tokens*int64(width))
		return s, nil
	}
	flag := os.O_RDWR | os.O_CREATE
	if !keep {
		flag |= os.O_TRUNC
	}
	f, err := os.OpenFile(name, flag, 0o666)
	if err == nil {
		s.file = f
		err = f.Truncate(4 * tokens * int64(width))
	}
	if err != nil {
		s.close()
		return nil, &checkpoint.WriteError{Err: err}
	}
	return s, nil
}

// room returns where rows of n tokens from token first on can be put, holding whatever. It
// is valid until the next call of room or get.
func (s *store) room(first int64, n int) []float32 {
	if s.file == nil {
		return s.memory[first*int64(s.width):][:n*s.width]
	}
	n *= s.width
	if cap(s.values) < n {
		s.values, s.bytes = make([]float32, n), make([]byte, 4*n)
	}
	s.values, s.bytes = s.values[:n], s.bytes[:4*n]
	return s.values
}

// get returns the rows of n tokens from token first on, valid as those of room. They may be
// changed, which in memory changes the store.
func (s *store) get(first int64, n int) ([]float32, error) {
	x := s.room(first, n)
	if s.file == nil {
		return x, nil
	}
	if _, err := s.file.ReadAt(s.bytes, 4*first*int64(s.width)); err != nil {
		return nil, fmt.Errorf("%s: %w; remove it to begin anew", s.file.Name(), err)
	}
	return x, tensor.Decode(x, s.bytes, tensor.F32)
}

// put keeps rows from token first on; x may be what room or get returned.
func (s *store) put(first int64, x []float32) error {
	if s.file == nil {
		copy(s.memory[first*int64(s.width):], x)
		return nil
	}
	if cap(s.bytes) < 4*len(x) {
		s.bytes = make([]byte, 4*len(x))
	}
	s.bytes = s.bytes[:4*len(x)]
	err := tensor.Encode(s.bytes, x, tensor.F32)
	if err == nil {
		_, err = s.file.WriteAt(s.bytes, 4*first*int64(s.width))
	}
	if err != nil {
		return &checkpoint.WriteError{Err: err}
	}
	return nil
}

func (s *store) sync() error {
	if s.file == nil {
		return nil
	}
	if err := s.file.Sync(); err != nil {
		return &checkpoint.WriteError{Err: err}
	}
	return nil
}

// close closes the file, whose content then no longer matters or is durable.
func (s *store) close() {
	if s.file != nil {
		s.file.Close()
	}
}

// streams are the residual streams of all tokens between two layers: in memory, where a
// layer's replace those before it, or in two files, which take turns: what a layer reads
// stays whole until the layer is done.
type streams [2]*store

// openStreams makes room for the streams of that many tokens, in memory where the names
// are empty. Those of an unfinished run are continued where resume is set.
func openStreams(names [2]string, tokens int64, hidden int, resume bool) (*streams, error) {
	even, err := openStore(names[0], tokens, hidden, resume)
	if err != nil {
		return nil, err
	}
	odd := even
	if names[1] != "" {
		if odd, err = openStore(names[1], tokens, hidden, resume); err != nil {
			even.close()
			return nil, err
		}
	}
	return &streams{even, odd}, nil
}

// memory is the streams where they are in memory, else nil.
func (s *streams) memory() []float32 { return s[0].memory }

// get returns the stream before a layer of n tokens from token first on: room for it
// before the first layer, where the embedding goes. It may be changed, and is valid until
// the next call.
func (s *streams) get(layer int, first int64, n int) ([]float32, error) {
	if layer == 0 {
		return s[0].room(first, n), nil
	}
	return s[layer%2].get(first, n)
}

// put keeps what the layer made of the stream.
func (s *streams) put(layer int, first int64, x []float32) error {
	return s[(layer+1)%2].put(first, x)
}

// sync makes what a layer has made durable.
func (s *streams) sync(layer int) error { return s[(layer+1)%2].sync() }

func (s *streams) close() {
	s[0].close()
	s[1].close()
}

// copyValues is how many values are converted at a time.
const copyValues = 1 << 16

// writeValues writes float32 in little-endian order.
func writeValues(w io.Writer, v []float32) error {
	buf := make([]byte, 4*min(len(v), copyValues))
	for len(v) > 0 {
		n := min(len(v), copyValues)
		err := tensor.Encode(buf[:4*n], v[:n], tensor.F32)
		if err == nil {
			_, err = w.Write(buf[:4*n])
		}
		if err != nil {
			return err
		}
		v = v[n:]
	}
	return nil
}

// readValues fills v with little-endian float32.
func readValues(r io.Reader, v []float32) error {
	buf := make([]byte, 4*min(len(v), copyValues))
	for len(v) > 0 {
		n := min(len(v), copyValues)
		_, err := io.ReadFull(r, buf[:4*n])
		if err = errors.Join(err, tensor.Decode(v[:n], buf[:4*n], tensor.F32)); err != nil {
			return err
		}
		v = v[n:]
	}
	return nil
}
