package calib

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/tensor"
)

// streams are the residual streams of all tokens between two layers, in memory, where a
// layer's replace those before it, or in two files, which take turns: what a layer reads
// stays whole until the layer is done.
type streams struct {
	hidden int
	tokens int64
	memory []float32
	files  [2]*os.File

	values []float32 // of a batch on its way
	bytes  []byte
}

// openStreams makes room for the streams of that many tokens. names are the files to keep
// them in, empty for memory; those of an unfinished run are continued where resume is set.
func openStreams(names [2]string, tokens int64, hidden int, resume bool) (*streams, error) {
	s := &streams{hidden: hidden, tokens: tokens}
	if names[0] == "" {
		s.memory = make([]float32, tokens*int64(hidden))
		return s, nil
	}
	flag := os.O_RDWR | os.O_CREATE
	if !resume {
		flag |= os.O_TRUNC
	}
	for i, name := range names {
		f, err := os.OpenFile(name, flag, 0o666)
		if err == nil {
			s.files[i] = f
			err = f.Truncate(4 * tokens * int64(hidden))
		}
		if err != nil {
			s.close()
			return nil, &checkpoint.WriteError{Err: err}
		}
	}
	return s, nil
}

// get returns the stream before a layer of n tokens from token first on. It may be
// changed, and is valid until the next call.
func (s *streams) get(layer int, first int64, n int) ([]float32, error) {
	if s.memory != nil {
		return s.memory[first*int64(s.hidden):][:n*s.hidden], nil
	}
	x := s.room(n)
	if layer == 0 {
		return x, nil // the embedding comes from the model
	}
	f := s.files[layer%2]
	if _, err := f.ReadAt(s.bytes, 4*first*int64(s.hidden)); err != nil {
		return nil, fmt.Errorf("%s: %w; remove it to begin anew", f.Name(), err)
	}
	return x, tensor.Decode(x, s.bytes, tensor.F32)
}

// put keeps what the layer made of the stream that get returned last.
func (s *streams) put(layer int, first int64) error {
	if s.memory != nil {
		return nil
	}
	err := tensor.Encode(s.bytes, s.values, tensor.F32)
	if err == nil {
		_, err = s.files[(layer+1)%2].WriteAt(s.bytes, 4*first*int64(s.hidden))
	}
	if err != nil {
		return &checkpoint.WriteError{Err: err}
	}
	return nil
}

// room makes the buffers those of n tokens.
func (s *streams) room(n int) []float32 {
	n *= s.hidden
	if cap(s.values) < n {
		s.values, s.bytes = make([]float32, n), make([]byte, 4*n)
	}
	s.values, s.bytes = s.values[:n], s.bytes[:4*n]
	return s.values
}

// sync makes what a layer has made durable.
func (s *streams) sync(layer int) error {
	if s.memory != nil {
		return nil
	}
	if err := s.files[(layer+1)%2].Sync(); err != nil {
		return &checkpoint.WriteError{Err: err}
	}
	return nil
}

// close closes the files, whose content then no longer matters or is durable.
func (s *streams) close() {
	for _, f := range s.files {
		if f != nil {
			f.Close()
		}
	}
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
