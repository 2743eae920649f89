package eval_test

import (
	"testing"

	"github.com/coppice-lm/coppice/eval"
)

// The code points for which Python 3.12's str.isspace is true, which are also those that
// its \s matches.
const pythonSpace = "\t\n\v\f\r\x1c\x1d\x1e\x1f \u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005" +
	"\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"

func TestIsSpace(t *testing.T) {
	want := map[rune]bool{}
	for _, r := range pythonSpace {
		want[r] = true
	}
	for r := range rune(0x110000) {
		if eval.IsSpace(r) != want[r] {
			t.Errorf("U+%04X: %v", r, !want[r])
		}
	}
}

func TestCountWords(t *testing.T) {
	for text, want := range map[string]int{
		"": 1, "a": 1, "a b": 2, " a b \n": 4, "a\u00a0\u2003b": 2, "a\x1fb": 2, "a\u200bb": 1, "  ": 2,
	} {
		if got := eval.CountWords(text); got != want {
			t.Errorf("%q: %d words, want %d", text, got, want)
		}
	}
}
