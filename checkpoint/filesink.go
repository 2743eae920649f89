package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// FileSink writes files that belong together, such as the parts of a split GGUF file.
// Nothing can be seen under their names before Commit; what a killed run leaves is hidden,
// marked, and cleared by the next, as with a Sink.
type FileSink struct {
	staging
	open []*os.File
}

// checkFiles refuses output files that are, hold or lie inside the input, that exist
// without force, or that are no regular files. It writes nothing.
func (s *FileSink) checkFiles(input string) error {
	ours := s.leftovers()
	for _, path := range s.files {
		if err := CheckOutside(path, input); err != nil {
			return err
		}
		st, err := os.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case st.IsDir():
			return &OutputError{path, "is a directory; name a file"}
		case !st.Mode().IsRegular():
			return &OutputError{path, "is no regular file; name another output"}
		case !s.force && !slices.Contains(ours, path):
			return &OutputError{path, "exists; use --force to replace it"}
		}
	}
	return nil
}

// CreateFiles prepares to write files, all in the directory of name, of which a reader must
// open the first before it looks for the others. They are built in a hidden directory
// that has its name by name, so that a run which cuts the same model into other parts finds
// what a killed one left. Files that are, hold or lie inside the input, or that are no
// regular files, are refused; those that exist are without force, and with it are replaced
// by Commit and not before.
func CreateFiles(name string, paths []string, input string, force bool) (*FileSink, error) {
	out, err := filepath.Abs(name)
	if err != nil {
		return nil, err
	}
	dir, base := filepath.Split(out)
	prefix := filepath.Join(dir, "."+base+".coppice-")
	f := &FileSink{staging: staging{place: place{out: out, stage: prefix + "partial", lock: prefix + "lock"}, force: force}}
	for _, path := range paths {
		abs, err := filepath.Abs(path)
		if err != nil {
			return nil, err
		}
		f.files = append(f.files, abs)
	}
	if err := f.checkFiles(input); err != nil {
		return nil, err
	}
	if err := f.begin(); err != nil {
		return nil, err
	}
	for i := range f.files {
		file, err := os.OpenFile(f.staged(f.files[i]), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
		if err != nil {
			f.Abort()
			return nil, &WriteError{err}
		}
		f.open = append(f.open, file)
	}
	return f, nil
}

// WriteAt writes a part of file i.
func (s *FileSink) WriteAt(i int, p []byte, off int64) error {
	if _, err := s.open[i].WriteAt(p, off); err != nil {
		return &WriteError{err}
	}
	s.wrote(s.open[i], len(p))
	return nil
}

// Commit makes the files durable and gives them their names: first the older file that a
// reader would begin with goes, where there are several, and the new one comes last. So at
// no moment does a reader find parts that do not belong together, nor after a failure of
// the system, since the names are made durable in this order. After a *SettleError the
// files are there.
func (s *FileSink) Commit() error {
	err := syncFiles(s.open)
	s.open = nil
	if err == nil {
		err = s.publish()
	}
	if err != nil {
		return &WriteError{err}
	}
	return s.settle()
}

func (s *FileSink) publish() error {
	for _, path := range s.files { // what has come there since CreateFiles is not ours to replace
		if !s.force && exists(path) {
			return fmt.Errorf("%s: has come into being meanwhile: %w", path, fs.ErrExist)
		}
	}
	if err := syncDir(s.stage); err != nil {
		return err
	}
	dir := filepath.Dir(s.out)
	if len(s.files) > 1 {
		if err := os.Remove(s.files[0]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	for i := len(s.files) - 1; i >= 0; i-- {
		if i == 0 && len(s.files) > 1 {
			if err := syncDir(dir); err != nil {
				return err
			}
		}
		if err := os.Rename(s.staged(s.files[i]), s.files[i]); err != nil {
			return err
		}
	}
	return nil
}

// Abort removes what was written. After Commit it does nothing, so that it can be
// deferred.
func (s *FileSink) Abort() {
	if s.done {
		return
	}
	s.done = true
	for _, f := range s.open {
		f.Close()
	}
	s.drop()
}
