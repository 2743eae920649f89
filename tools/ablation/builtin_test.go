package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/calib"
	"github.com/coppice-lm/coppice/internal/shared"
)

// The built-in calibration text shares no run of 13 words with any text to measure on.
func TestBuiltInSharesNoRun(t *testing.T) {
	r := runs{}
	for _, w := range calib.BuiltIn() {
		for _, p := range w.Passages {
			r.add(p)
		}
	}
	if len(r) < 40_000 || !r.has("Here "+calib.BuiltIn()[3].Passages[2]) {
		t.Fatalf("%d runs to look for, and not all are found", len(r))
	}
	data := filepath.Join(shared.Dir(t), "data")
	for _, name := range []string{"arc_easy", "boolq", "musr", "lambada_openai", "lambada_standard", "wikitext2", "calibration/c4_demo.jsonl"} {
		files := 0
		err := filepath.WalkDir(filepath.Join(data, filepath.FromSlash(name)), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			files++
			b, err := os.ReadFile(path)
			if text := strings.ReplaceAll(string(b), `\n`, " "); r.has(text) {
				t.Errorf("%s: shares a run of %d words", path, runWords)
			}
			return err
		})
		if err != nil || files == 0 {
			t.Errorf("%s: %d files, %v", name, files, err)
		}
	}
}
