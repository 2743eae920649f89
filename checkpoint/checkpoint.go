// Package checkpoint is a model on disk. Open reads what headers and config say, in
// milliseconds whatever the size, and hands out weights by range when they are asked
// for; a Sink writes a Hugging Face directory that is whole or not there.
//
// A Checkpoint always speaks Hugging Face: the tensor names, row order and config.json
// of the family, whether the bytes lie in one safetensors file, in shards with an
// index, in a GGUF file or in the local Hugging Face cache. What is below those names
// (a permuted row, a norm stored plus one, a head that is a copy of the embedding) is
// undone while reading.
package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/tensor"
)

// Checkpoint is an opened model. Its methods may be called from many goroutines.
type Checkpoint struct {
	Path   string       // the directory or file that was opened
	Config *arch.Config // config.json (made from the metadata for a GGUF file)
	Spec   arch.Spec    // with the widths that the tensors have
	Notes  []string     // what the user should be told about this model

	configured []int // the layers' widths, as the config says

	infos   []tensor.Info // in the order of the files
	sources map[string]source
	files   []*dataFile
	extra   []ExtraFile
	gguf    bool
	lent    atomic.Int64 // bytes of mapped files, since all were left
}

// mostLent is how many bytes are read through mappings before they are left.
const mostLent = 32 << 20

// source is where a tensor's bytes are and what must be undone to read them.
type source struct {
	info     tensor.Info
	file     *dataFile
	begin    int64
	headDim  int  // > 0: rows are interleaved within heads of this many rows (GGUF llama)
	minusOne bool // the file holds the values plus one (GGUF gemma)
}

// dataFile is an open file that knows its name for messages.
type dataFile struct {
	*os.File
	path    string
	size    int64
	mapping mapping
}

func (f *dataFile) Close() error {
	f.mapping.close()
	return f.File.Close()
}

// openData opens a regular file for reading by range.
func openData(path string) (*dataFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &dataFile{File: f, path: path, size: st.Size()}, nil
}

// readFull fills p from off. A file that has become shorter is an error that says so.
func (f *dataFile) readFull(p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: ends at byte %d, expected %d: the file shrank while it was read; restore it and run again", f.path, off+int64(n), f.size)
	}
	return fmt.Errorf("%s: %w", f.path, err)
}

// ExtraFile is a file of the model that holds no weights and is copied unchanged.
type ExtraFile struct {
	Name string // relative to the model's directory, with slashes
	Open func() (io.ReadCloser, error)
}

// Read reads the file whole. More than limit bytes are an error, which like others names
// the file.
func (f ExtraFile) Read(limit int64) ([]byte, error) {
	r, err := f.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name, err)
	}
	return b, nil
}

// Open opens a model: a Hugging Face directory, a .gguf file (or the first of its
// splits), or owner/name[@revision] in the local Hugging Face cache. Headers, config
// and shapes are checked against one another; no weights are read, but for a head that
// claims to be tied and is in the file all the same.
func Open(model string) (*Checkpoint, error) {
	c, err := open(model)
	if err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func open(model string) (*Checkpoint, error) {
	st, err := os.Stat(model)
	switch {
	case err == nil && st.IsDir():
		return openDir(model)
	case err == nil && strings.EqualFold(filepath.Ext(model), ".gguf"):
		return openGGUF(model)
	case err == nil:
		return nil, fmt.Errorf("%s: neither a directory nor a .gguf file; name the directory that holds config.json", model)
	}
	dir, herr := findInCache(model)
	if herr != nil {
		return nil, herr
	}
	return openDir(dir)
}

// Close closes the files.
func (c *Checkpoint) Close() error {
	var errs []error
	for _, f := range c.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Tensors lists what the checkpoint holds, in the order of its files.
func (c *Checkpoint) Tensors() []tensor.Info { return slices.Clone(c.infos) }

// Lookup returns what the header says of a tensor.
func (c *Checkpoint) Lookup(name string) (tensor.Info, bool) {
	s, ok := c.sources[name]
	return s.info, ok
}

// Quantised reports whether the weights are in GGUF block types.
func (c *Checkpoint) Quantised() bool {
	return slices.ContainsFunc(c.infos, func(i tensor.Info) bool { return i.DType.IsBlock() })
}

// GGUF reports whether the model was read from a GGUF file.
func (c *Checkpoint) GGUF() bool { return c.gguf }

// UniformType is the one element type of all weights, or Invalid where they differ.
func (c *Checkpoint) UniformType() tensor.DType {
	found := tensor.Invalid
	for _, i := range c.infos {
		switch {
		case !i.DType.IsFloat():
		case found == tensor.Invalid:
			found = i.DType
		case found != i.DType:
			return tensor.Invalid
		}
	}
	return found
}

// Extra lists the files to copy unchanged: tokenizer, generation config, chat
// template, licences, anything that is not weights, index or config.json.
func (c *Checkpoint) Extra() []ExtraFile { return slices.Clone(c.extra) }

// Bytes is the size of all weights as stored.
func (c *Checkpoint) Bytes() int64 {
	var n int64
	for _, i := range c.infos {
		b, _ := i.Bytes() // checked when the header was read
		n += b
	}
	return n
}

// ReadRows reads rows [row, row+n) of a tensor, in its stored type and Hugging Face
// order, into dst, which must have exactly their size. A row is one index of the first
// extent.
func (c *Checkpoint) ReadRows(name string, dst []byte, row, n int) error {
	s, rb, err := c.rows(name, row, n)
	if err != nil {
		return err
	}
	if int64(len(dst)) != int64(n)*rb {
		return fmt.Errorf("tensor %q: %d rows of %d bytes into %d bytes", name, n, rb, len(dst))
	}
	if s.headDim == 0 {
		if err := s.file.readFull(dst, s.begin+int64(row)*rb); err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
	} else if err := s.readInterleaved(dst, row, n, rb); err != nil {
		return fmt.Errorf("tensor %q: %w", name, err)
	}
	if s.minusOne {
		return subtractOne(dst, s.info.DType)
	}
	return nil
}

// ScanRows shows rows [row, row+n) of a tensor, as ReadRows gives them, to see: some at a
// time, of which row is the first. They are lent from the page cache where that is as fast
// as memory, and else read into buf, which holds one row at least; what see was shown is
// valid until it returns. A file that shrinks is an error as with ReadRows, but see may
// have been shown other bytes before, and be shown rows again.
func (c *Checkpoint) ScanRows(name string, buf []byte, row, n int, see func(row int, b []byte) error) error {
	s, rb, err := c.rows(name, row, n)
	if err != nil || n == 0 || rb == 0 {
		return err
	}
	step := len(buf) / int(rb)
	if step == 0 {
		return fmt.Errorf("tensor %q: a buffer of %d bytes for rows of %d", name, len(buf), rb)
	}
	read := func(row, n int) error {
		for end := row + n; row < end; row += step {
			k := min(step, end-row)
			b := buf[:k*int(rb)]
			if err := c.ReadRows(name, b, row, k); err != nil {
				return err
			}
			if err := see(row, b); err != nil {
				return err
			}
		}
		return nil
	}
	if s.headDim > 0 || s.minusOne {
		return read(row, n)
	}
	at := func(off int64) int { return int((off - s.begin) / rb) }
	shown, err := s.file.lendRows(s.begin+int64(row)*rb, int64(n)*rb, rb,
		func(off int64, b []byte) error { return see(at(off), b) },
		func(off, n int64) error { return read(at(off), int(n/rb)) })
	// What a mapping has entered counts as the process's memory, but leaving it interrupts
	// all threads.
	if c.lent.Add(int64(n)*rb) > mostLent {
		c.lent.Store(0)
		for _, f := range c.files {
			f.mapping.leave()
		}
	}
	if !shown {
		return read(row, n)
	}
	return err
}

// rows finds a tensor that has rows [row, row+n), and the size of each.
func (c *Checkpoint) rows(name string, row, n int) (source, int64, error) {
	s, ok := c.sources[name]
	if !ok {
		return s, 0, fmt.Errorf("%s: no tensor %q", c.Path, name)
	}
	if row < 0 || n < 0 || row+n > s.info.Rows() {
		return s, 0, fmt.Errorf("tensor %q: rows %d to %d, but it has %d", name, row, row+n, s.info.Rows())
	}
	return s, s.info.RowBytes(), nil
}

// readInterleaved undoes the row order of llama in GGUF: within a head of d rows, row
// 2p+s of the file is row s*d/2+p of the model (rotary pairs beside one another in the
// file, half a head apart in the model).
func (s *source) readInterleaved(dst []byte, row, n int, rb int64) error {
	d := s.headDim
	head := make([]byte, int64(d)*rb)
	for first := row / d * d; first < row+n; first += d {
		if err := s.file.readFull(head, s.begin+int64(first)*rb); err != nil {
			return err
		}
		for r := max(row, first); r < min(row+n, first+d); r++ {
			half, p := (r-first)/(d/2), (r-first)%(d/2)
			copy(dst[int64(r-row)*rb:][:rb], head[int64(2*p+half)*rb:])
		}
	}
	return nil
}

func subtractOne(b []byte, d tensor.DType) error {
	v := make([]float32, len(b)/d.BlockBytes())
	if err := tensor.Decode(v, b, d); err != nil {
		return err
	}
	for i := range v {
		v[i]--
	}
	return tensor.Encode(b, v, d)
}
