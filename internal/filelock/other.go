//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package filelock

import (
	"errors"
	"os"
)

func try(*os.File) error { return errors.ErrUnsupported }

// release closes the file first: Windows removes none that is open.
func release(f *os.File) {
	f.Close()
	os.Remove(f.Name())
}
