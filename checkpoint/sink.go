package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
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

// Sink writes a Hugging Face directory. Nothing can be seen under the output's name
// before Commit; what a killed run leaves is hidden, marked, and cleared by the next.
type Sink struct {
	place
	force   bool
	lockFd  *os.File
	shards  []*os.File
	targets map[string]*target
	dirty   atomic.Int64 // bytes written since writeback was last asked for
	index   []byte
	parents []string // directories made for the output, innermost first
	done    bool
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
	s := &Sink{place: p, force: force, targets: map[string]*target{}}
	if err := s.makeParents(filepath.Dir(p.stage)); err != nil {
		s.removeParents()
		return nil, &WriteError{err}
	}
	if err := s.acquire(); err != nil {
		s.removeParents()
		return nil, err
	}
	if err := os.Mkdir(s.stage, 0o777); err != nil {
		s.Abort()
		return nil, &WriteError{err}
	}
	return s, nil
}

// makeParents makes the directory in which the output will be, and remembers which ones
// were missing.
func (s *Sink) makeParents(dir string) error {
	for d := dir; !exists(d); d = filepath.Dir(d) {
		s.parents = append(s.parents, d)
	}
	return os.MkdirAll(dir, 0o777)
}

// removeParents removes the directories that were made for the output, innermost first,
// unless something is in them by now.
func (s *Sink) removeParents() {
	for _, d := range s.parents {
		os.Remove(d)
	}
}

// acquire takes the lock and clears what a killed run left under it.
func (s *Sink) acquire() error {
	_, err := os.Lstat(s.lock)
	marked := err == nil
	if _, err := os.Lstat(s.stage); err == nil && !marked {
		return &OutputError{s.stage, "is in the way and was not left by Coppice; move it aside"}
	}
	f, err := os.OpenFile(s.lock, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return &WriteError{err}
	}
	held, err := lockFile(f)
	if err == nil && !held {
		// A run that ended between our open and our lock has removed the file we hold.
		mine, err1 := f.Stat()
		there, err2 := os.Stat(s.lock)
		held = err1 != nil || err2 != nil || !os.SameFile(mine, there)
	}
	if err != nil || held {
		f.Close()
		if held {
			return &OutputError{s.out, "is being written by another run of Coppice"}
		}
		return &WriteError{err}
	}
	s.lockFd = f
	if err := s.clearLeftovers(marked); err != nil {
		s.release()
		return &WriteError{err}
	}
	return nil
}

// clearLeftovers removes what a killed run left, if the lock was there before us, and
// notes in the lock whether this run's output holds something that is not Coppice's.
func (s *Sink) clearLeftovers(marked bool) error {
	if marked {
		ours := s.leftover()
		if err := errors.Join(s.restoreOld(), os.RemoveAll(s.stage)); err != nil {
			return err
		}
		if ours && s.inPlace {
			return s.clearInPlace()
		}
		if ours {
			return os.RemoveAll(s.out)
		}
	}
	if entries, err := os.ReadDir(s.out); err != nil || len(entries) == 0 || s.inPlace && len(entries) == 1 {
		return s.lockFd.Truncate(0) // nothing is there but, inside it, the lock
	}
	_, err := s.lockFd.WriteAt([]byte(markReplaces), 0)
	return err
}

func (s *Sink) release() {
	os.Remove(s.lock)
	s.lockFd.Close()
}

// writebackBytes is how much is written before the kernel is asked to begin writing it to
// disk: enough for large requests, little enough that the final fsync finds little left.
const writebackBytes = 32 << 20

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
	if s.dirty.Add(int64(len(p))) > writebackBytes {
		s.dirty.Store(0)
		startWriteback(t.file)
	}
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
// whole under the output's name. It refuses if a byte of a tensor is missing.
func (s *Sink) Commit(config []byte) error {
	for name, t := range s.targets {
		if n := t.entry.End - t.entry.Begin; t.written.Load() != n {
			return fmt.Errorf("tensor %q: %d of %d bytes were written", name, t.written.Load(), n)
		}
	}
	if err := s.syncShards(); err != nil {
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
	s.done = true
	s.release()
	return nil
}

// syncShards makes the shards durable, all at once: their writeback overlaps.
func (s *Sink) syncShards() error {
	errs := make([]error, len(s.shards))
	var wg sync.WaitGroup
	for i, f := range s.shards {
		wg.Go(func() { errs[i] = errors.Join(f.Sync(), f.Close()) })
	}
	wg.Wait()
	s.shards = nil
	return errors.Join(errs...)
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
	os.RemoveAll(s.stage)
	s.release()
	s.removeParents()
}

// exists reports whether something has that name.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
