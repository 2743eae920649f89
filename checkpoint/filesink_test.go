package checkpoint

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// filesIn lists the names in a directory, hidden ones too.
func filesIn(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// partsOf are the paths of the parts of m.gguf.
func partsOf(dir string, names ...string) []string {
	var paths []string
	for _, n := range names {
		paths = append(paths, filepath.Join(dir, n))
	}
	return paths
}

// begun is a sink of files with a text in each.
func begun(t *testing.T, dir, input, text string, force bool, names ...string) *FileSink {
	t.Helper()
	s, err := CreateFiles(filepath.Join(dir, "m.gguf"), partsOf(dir, names...), input, force)
	if err != nil {
		t.Fatal(err)
	}
	for i := range names {
		if err := s.WriteAt(i, []byte(text), 0); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// die leaves everything as a process does that is killed.
func (s *FileSink) die() {
	for _, f := range s.open {
		f.Close()
	}
	s.lockFd.Close()
}

func holds(t *testing.T, path, want string) {
	t.Helper()
	if b, err := os.ReadFile(path); err != nil || string(b) != want {
		t.Errorf("%s holds %q, %v; want %q", filepath.Base(path), b, err, want)
	}
}

// Files appear with Commit, all or none, and replace others with force alone.
func TestFileSink(t *testing.T) {
	dir, input := t.TempDir(), t.TempDir()
	names := []string{"m-1-of-2", "m-2-of-2"}
	s := begun(t, dir, input, "new", false, names...)
	if _, err := CreateFiles(filepath.Join(dir, "m.gguf"), partsOf(dir, names...), input, false); !errors.As(err, new(*OutputError)) || !strings.Contains(err.Error(), "another run") {
		t.Errorf("a second run: %v", err)
	}
	for _, n := range filesIn(t, dir) {
		if !strings.HasPrefix(n, ".") {
			t.Errorf("%s is there before Commit", n)
		}
	}
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	s.Abort()
	if got := filesIn(t, dir); !slices.Equal(got, names) {
		t.Errorf("after Commit: %q", got)
	}
	holds(t, filepath.Join(dir, names[0]), "new")
	if _, err := CreateFiles(filepath.Join(dir, "m.gguf"), partsOf(dir, names...), input, false); !errors.As(err, new(*OutputError)) || !strings.Contains(err.Error(), "--force") {
		t.Errorf("over files that exist: %v", err)
	}
	s = begun(t, dir, input, "newer", true, names...)
	s.Abort()
	holds(t, filepath.Join(dir, names[0]), "new")
	s = begun(t, dir, input, "newer", true, names...)
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := filesIn(t, dir); !slices.Equal(got, names) {
		t.Errorf("after --force: %q", got)
	}
	holds(t, filepath.Join(dir, names[1]), "newer")

	s = begun(t, dir, input, "x", false, "other")
	if err := os.WriteFile(filepath.Join(dir, "other"), []byte("come meanwhile"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(); !errors.As(err, new(*WriteError)) {
		t.Errorf("over a file that came meanwhile: %v", err)
	}
	s.Abort()
	holds(t, filepath.Join(dir, "other"), "come meanwhile")

	if err := os.Mkdir(filepath.Join(dir, "d"), 0o777); err != nil {
		t.Fatal(err)
	}
	for name, of := range map[string]string{"a directory": dir, "the input": filepath.Join(input, "x")} {
		paths := partsOf(of, "d")
		if _, err := CreateFiles(paths[0], paths, input, true); !errors.As(err, new(*OutputError)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := filesIn(t, dir); !slices.Equal(got, append([]string{"d"}, append(slices.Clone(names), "other")...)) {
		t.Errorf("left behind: %q", got)
	}
}

// What a killed run has published goes when the model is written again, into other parts
// too; what stood there before is not Coppice's to clear.
func TestFileSinkAfterKill(t *testing.T) {
	dir, input := t.TempDir(), t.TempDir()
	three := []string{"m-1-of-3", "m-2-of-3", "m-3-of-3"}
	if err := os.WriteFile(filepath.Join(dir, three[1]), []byte("older"), 0o666); err != nil {
		t.Fatal(err)
	}
	s := begun(t, dir, input, "new", true, three...)
	for _, i := range []int{2, 1} { // of its Commit
		if err := os.Rename(s.staged(s.files[i]), s.files[i]); err != nil {
			t.Fatal(err)
		}
	}
	s.die()
	two := []string{"m-1-of-2", "m-2-of-2"}
	s = begun(t, dir, input, "newer", false, two...)
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	// The second of three replaced an older file, and may be that one.
	if got := filesIn(t, dir); !slices.Equal(got, []string{two[0], two[1], three[1]}) {
		t.Errorf("after a run into other parts: %q", got)
	}

	// Killed after its last rename.
	one := begun(t, dir, input, "new", false, "m.gguf")
	if err := one.publish(); err != nil {
		t.Fatal(err)
	}
	one.die()
	one = begun(t, dir, input, "newer", false, "m.gguf")
	if err := one.Commit(); err != nil {
		t.Fatal(err)
	}
	holds(t, filepath.Join(dir, "m.gguf"), "newer")
}

// A lock that says nothing, as one that could not be removed, is no leave to clear a
// finished output; the hidden directory is cleared all the same.
func TestLockWithoutNames(t *testing.T) {
	for _, mark := range []string{"", "replaces\n", "m.gguf", "../m.gguf\x00", "out"} {
		dir := t.TempDir()
		for name, text := range map[string]string{"m.gguf": "whole", ".m.gguf.coppice-lock": mark, ".out.coppice-lock": mark, "out/config.json": "{}"} {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		paths := partsOf(dir, "m.gguf")
		if _, err := CreateFiles(paths[0], paths, t.TempDir(), false); !errors.As(err, new(*OutputError)) || !strings.Contains(err.Error(), "--force") {
			t.Errorf("%q: a file: %v", mark, err)
		}
		if _, err := Create(filepath.Join(dir, "out"), "", false); !errors.As(err, new(*OutputError)) || !strings.Contains(err.Error(), "--force") {
			t.Errorf("%q: a directory: %v", mark, err)
		}
		holds(t, paths[0], "whole")
		holds(t, filepath.Join(dir, "out", "config.json"), "{}")
	}
}

// What fails after the last rename does not say that nothing was published.
func TestSettle(t *testing.T) {
	dir := t.TempDir()
	s := begun(t, dir, t.TempDir(), "whole", false, "m.gguf")
	if err := s.publish(); err != nil {
		t.Fatal(err)
	}
	s.out = filepath.Join(dir, "gone", "m.gguf") // so that its directory cannot be synced
	err := s.settle()
	if !errors.As(err, new(*SettleError)) || !strings.Contains(err.Error(), "written and whole") {
		t.Errorf("%v", err)
	}
	s.Abort()
	if got := filesIn(t, dir); !slices.Equal(got, []string{"m.gguf"}) {
		t.Errorf("left: %q", got)
	}
	holds(t, filepath.Join(dir, "m.gguf"), "whole")
}
