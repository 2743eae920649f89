package tokenizer

import (
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

// TestStream feeds ids one by one: no part may end inside a character, and the parts
// joined are what Decode returns.
func TestStream(t *testing.T) {
	head, cases := readRecorded(t)
	for _, c := range cases {
		tok, err := Load(c.file(t, head), nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range head.Texts {
			for _, skip := range []bool{false, true} {
				s := tok.Stream(skip)
				var all strings.Builder
				for _, id := range c.IDs[i] {
					part := s.Add(id)
					if !utf8.ValidString(part) {
						t.Errorf("%s: %v: part %q is not UTF-8", c.Name, c.IDs[i], part)
					}
					all.WriteString(part)
				}
				all.WriteString(s.End())
				if want := tok.Decode(c.IDs[i], skip); all.String() != want {
					t.Errorf("%s: %v streams to %q and decodes to %q", c.Name, c.IDs[i], all.String(), want)
				}
			}
		}
	}
}

// TestStreamHoldsBack follows é, whose two bytes are tokens of their own here.
func TestStreamHoldsBack(t *testing.T) {
	tok := mustLoad(t, tiny(`"Ã ©"`, `"a b"`), "")
	s := tok.Stream(false)
	for _, step := range []struct {
		id   int32
		want string
	}{
		{0, "a"}, {13, ""}, {14, "é"}, // whole
		{13, ""}, {0, "\uFFFDa"}, // broken by another character
		{99, ""}, {-1, ""}, // no tokens
		{14, "\uFFFD"}, // can start no character
		{13, ""},
	} {
		if got := s.Add(step.id); got != step.want {
			t.Errorf("id %d adds %q, want %q", step.id, got, step.want)
		}
	}
	if got := s.End(); got != "\uFFFD" {
		t.Errorf("the end adds %q, want U+FFFD", got)
	}
}

// TestInvalidUTF8 has the replacements that Python 3.11 makes with errors="replace".
func TestInvalidUTF8(t *testing.T) {
	for in, want := range map[string]string{
		"a\xffb":               "a\uFFFDb",
		"\xe2\x82":             "\uFFFD",
		"\xe2\x82b":            "\uFFFDb",
		"\xe2\x28\xa1":         "\uFFFD(\uFFFD",
		"\xf0\x9f\xa6":         "\uFFFD",
		"\xf0\x9f\xa6\xf0":     "\uFFFD\uFFFD",
		"\xed\xa0\x80":         "\uFFFD\uFFFD\uFFFD", // a surrogate
		"\xc0\xaf":             "\uFFFD\uFFFD",
		"\xf5\x80\x80":         "\uFFFD\uFFFD\uFFFD",
		"\x80\x80":             "\uFFFD\uFFFD",
		"\xf0\x80\x80\x80":     "\uFFFD\uFFFD\uFFFD\uFFFD",
		"\xe2\x82\xac\xe2\x82": "€\uFFFD",
	} {
		got, rest := appendValid(nil, []byte(in), true)
		if string(got) != want || len(rest) != 0 {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
	tok := mustLoad(t, tiny(), "")
	if got := tok.Encode("a\xff", false); len(got) != 1 || got[0] != 0 {
		t.Errorf("%v, want a alone: the vocabulary has no token for U+FFFD", got)
	}
}

// TestConcurrent encodes from many goroutines; CI runs it with the race detector.
func TestConcurrent(t *testing.T) {
	head, cases := readRecorded(t)
	tok, err := Load(cases[3].file(t, head), nil)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for round := range 20 {
				i := round % len(head.Texts)
				if got := tok.Decode(tok.Encode(head.Texts[i], false), false); got != cases[3].Decoded[i] {
					t.Errorf("%q became %q", head.Texts[i], got)
				}
			}
		})
	}
	group.Wait()
}
