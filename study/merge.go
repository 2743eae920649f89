package study

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// Merge joins ledgers, as several machines made them, into one at out, whose lines stand in
// the order of Cell.Compare and which has the paired tests of all pairs. If there is a
// ledger at out it is one of those that are joined, so that nothing in it is lost, and runs
// that append to it wait. Notes say what was left out of a damaged ledger, and which cells
// have different results in two.
func Merge(out string, paths []string) (l *Ledger, err error) {
	if exists(out) {
		if runtime.GOOS != "windows" { // which replaces no open file, and has no locks of ours
			held, err := lockLedger(context.Background(), out)
			if err != nil {
				return nil, err
			}
			defer held.Close()
		}
		paths = append([]string{out}, paths...)
	}
	l = &Ledger{}
	for i, path := range paths {
		from, err := ReadLedger(path)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			l.Study = from.Study
		}
		if err := l.take(from, path); err != nil {
			return nil, err
		}
	}
	for _, c := range l.missing() {
		l.addComparison(c)
	}
	b, err := l.Encode()
	if err != nil {
		return nil, err
	}
	l.sort()
	return l, writeError(replaceFile(out, b))
}

// take adds what another ledger holds. Of a cell that both have finished, what is there
// stays.
func (l *Ledger) take(from *Ledger, path string) error {
	l.Notes = append(l.Notes, from.Notes...)
	other := map[string]bool{} // cells of which the two have different results
	for _, r := range from.Records {
		old := l.Record(r.Cell.ID)
		if old == nil || old.Status != Done {
			l.addRecord(r)
			continue
		}
		same, err := sameResults(old, &r)
		if err != nil {
			return err
		}
		if r.Status == Done && !same {
			other[r.Cell.ID] = true
			l.Notes = append(l.Notes, fmt.Sprintf("%s: cell %s (%v) has other results than before, as of another kind of processor or another version of Coppice; the first ones stay", path, r.Cell.ID, &r.Cell))
		}
	}
	for _, c := range from.Comparisons {
		// Those of results that do not stay would be of nothing in the ledger; Merge makes them anew.
		if l.Comparison(c.Cell, c.Against) == nil && !other[c.Cell] && !other[c.Against] {
			l.addComparison(c)
		}
	}
	return nil
}

// sameResults reports whether two records of a cell say the same but for their runs.
func sameResults(a, b *Record) (bool, error) {
	var texts [2][]byte
	for i, r := range []*Record{a, b} {
		bare := *r
		bare.Run = nil
		var err error
		if texts[i], err = encodeLine(&bare); err != nil {
			return false, err
		}
	}
	return bytes.Equal(texts[0], texts[1]), nil
}

// replaceFile writes a file whole or not at all.
func replaceFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".coppice-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	mode := fs.FileMode(0o644)
	if st, err := os.Stat(path); err == nil {
		mode = st.Mode().Perm()
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}
