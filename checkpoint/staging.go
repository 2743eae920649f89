package checkpoint

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/coppice-lm/coppice/internal/filelock"
)

// staging is an output that is being built: in a hidden directory beside it, under a
// lock. What it becomes is for its user to say: a directory (Sink) or files (FileSink).
type staging struct {
	place
	files   []string // the paths of the files that are published; nil for a directory
	force   bool
	lockFd  *os.File
	parents []string     // directories made for the output, innermost first
	dirty   atomic.Int64 // bytes written since writeback was last asked for
	done    bool
}

// begin takes the lock and makes the hidden directory. On an error nothing is left.
func (s *staging) begin() error {
	if err := s.makeParents(filepath.Dir(s.stage)); err != nil {
		s.removeParents()
		return &WriteError{err}
	}
	if err := s.acquire(); err != nil {
		s.removeParents()
		return err
	}
	if err := os.Mkdir(s.stage, 0o777); err != nil {
		s.done = true
		s.drop()
		return &WriteError{err}
	}
	return nil
}

// drop removes the hidden directory and the lock, and parents that are empty.
func (s *staging) drop() {
	os.RemoveAll(s.stage)
	s.release()
	s.removeParents()
}

// writebackBytes is how much is written before the kernel is asked to begin writing it to
// disk: enough for large requests, little enough that the final fsync finds little left.
const writebackBytes = 32 << 20

// wrote counts bytes of a file that were written.
func (s *staging) wrote(f *os.File, n int) {
	if s.dirty.Add(int64(n)) > writebackBytes {
		s.dirty.Store(0)
		startWriteback(f)
	}
}

// syncFiles makes files durable and closes them, all at once: their writeback overlaps.
func syncFiles(files []*os.File) error {
	errs := make([]error, len(files))
	var wg sync.WaitGroup
	for i, f := range files {
		wg.Go(func() { errs[i] = errors.Join(f.Sync(), f.Close()) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// makeParents makes the directory in which the output will be, and remembers which ones
// were missing.
func (s *staging) makeParents(dir string) error {
	for d := dir; !exists(d); d = filepath.Dir(d) {
		s.parents = append(s.parents, d)
	}
	return os.MkdirAll(dir, 0o777)
}

// removeParents removes the directories that were made for the output, innermost first,
// unless something is in them by now.
func (s *staging) removeParents() {
	for _, d := range s.parents {
		os.Remove(d)
	}
}

// acquire takes the lock and clears what a killed run left under it.
func (s *staging) acquire() error {
	_, err := os.Lstat(s.lock)
	marked := err == nil
	if _, err := os.Lstat(s.stage); err == nil && !marked {
		return &OutputError{s.stage, "is in the way and was not left by Coppice; move it aside"}
	}
	if s.lockFd, err = filelock.Acquire(s.lock); errors.Is(err, filelock.ErrHeld) {
		return &OutputError{s.out, err.Error()}
	} else if err != nil {
		return &WriteError{err}
	}
	if err := s.clearLeftovers(marked); err != nil {
		s.release()
		return &WriteError{err}
	}
	return nil
}

// clearLeftovers removes what a killed run left, if the lock was there before us, and
// notes in the lock at which outputs of this run nothing stands.
func (s *staging) clearLeftovers(marked bool) error {
	if marked {
		ours := s.leftovers()
		if err := errors.Join(s.restoreOld(), os.RemoveAll(s.stage)); err != nil {
			return err
		}
		if len(ours) > 0 && s.inPlace {
			return s.clearInPlace()
		}
		for _, out := range ours {
			if err := os.RemoveAll(out); err != nil {
				return err
			}
		}
	}
	mark := ""
	for _, out := range s.outputs() {
		if !s.holds(out) {
			mark += filepath.Base(out) + markEnd
		}
	}
	if err := s.lockFd.Truncate(0); err != nil {
		return err
	}
	_, err := s.lockFd.WriteAt([]byte(mark), 0)
	return err
}

// outputs lists the paths that the run publishes.
func (s *staging) outputs() []string {
	if s.files == nil {
		return []string{s.out}
	}
	return s.files
}

// leftovers lists the outputs that a killed run made where nothing had been. Those of files
// may be others than this run's: a model may be cut into another number of parts.
func (s *staging) leftovers() []string {
	if s.files == nil {
		if s.leftover() {
			return []string{s.out}
		}
		return nil
	}
	var ours []string
	for _, path := range s.marked() {
		// A file that was published is no longer where it was built.
		if exists(path) && !exists(s.staged(path)) {
			ours = append(ours, path)
		}
	}
	return ours
}

// staged is where an output file is built.
func (s *staging) staged(path string) string {
	return filepath.Join(s.stage, filepath.Base(path))
}

// holds reports whether something stands at an output already: a file, or an entry of a
// directory besides the lock inside it.
func (s *staging) holds(out string) bool {
	entries, err := os.ReadDir(out)
	switch {
	case err != nil:
		return s.files != nil && exists(out)
	case s.inPlace:
		return len(entries) > 1
	}
	return len(entries) > 0
}

// settle ends a run whose output stands in its place, whole: it makes the names durable and
// removes what is left, the hidden directory and an older output that stood aside.
func (s *staging) settle() error {
	dir := filepath.Dir(s.out)
	if s.inPlace {
		dir = s.out
	}
	err := errors.Join(syncDir(dir), os.RemoveAll(s.stage), os.RemoveAll(s.old()))
	s.done = true
	s.release()
	if err != nil {
		return &SettleError{s.out, err}
	}
	return nil
}

func (s *staging) release() { filelock.Release(s.lockFd) }

// exists reports whether something has that name.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
