package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
)

// demo --json prints these keys and no others, and what it found holds: pruning costs, more
// of it costs more, and best costs less than maxabs.
func TestDemoJSON(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ran := succeed(t, "demo", "--json", "--quiet")
	if ran.stderr != "" {
		t.Errorf("--quiet says %q", ran.stderr)
	}
	var r struct {
		Dense   float64
		MaxAbs  map[string]float64
		Best    map[string]float64
		Stories struct {
			Dense  string
			MaxAbs map[string]string
			Best   map[string]string
		}
	}
	d := json.NewDecoder(strings.NewReader(ran.stdout))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		t.Fatal(err)
	}
	if d.More() {
		t.Error("there is more than one value")
	}
	before := struct{ maxabs, best float64 }{r.Dense, r.Dense}
	for _, ratio := range []string{"0.2", "0.4", "0.6"} {
		m, b := r.MaxAbs[ratio], r.Best[ratio]
		if !(b < m && m > before.maxabs && b > before.best) {
			t.Errorf("at %s maxabs %v, best %v; before %+v", ratio, m, b, before)
		}
		before.maxabs, before.best = m, b
		for name, s := range map[string]string{"maxabs": r.Stories.MaxAbs[ratio], "best": r.Stories.Best[ratio]} {
			if !strings.HasPrefix(s, demoPrompt) || s == demoPrompt || s == r.Stories.Dense {
				t.Errorf("%s at %s tells %q", name, ratio, s)
			}
		}
	}
	if len(r.MaxAbs) != 3 || len(r.Best) != 3 || len(r.Stories.MaxAbs) != 3 || len(r.Stories.Best) != 3 {
		t.Errorf("not of three ratios: %+v", r)
	}
	if !strings.HasPrefix(r.Stories.Dense, demoPrompt) || r.Stories.Dense == demoPrompt {
		t.Errorf("the dense model tells %q", r.Stories.Dense)
	}
}

// cancelAt ends a context when a text has been written.
type cancelAt struct {
	bytes.Buffer
	text   string
	cancel func()
}

func (w *cancelAt) Write(p []byte) (int, error) {
	n, err := w.Buffer.Write(p)
	if strings.Contains(w.String(), w.text) {
		w.cancel()
	}
	return n, err
}

// Interrupted at any stage, demo leaves nothing in the temporary directory, and says so.
func TestDemoInterrupted(t *testing.T) {
	for _, at := range []string{"calibrating on", "best20: "} {
		dir := t.TempDir()
		t.Setenv("TMPDIR", dir)
		ctx, cancel := context.WithCancel(t.Context())
		stderr := &cancelAt{text: at, cancel: cancel}
		if code := run(ctx, []string{"demo"}, new(bytes.Buffer), stderr); code != exitInterrupted {
			t.Errorf("at %q: exit code %d\n%s", at, code, stderr)
		}
		if !strings.Contains(stderr.String(), "interrupted; nothing is left of it") {
			t.Errorf("at %q it says\n%s", at, stderr)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("at %q: left behind %v, %v", at, left, err)
		}
		cancel()
	}
}

// A directory that cannot be written ends demo before it does anything, and says what to do;
// one that cannot take the report ends it after its results.
func TestDemoDirectories(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", filepath.Join(dir, "none"))
	stderr := new(bytes.Buffer)
	if code := run(t.Context(), []string{"demo"}, new(bytes.Buffer), stderr); code != exitFailed || !strings.Contains(stderr.String(), "name another with TMPDIR") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
	keep, stdout := filepath.Join(dir, "keep"), new(bytes.Buffer)
	late := &cancelAt{text: "best60: ", cancel: func() { os.Mkdir(filepath.Join(keep, "report.html"), 0o777) }}
	code := run(t.Context(), []string{"demo", "--keep", keep}, stdout, late)
	if code != exitFailed || !strings.Contains(late.String(), "report.html: is a directory") {
		t.Errorf("exit code %d\n%s", code, late)
	}
	if text := stdout.String(); !strings.Contains(text, "\n              60 %   ") || strings.Contains(text, "report: ") {
		t.Errorf("it shows\n%s", text)
	}
}

// The text that the demo judges on has no run of 13 words of the one it calibrates on.
// tools/tinymodel/corpus.py holds the same of all that the model was trained on.
func TestDemoTexts(t *testing.T) {
	runs := func(name string) map[string]bool {
		b, err := demoFiles.ReadFile("demo/" + name)
		if err != nil {
			t.Fatal(err)
		}
		words := strings.FieldsFunc(strings.ToLower(string(b)), func(c rune) bool { return !unicode.IsLetter(c) && !unicode.IsNumber(c) })
		all := map[string]bool{}
		for i := range len(words) - 12 {
			all[strings.Join(words[i:i+13], " ")] = true
		}
		return all
	}
	calib, heldout := runs(demoCalib), runs(demoText)
	if len(calib) < 20_000 || len(heldout) < 5_000 {
		t.Fatalf("%d and %d runs: the test looks at too little", len(calib), len(heldout))
	}
	for run := range heldout {
		if calib[run] {
			t.Errorf("both have %q", run)
		}
	}
}
