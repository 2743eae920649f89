package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/internal/shared"
)

// Calibration and evaluation texts share no run of 13 words, compared here by plain
// substring search instead of by a set.
func TestNoRunIsShared(t *testing.T) {
	dir := shared.Dir(t)
	made, err := prepare(dir, 5)
	if err != nil {
		t.Fatal(err)
	}
	if len(made.calibration) < 200 || len(made.wikitext) < 90_000 || len(made.c4) < 90_000 {
		t.Fatalf("%d documents, %d and %d bytes to measure on", len(made.calibration), len(made.wikitext), len(made.c4))
	}
	lambada, err := os.ReadFile(filepath.Join(dir, "data/lambada_openai/lambada_test.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var normal strings.Builder // all evaluation text as single-spaced words
	for _, text := range []string{made.wikitext, made.c4, strings.ReplaceAll(string(lambada), `\n`, " ")} {
		normal.WriteString(words(text))
	}
	evaluation := normal.String()
	const sample = 97 // each run that starts at a multiple of this
	checked := 0
	for _, text := range made.calibration {
		w := strings.Fields(words(text))
		for i := 0; i+runWords <= len(w); i += sample {
			checked++
			if run := " " + strings.Join(w[i:i+runWords], " ") + " "; strings.Contains(evaluation, run) {
				t.Errorf("both have %q", run)
			}
		}
	}
	if checked < 500 {
		t.Errorf("only %d runs were looked at", checked)
	}
}

// words is a text as words with single spaces between and around them.
func words(text string) string {
	return " " + strings.Join(strings.FieldsFunc(strings.ToLower(text), func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c > 127)
	}), " ") + " "
}

func TestRuns(t *testing.T) {
	r := runs{}
	r.add("One two three, four five six seven eight nine ten eleven twelve thirteen!")
	for text, want := range map[string]bool{
		"x ONE two (three) four five six seven eight nine ten eleven twelve thirteen y": true,
		"one two three four five six seven eight nine ten eleven twelve":                false,
		"one two three four five six seven eight nine ten eleven twelve fourteen":       false,
	} {
		if r.has(text) != want {
			t.Errorf("%q: %v", text, !want)
		}
	}
}
