package calib

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/internal/filelock"
)

// lock keeps other runs from writing the output out, and what is kept beside it, until it is
// given to filelock.Release.
func lock(out string) (*os.File, error) {
	dir, base := filepath.Split(out)
	f, err := filelock.Acquire(dir + "." + base + ".coppice-lock")
	if errors.Is(err, filelock.ErrHeld) {
		return nil, &checkpoint.OutputError{Path: out, Reason: err.Error()}
	} else if err != nil {
		return nil, &checkpoint.WriteError{Err: err}
	}
	return f, nil
}
