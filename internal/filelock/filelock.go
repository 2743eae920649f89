// Package filelock keeps two runs of the program from writing one output. A lock belongs
// to an open file and ends with it, so that a killed run holds none.
package filelock

import (
	"errors"
	"os"
)

// ErrHeld says that another run holds the lock.
var ErrHeld = errors.New("is being written by another run of Coppice")

// Try locks an open file. Where the system has no such locks it does nothing.
func Try(f *os.File) error {
	err := try(f)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

// Acquire makes a file at path, if none is there, and locks it.
func Acquire(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	err = Try(f)
	if err == nil {
		// A run that ended between our open and our lock has removed the file we hold.
		mine, err1 := f.Stat()
		there, err2 := os.Stat(path)
		if err1 != nil || err2 != nil || !os.SameFile(mine, there) {
			err = ErrHeld
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Release removes a file that Acquire returned, and so the lock.
func Release(f *os.File) { release(f) }
