package study

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/coppice-lm/coppice/internal/filelock"
)

// store is the file of a ledger that runs of a study append to, several at once if they
// like: each holds the file's lock while it does.
type store struct {
	path, study string
	note        func(string)
}

// WriteError says that a study could not write what is its own: a full disk, a missing
// permission.
type WriteError struct{ Err error }

func (e *WriteError) Error() string { return "writing the study: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *WriteError) Unwrap() error { return e.Err }

func writeError(err error) error {
	if err == nil {
		return nil
	}
	return &WriteError{err}
}

// read returns what the ledger holds; nothing where there is none yet.
func (s *store) read() (*Ledger, error) {
	l, err := ReadLedger(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return &Ledger{Study: s.study}, nil
	}
	return l, err
}

// update appends the lines that f returns for what the ledger holds by then, in one write
// that is durable when update returns. A last line that was cut off is removed before.
func (s *store) update(ctx context.Context, f func(*Ledger) []any) error {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o777); err != nil {
		return writeError(err)
	}
	file, err := lockLedger(ctx, s.path)
	if err != nil {
		return err
	}
	defer file.Close() // and with it the lock
	data, err := io.ReadAll(file)
	if err != nil {
		return writeError(err)
	}
	l, valid, err := parseLedger(s.path, data)
	if err != nil {
		return err
	}
	if valid < len(data) {
		s.note(fmt.Sprintf("%s: its last line was cut off by an interruption; it is removed (%d bytes)", s.path, len(data)-valid))
		if err := file.Truncate(int64(valid)); err != nil {
			return writeError(err)
		}
	}
	var lines []any
	if valid == 0 {
		lines = append(lines, header{LedgerVersion, ledgerFormat, s.study})
	}
	return s.write(file, int64(valid), append(lines, f(l)...))
}

// lockLedger opens the file that is the ledger by the time its lock is free: Merge may put
// another in its place meanwhile. Closing it ends the lock.
func lockLedger(ctx context.Context, path string) (*os.File, error) {
	for {
		file, err := filelock.Acquire(path)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, filelock.ErrHeld) {
			return nil, writeError(err)
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// write writes lines at an offset and makes them durable.
func (s *store) write(file *os.File, at int64, lines []any) error {
	var b []byte
	for _, v := range lines {
		line, err := encodeLine(v)
		if err != nil {
			return err
		}
		b = append(b, line...)
	}
	if len(b) == 0 {
		return nil
	}
	_, err := file.WriteAt(b, at)
	if err == nil {
		err = file.Sync()
	}
	if err == nil && at == 0 {
		err = syncDir(filepath.Dir(s.path)) // the file's name is new there
	}
	return writeError(err)
}

// syncDir makes names in a directory durable, where the system can.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrInvalid) {
		return err
	}
	return nil
}
