package safetensors

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/coppice-lm/coppice/tensor"
)

// Writer writes a file whose tensors come in any order and may come again.
type Writer struct {
	file    *os.File
	entries map[string]Entry
}

// Create begins a file at path, which is made or emptied: all of it but the tensors'
// values, which are zero until they are written.
func Create(path string, metadata map[string]string, infos []tensor.Info) (*Writer, error) {
	w, prefix, err := openWriter(path, metadata, infos, os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return nil, err
	}
	size := int64(len(prefix))
	for _, e := range w.entries {
		size = max(size, e.End)
	}
	if _, err = w.file.WriteAt(prefix, 0); err == nil {
		err = w.file.Truncate(size)
	}
	if err != nil {
		w.file.Close()
		return nil, err
	}
	return w, nil
}

// Continue opens a file that Create began with the same arguments.
func Continue(path string, metadata map[string]string, infos []tensor.Info) (*Writer, error) {
	w, prefix, err := openWriter(path, metadata, infos, 0)
	if err != nil {
		return nil, err
	}
	have := make([]byte, len(prefix))
	if _, err = w.file.ReadAt(have, 0); err == nil && !bytes.Equal(have, prefix) {
		err = fmt.Errorf("%s: was begun for something else", path)
	}
	if err != nil {
		w.file.Close()
		return nil, err
	}
	return w, nil
}

func openWriter(path string, metadata map[string]string, infos []tensor.Info, flag int) (*Writer, []byte, error) {
	prefix, entries, err := EncodeHeader(metadata, infos)
	if err != nil {
		return nil, nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|flag, 0o666)
	if err != nil {
		return nil, nil, err
	}
	w := &Writer{file: f, entries: map[string]Entry{}}
	for _, e := range entries {
		w.entries[e.Name] = e
	}
	return w, prefix, nil
}

// Tensor returns a writer of a tensor's bytes, from the first. Bytes beyond its last are
// an error, and so is a name that the file does not have.
func (w *Writer) Tensor(name string) (io.Writer, error) {
	e, ok := w.entries[name]
	if !ok {
		return nil, fmt.Errorf("%s: has no tensor %q", w.file.Name(), name)
	}
	return &section{io.NewOffsetWriter(w.file, e.Begin), e.End - e.Begin}, nil
}

// section writes so many bytes.
type section struct {
	to   io.Writer
	left int64
}

func (s *section) Write(b []byte) (int, error) {
	if s.left -= int64(len(b)); s.left < 0 {
		return 0, io.ErrShortWrite
	}
	return s.to.Write(b)
}

// Sync makes what was written so far durable.
func (w *Writer) Sync() error { return w.file.Sync() }

// Close makes what was written durable and closes the file.
func (w *Writer) Close() error { return errors.Join(w.file.Sync(), w.file.Close()) }
