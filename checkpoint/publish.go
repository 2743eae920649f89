package checkpoint

import (
	"errors"
	"os"
	"path/filepath"
)

// publish gives the finished stage the output's name.
func (s *Sink) publish() error {
	if err := syncDir(s.stage); err != nil {
		return err
	}
	if s.inPlace {
		return s.publishInPlace()
	}
	switch err := os.Remove(s.out); { // an empty directory goes; one that holds something stays
	case err == nil || errors.Is(err, os.ErrNotExist):
		return os.Rename(s.stage, s.out)
	case !s.force:
		return err
	}
	return s.replace()
}

// replace puts the stage in the place of an older output. In one step where the system
// can; else an older output that stood aside is moved back if the second step fails.
func (s *Sink) replace() error {
	if exchange(s.stage, s.out) == nil {
		return nil
	}
	if err := os.Rename(s.out, s.old()); err != nil {
		return err
	}
	if err := os.Rename(s.stage, s.out); err != nil {
		return errors.Join(err, os.Rename(s.old(), s.out))
	}
	return nil
}

// old is where a replaced output stands between the two renames.
func (s *staging) old() string { return s.stage + "-old" }

// restoreOld undoes what a run that was killed between the two renames left.
func (s *staging) restoreOld() error {
	if !exists(s.old()) {
		return nil
	}
	if !exists(s.out) {
		return os.Rename(s.old(), s.out)
	}
	return os.RemoveAll(s.old())
}

// publishInPlace moves the finished files up into the output directory, index and
// config.json last. What the directory held before goes first, its config.json before
// all else, so that at no moment does something stand there that a loader would take.
func (s *Sink) publishInPlace() error {
	if err := s.clearInPlace(); err != nil {
		return err
	}
	entries, err := os.ReadDir(s.stage)
	if err != nil {
		return err
	}
	last := []string{indexName, configName}
	for _, e := range entries {
		if e.Name() != indexName && e.Name() != configName {
			last = append([]string{e.Name()}, last...)
		}
	}
	for _, name := range last {
		if from := filepath.Join(s.stage, name); exists(from) {
			if err := os.Rename(from, filepath.Join(s.out, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// clearInPlace removes everything from the output directory but stage and lock.
func (s *staging) clearInPlace() error {
	for _, name := range []string{configName, indexName} {
		if err := os.RemoveAll(filepath.Join(s.out, name)); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(s.out)
	if err != nil {
		return err
	}
	for _, e := range entries {
		p := filepath.Join(s.out, e.Name())
		if p == s.stage || p == s.lock {
			continue
		}
		if err := os.RemoveAll(p); err != nil {
			return err
		}
	}
	return nil
}

// syncDir makes the names in a directory durable. Some systems cannot open a directory
// for that; there the names are as durable as the system makes them.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, os.ErrInvalid) && !errors.Is(err, os.ErrPermission) {
		return err
	}
	return nil
}
