package filelock

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestAcquire(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if f, err := os.Create(path); err != nil || try(f) != nil {
		t.Skipf("NOT CHECKED: this system has no locks: %v", err)
	} else {
		f.Close() // as one that a killed run left
	}
	f, err := Acquire(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Acquire(path); !errors.Is(err, ErrHeld) {
		t.Errorf("a second time: %v", err)
	}
	Release(f)
	if _, err := os.Stat(path); err == nil {
		t.Error("the file is left behind")
	}
	f, err = Acquire(path)
	if err != nil {
		t.Fatalf("after its release: %v", err)
	}
	Release(f)
	if _, err := Acquire(filepath.Join(path, "none", "lock")); err == nil || errors.Is(err, ErrHeld) {
		t.Errorf("a directory that is not there: %v", err)
	}
}
