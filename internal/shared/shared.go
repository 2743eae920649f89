// Package shared finds the real model, data and recorded answers that tests and
// benchmarks read and that are not part of the repository.
package shared

import (
	"os"
	"path/filepath"
	"testing"
)

// Dir returns the absolute path of the shared directory: COPPICE_SHARED, else
// ../shared beside the module's root. Where there is none the test is skipped with a
// line that says so, or fails if COPPICE_REQUIRE_SHARED=1, as in CI.
func Dir(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("COPPICE_SHARED")
	if dir == "" {
		root, err := moduleRoot()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(root, "..", "shared")
	}
	if _, err := os.Stat(filepath.Join(dir, "models")); err != nil {
		if os.Getenv("COPPICE_REQUIRE_SHARED") == "1" {
			t.Fatalf("the real model and data are required here: %v", err)
		}
		t.Skipf("NOT CHECKED against the real model and data: %v (set COPPICE_SHARED)", err)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// moduleRoot is the nearest parent of the working directory that holds go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", os.ErrNotExist
		}
		dir = parent
	}
	return "", err
}
