package main

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

// TestGroupMemory: the least of what a group and those around it allow counts, pages of
// files that are in memory are free, and no limit is none.
func TestGroupMemory(t *testing.T) {
	root := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("memory.max", "max\n")
	write("memory.current", "900\n")
	write("outer/memory.max", "1000\n")
	write("outer/memory.current", "700\n")
	write("outer/memory.stat", "anon 500\nfile 200\ninactive_file 150\nactive_file 40\n")
	write("outer/inner/memory.max", "2000\n")
	write("outer/inner/memory.current", "600\n")
	write("full/memory.max", "1000\n")
	write("full/memory.current", "1001\n")
	for name, want := range map[string]int64{
		"/":            math.MaxInt64,
		"/outer":       490,
		"/outer/inner": 490,
		"/full":        1,
		"/missing":     math.MaxInt64,
	} {
		if got := groupMemory(root, name); got != want {
			t.Errorf("groupMemory(%q) = %d, want %d", name, got, want)
		}
	}
}
