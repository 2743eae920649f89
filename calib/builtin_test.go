package calib

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/coppice-lm/coppice/gguf"
	"github.com/coppice-lm/coppice/internal/shared"
	"github.com/coppice-lm/coppice/tokenizer"
)

// The built-in text is what its head says: passages of named works, clean text.
func TestBuiltIn(t *testing.T) {
	source := regexp.MustCompile(`^[\w.-]+/[\w.-]+@[0-9a-f]{40} \| \S+`)
	kinds, passages, bytes := map[string]bool{}, map[string]bool{}, 0
	for _, w := range BuiltIn() {
		if w.Title == "" || w.Author == "" || w.Year == "" || !source.MatchString(w.Source) {
			t.Errorf("%q, %q, %q, %q: expected a title, an author, a year and repository@commit | files", w.Title, w.Author, w.Year, w.Source)
		}
		kinds[w.Author] = true
		for i, p := range w.Passages {
			if passages[p] {
				t.Errorf("%s, passage %d: is there twice", w.Title, i+1)
			}
			passages[p] = true
			bytes += len(p)
			strange := strings.IndexFunc(p, func(c rune) bool { return c != '\n' && !unicode.IsPrint(c) || c == utf8.RuneError })
			if !utf8.ValidString(p) || strange >= 0 || len(p) < 500 || len(p) > 8000 {
				t.Errorf("%s, passage %d: %d bytes, the first that is not printable at %d", w.Title, i+1, len(p), strange)
			}
			if strings.Contains(p, "Gutenberg") {
				t.Errorf("%s, passage %d: holds words of its transcribers", w.Title, i+1)
			}
		}
	}
	if len(kinds) < 18 || len(passages) < 100 || bytes < 300_000 {
		t.Errorf("%d authors, %d passages, %d bytes", len(kinds), len(passages), bytes)
	}
	if n := len(builtInDocuments()); n != len(passages) {
		t.Errorf("%d documents of %d passages", n, len(passages))
	}
}

// It fills the default number of tokens of the shared model.
func TestBuiltInTokens(t *testing.T) {
	path := filepath.Join(shared.Dir(t), "models", "SmolLM2-135M-Instruct.Q4_1.gguf")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	file, err := gguf.Read(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.FromGGUF(file)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, d := range builtInDocuments() {
		n += len(tok.Encode(d.text, true))
	}
	if n < DefaultTokens {
		t.Errorf("%d tokens, want at least %d", n, DefaultTokens)
	}
}
