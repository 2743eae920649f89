package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/coppice-lm/coppice/safetensors"
	"github.com/coppice-lm/coppice/tensor"
)

// DefaultShardBytes is the size of a shard unless the user says otherwise: 5 GB, as
// transformers' save_pretrained has it.
const DefaultShardBytes = 5_000_000_000

// WriteError is a failure to write the output: a full disk, a missing permission. The
// input is not to blame.
type WriteError struct{ Err error }

func (e *WriteError) Error() string {
	return "writing the output: " + e.Err.Error() + " (nothing was published; free space or choose another -o and run again)"
}
func (e *WriteError) Unwrap() error { return e.Err }

// SettleError says that the output is whole and in its place, but that something after that
// failed: making its name durable, or removing what it was built in.
type SettleError struct {
	Path string
	Err  error
}

func (e *SettleError) Error() string {
	return e.Path + ": is written and whole, but may not outlast a failure of the system: " + e.Err.Error()
}
func (e *SettleError) Unwrap() error { return e.Err }

// Sink writes a Hugging Face directory. Nothing can be seen under the output's name
// before Commit; what a killed run leaves is hidden, marked, and cleared by the next.
type Sink struct {
	staging
	shards  []*os.File
	targets map[string]*target
	index   []byte
}

// target is where a tensor goes.
type target struct {
	file    *os.File
	entry   safetensors.Entry
	written atomic.Int64
}

// Create prepares to write a model into dir. Input is the model it is made from, which
// it must not touch; empty if there is none. With force, what dir holds is replaced by
// Commit and not before.
func Create(dir, input string, force bool) (*Sink, error) {
	if err := CheckOutput(dir, input, force); err != nil {
		return nil, err
	}
	p, err := places(dir)
	if err != nil {
		return nil, err
	}
	s := &Sink{staging: staging{place: p, force: force}, targets: map[string]*target{}}
	return s, s.begin()
}

// Layout decides the shards, in the given order of tensors and of at most shardBytes
// each (a larger tensor has one to itself), and writes their headers.
func (s *Sink) Layout(infos []tensor.Info, shardBytes int64) error {
	var groups [][]tensor.Info
	var total, size int64
	for _, i := range infos {
		n, err := i.Bytes()
		if err != nil {
			return err
		}
		if len(groups) == 0 || size > 0 && size+n > shardBytes {
			groups, size = append(groups, nil), 0
		}
		groups[len(groups)-1] = append(groups[len(groups)-1], i)
		size += n
		total += n
	}
	weightMap := map[string]string{}
	for g, group := range groups {
		name := singleName
		if len(groups) > 1 {
			name = fmt.Sprintf("model-%05d-of-%05d.safetensors", g+1, len(groups))
		}
		prefix, entries, err := safetensors.EncodeHeader(map[string]string{"format": "pt"}, group)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(filepath.Join(s.stage, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
		if err != nil {
			return &WriteError{err}
		}
		s.shards = append(s.shards, f)
		if _, err := f.WriteAt(prefix, 0); err != nil {
			return &WriteError{err}
		}
		for _, e := range entries {
			s.targets[e.Name] = &target{file: f, entry: e}
			weightMap[e.Name] = name
		}
	}
	if len(groups) > 1 {
		var err error
		s.index, err = json.MarshalIndent(map[string]any{
			"metadata":   map[string]any{"total_size": total},
			"weight_map": weightMap,
		}, "", "  ")
		if err != nil {
			return err
		}
	}
	return nil
}

// WriteAt writes a part of a tensor, off bytes into it. Parts may come in any order
// and from many goroutines; each byte must come once.
func (s *Sink) WriteAt(name string, p []byte, off int64) error {
	t, ok := s.targets[name]
	if !ok || off < 0 || off+int64(len(p)) > t.entry.End-t.entry.Begin {
		return fmt.Errorf("tensor %q: %d bytes at %d are not in the layout", name, len(p), off)
	}
	if _, err := t.file.WriteAt(p, t.entry.Begin+off); err != nil {
		return &WriteError{err}
	}
	t.written.Add(int64(len(p)))
	s.wrote(t.file, len(p))
	return nil
}

// WriteFile writes a file that holds no weights.
func (s *Sink) WriteFile(name string, r io.Reader) error {
	if err := validName(name); err != nil {
		return err
	}
	path := filepath.Join(s.stage, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return &WriteError{err}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return &WriteError{err}
	}
	if _, err = io.Copy(f, r); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return &WriteError{fmt.Errorf("%s: %w", name, err)}
	}
	return nil
}

// CopyFile copies an extra file of the input.
func (s *Sink) CopyFile(f ExtraFile) error {
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	return s.WriteFile(f.Name, r)
}

// Commit makes everything durable, then index and config.json, then publishes the
// whole under the output's name. It refuses if a byte of a tensor is missing. After a
// *SettleError the output is there.
func (s *Sink) Commit(config []byte) error {
	for name, t := range s.targets {
		if n := t.entry.End - t.entry.Begin; t.written.Load() != n {
			return fmt.Errorf("tensor %q: %d of %d bytes were written", name, t.written.Load(), n)
		}
	}
	err := syncFiles(s.shards)
	s.shards = nil
	if err != nil {
		return &WriteError{err}
	}
	if s.index != nil {
		if err := s.WriteFile(indexName, bytes.NewReader(append(s.index, '\n'))); err != nil {
			return err
		}
	}
	if err := s.WriteFile(configName, bytes.NewReader(config)); err != nil {
		return err
	}
	if err := s.publish(); err != nil {
		return &WriteError{err}
	}
	return s.settle()
}

// Abort removes what was written. After Commit it does nothing, so that it can be
// deferred.
func (s *Sink) Abort() {
	if s.done {
		return
	}
	s.done = true
	for _, f := range s.shards {
		f.Close()
	}
	s.drop()
}
