package study

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/calib"
)

// IDs follow from all that results depend on, and from nothing else.
func TestIDs(t *testing.T) {
	of := func(text string, change func(dir string)) []Cell {
		t.Helper()
		s := fakeStudy(t, text)
		if change != nil {
			change(s.Dir())
		}
		cells, err := Cells(s)
		if err != nil {
			t.Fatal(err)
		}
		return cells
	}
	base := of(fakeFile, nil)
	index := map[string]int{}
	for i, c := range base {
		index[c.String()] = i
	}
	dense, maxabs, best7 := 0, index["m maxabs 25 % f32"], index["m best 25 % seed 7 f32"]
	if maxabs != 1 || best7 < 2 {
		t.Fatalf("cells %v: maxabs is not the first of its size", index)
	}
	write := func(dir, name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, old, new              string
		change                      func(dir string)
		dense, maxabs, best7Changes bool
	}{
		{name: "nothing"},
		{name: "threads and speed", old: "speed: {prompts: [8]}", new: "threads: 3"},
		{name: "the model's path", old: "path: m,", new: "path: n, name: m,", change: func(string) {}},
		{name: "the limit", old: "limit: 5", new: "limit: 6", dense: true, maxabs: true, best7Changes: true},
		{name: "alignment", old: "limit: 5", new: "limit: 5\nalign: 8", maxabs: true, best7Changes: true},
		{name: "tokens", old: "tokens: 100", new: "tokens: 101", best7Changes: true},
		{name: "calibration text", change: func(dir string) { write(dir, "text.txt", "other text") }, best7Changes: true},
		{name: "data", change: func(dir string) {
			b, _ := os.ReadFile(filepath.Join(dir, "data", "arc_easy", "test.jsonl"))
			write(dir, "data/arc_easy/test.jsonl", strings.Replace(string(b), "What is 0", "What was 0", 1))
		}, dense: true, maxabs: true, best7Changes: true},
		{name: "weights", change: func(dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "m")); err != nil {
				t.Fatal(err)
			}
			writeModel(t, filepath.Join(dir, "m"), fakeWidth, 9)
		}, dense: true, maxabs: true, best7Changes: true},
		{name: "config", change: func(dir string) {
			b, _ := os.ReadFile(filepath.Join(dir, "m", "config.json"))
			write(dir, "m/config.json", strings.Replace(string(b), "10000", "20000", 1))
		}, dense: true, maxabs: true, best7Changes: true},
	} {
		text := strings.Replace(fakeFile, c.old, c.new, 1)
		if strings.Contains(c.new, "path: n") { // the same model elsewhere
			path := place(t, text)
			writeModel(t, filepath.Join(filepath.Dir(path), "n"), fakeWidth, 1)
			if err := os.Rename(filepath.Join(fakeStudy(t, fakeFile).Dir(), "data", "arc_easy"), filepath.Join(filepath.Dir(path), "data", "arc_easy")); err != nil {
				t.Fatal(err)
			}
			s, err := Load(path)
			if err != nil {
				t.Fatal(err)
			}
			cells, err := Cells(s)
			if err != nil {
				t.Fatal(err)
			}
			for i := range cells {
				if cells[i].ID != base[i].ID {
					t.Errorf("%s: the ID of %v changed", c.name, &cells[i])
				}
			}
			continue
		}
		cells := of(text, c.change)
		for _, x := range []struct {
			i       int
			changes bool
		}{{dense, c.dense}, {maxabs, c.maxabs}, {best7, c.best7Changes}} {
			if (cells[x.i].ID != base[x.i].ID) != x.changes {
				t.Errorf("%s: the ID of %v changed: %v, want %v", c.name, &base[x.i], !x.changes, x.changes)
			}
		}
	}
}

// best takes the steps of the file, or by itself those of prune where the text has a part to
// hold back; of the other methods none. Cells without steps are named as before there were any.
func TestCellSteps(t *testing.T) {
	steps := func(text string) map[string]Cell {
		t.Helper()
		cells, err := Cells(fakeStudy(t, text))
		if err != nil {
			t.Fatal(err)
		}
		of := map[string]Cell{}
		for _, c := range cells {
			of[c.String()] = c
		}
		return of
	}
	const cell, other = "m best 25 % f32", "m maxabs 25 % f32"
	short, none := steps(fakeFile), steps(fakeFile+"steps: 0\n")
	if c := short[cell]; c.Steps != 0 || c.ID != none[cell].ID {
		t.Errorf("a text with nothing to hold back: %+v", c)
	}
	three := steps(fakeFile + "steps: 3\n")
	if c := three[cell]; c.Steps != 3 || c.ID == none[cell].ID {
		t.Errorf("three steps: %+v", c)
	}
	if c := three[other]; c.Steps != 0 || c.ID != none[other].ID {
		t.Errorf("three steps of maxabs: %+v", c)
	}
	long := strings.Replace(fakeFile, "text.txt", "builtin", 1)
	if c := steps(long)[cell]; c.Steps != calib.DefaultSteps {
		t.Errorf("by itself: %+v", c)
	}
	long = strings.Replace(long, "ratios: [0.25, 0.5]", fmt.Sprintf("widths: [%d, 8]", fakeWidth), 1)
	of := steps(long)
	if c := of[fmt.Sprintf("m best width %d f32", fakeWidth)]; c.ID == "" || c.Steps != 0 {
		t.Errorf("nothing to remove: %+v", c)
	}
	if c := of["m best width 8 f32"]; c.Steps != calib.DefaultSteps {
		t.Errorf("width 8: %+v", c)
	}
}

// Two cells that are the same are named both.
func TestTwoCellsOfOneID(t *testing.T) {
	s := fakeStudy(t, strings.Replace(fakeFile, "[0.25, 0.5]", "[0.25, 0.5, 0.25]", 1))
	_, err := Cells(s)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"two cells have the id ", "m maxabs 25 % f32 (models[0], ratios[0], methods[1], seeds[0])", "and m maxabs 25 % f32 (models[0], ratios[2],"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}

// The calibration text is fingerprinted by the files that calib reads: those behind a link
// to a directory, and one that is named twice once.
func TestCalibrationFingerprint(t *testing.T) {
	dir := t.TempDir()
	texts := filepath.Join(dir, "texts")
	if err := os.MkdirAll(texts, 0o777); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(texts, "a.txt")
	if err := os.WriteFile(file, []byte("words"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(texts, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	fingerprint := func(paths ...string) string {
		s := &Study{path: filepath.Join(dir, "s.yaml"), Calibration: Calibration{Text: paths}}
		f, err := s.calibrationFingerprint()
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	want := fingerprint("texts")
	for _, paths := range [][]string{{"link"}, {"texts", "texts/a.txt"}, {file}} {
		if got := fingerprint(paths...); got != want {
			t.Errorf("%v: %s, want that of the directory, %s", paths, got, want)
		}
	}
	both := fingerprint("texts", calib.BuiltInName)
	if both == want || both == fingerprint() || fingerprint() != fingerprint(calib.BuiltInName) {
		t.Error("the built-in text does not count as it should where it is named")
	}
}
