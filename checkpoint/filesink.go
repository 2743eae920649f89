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

// CheckFiles refuses output files that are, hold or lie inside the input, that exist
// without force, or that are no regular files. It writes nothing; CreateFiles calls it.
func CheckFiles(paths []string, input string, force bool) error {
	s, err := stageFiles(paths)
	if err != nil {
		return err
	}
	ours := s.leftovers()
	for i, path := range paths {
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
		case !force && !slices.Contains(ours, s.files[i]):
			return &OutputError{path, "exists; use --force to replace it"}
		}
	}
	return nil
}

// stageFiles decides where files of one directory are built: in a hidden directory beside
// the first of them, from which they can be renamed.
func stageFiles(paths []string) (*FileSink, error) {
	s := &FileSink{}
	for _, path := range paths {
		abs, err := filepath.Abs(path)
		if err != nil {
			return nil, err
		}
		s.files = append(s.files, abs)
	}
	dir, base := filepath.Split(s.files[0])
	prefix := filepath.Join(dir, "."+base+".coppice-")
	s.place = place{out: s.files[0], stage: prefix + "partial", lock: prefix + "lock"}
	return s, nil
}

// CreateFiles prepares to write files, all in one directory, of which a reader must open
// the first before it looks for the others. With force, files of these names are replaced
// by Commit and not before.
func CreateFiles(paths []string, input string, force bool) (*FileSink, error) {
	if err := CheckFiles(paths, input, force); err != nil {
		return nil, err
	}
	f, err := stageFiles(paths)
	if err != nil {
		return nil, err
	}
	f.force = force
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
// no moment does a reader find parts that do not belong together.
func (s *FileSink) Commit() error {
	err := syncFiles(s.open)
	s.open = nil
	if err == nil {
		err = s.publish()
	}
	if err != nil {
		return &WriteError{err}
	}
	s.done = true
	s.release()
	return nil
}

func (s *FileSink) publish() error {
	for i, path := range s.files { // what has come there since CreateFiles is not ours to replace
		if !s.force && exists(path) {
			return fmt.Errorf("%s: has come into being meanwhile: %w", s.files[i], fs.ErrExist)
		}
	}
	if err := syncDir(s.stage); err != nil {
		return err
	}
	if len(s.files) > 1 {
		if err := os.Remove(s.files[0]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for i := len(s.files) - 1; i >= 0; i-- {
		if err := os.Rename(s.staged(s.files[i]), s.files[i]); err != nil {
			return err
		}
	}
	return errors.Join(os.Remove(s.stage), syncDir(filepath.Dir(s.out)))
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
