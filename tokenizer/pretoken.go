package tokenizer

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A piece is a part of the text on its way to a word. First says that the text begins
// with it.
type piece struct {
	text  string
	first bool
}

// A step of the pre-tokenizer cuts a piece into pieces, from left to right, none empty.
type step func(p piece, yield func(piece))

// newPreTokenizer compiles the pre-tokenizer to its steps. ByteLevel can only be the
// last: what it does to the characters is the model's business here (byteLevel).
func newPreTokenizer(p *preTokenizerJSON) (steps []step, byteLevel bool, err error) {
	if p == nil {
		return nil, false, nil
	}
	list := []preTokenizerJSON{*p}
	if p.Type == "Sequence" {
		list = p.PreTokenizers
	}
	for i := range list {
		s, level, err := newStep(&list[i])
		if err != nil {
			return nil, false, err
		}
		if byteLevel {
			return nil, false, fmt.Errorf("pre-tokenizer %q behind ByteLevel is not supported", list[i].Type)
		}
		byteLevel = level
		if s != nil {
			steps = append(steps, s)
		}
	}
	return steps, byteLevel, nil
}

// newStep compiles one step; nil if it does nothing but say byteLevel.
func newStep(p *preTokenizerJSON) (s step, byteLevel bool, err error) {
	switch p.Type {
	case "ByteLevel":
		return byteLevelStep(p.AddPrefixSpace == nil || *p.AddPrefixSpace, p.UseRegex == nil || *p.UseRegex), true, nil
	case "Digits":
		return digitStep(p.IndividualDigits == nil || !*p.IndividualDigits), false, nil
	case "Split":
		s, err := newSplit(p)
		return s, false, err
	case "Metaspace":
		s, err := newMetaspace(p)
		return s, false, err
	case "WhitespaceSplit":
		return fieldStep(unicode.IsSpace), false, nil
	case "Whitespace":
		return whitespaceStep, false, nil
	}
	return nil, false, fmt.Errorf("pre-tokenizer %q is not supported", p.Type)
}

// byteLevelStep is GPT-2's split, if regex is set, behind a space that is put in front
// of each piece that has none, if prefix is set.
func byteLevelStep(prefix, regex bool) step {
	split := wordStep(knownSplits[patternGPT2])
	if !prefix && !regex {
		return nil
	}
	return func(p piece, yield func(piece)) {
		if prefix && p.text[0] != ' ' {
			p.text = " " + p.text
		}
		if regex {
			split(p, yield)
		} else {
			yield(p)
		}
	}
}

// wordStep cuts by a published pattern.
func wordStep(w wordSplit) step {
	t := classes()
	return func(p piece, yield func(piece)) {
		for i := 0; i < len(p.text); {
			end := w.end(t, p.text, i)
			yield(piece{p.text[i:end], p.first && i == 0})
			i = end
		}
	}
}

// digitStep cuts before and behind numbers, and between digits unless together is set.
func digitStep(together bool) step {
	t := classes()
	return func(p piece, yield func(piece)) {
		for i := 0; i < len(p.text); {
			end := digitEnd(t, p.text, i, together)
			yield(piece{p.text[i:end], p.first && i == 0})
			i = end
		}
	}
}

// fieldStep cuts at the runes that sep accepts and drops them.
func fieldStep(sep func(rune) bool) step {
	return func(p piece, yield func(piece)) {
		for i := 0; i < len(p.text); {
			n := strings.IndexFunc(p.text[i:], sep)
			if n < 0 {
				n = len(p.text) - i
			}
			if n > 0 {
				yield(piece{p.text[i : i+n], p.first && i == 0})
			}
			_, size := utf8.DecodeRuneInString(p.text[i+n:])
			i += n + size
		}
	}
}

// whitespaceStep is the pattern \w+|[^\w\s]+, and drops white space.
func whitespaceStep(p piece, yield func(piece)) {
	fieldStep(unicode.IsSpace)(p, func(f piece) {
		start, word := 0, false
		for i, r := range f.text {
			if w := isWordRune(r); i > start && w != word {
				yield(piece{f.text[start:i], f.first && start == 0})
				start = i
			}
			word = isWordRune(r)
		}
		yield(piece{f.text[start:], f.first && start == 0})
	})
}

// isWordRune is \w of Unicode's regular expressions.
func isWordRune(r rune) bool {
	return unicode.In(r, unicode.L, unicode.M, unicode.Nd, unicode.Nl, unicode.Pc, newLetters)
}

// newMetaspace compiles SentencePiece's treatment of spaces: each becomes the replacement,
// one is put in front ("always", of the text's "first" piece, or "never"), and each
// starts a new piece, if split is set.
func newMetaspace(p *preTokenizerJSON) (step, error) {
	mark := p.Replacement
	if mark == "" {
		mark = space
	}
	scheme := prependScheme(p.PrependScheme, p.AddPrefixSpace)
	if scheme != "always" && scheme != "first" && scheme != "never" {
		return nil, fmt.Errorf("pre-tokenizer Metaspace: unknown prepend_scheme %q", scheme)
	}
	split := p.Split == nil || *p.Split
	return func(p piece, yield func(piece)) {
		text := strings.ReplaceAll(p.text, " ", mark)
		if (scheme == "always" || scheme == "first" && p.first) && !strings.HasPrefix(text, mark) {
			text = mark + text
		}
		for start := 0; start < len(text); {
			end := len(text)
			if split {
				from := start
				if strings.HasPrefix(text[start:], mark) {
					from += len(mark)
				}
				if n := strings.Index(text[from:], mark); n >= 0 {
					end = from + n
				}
			}
			yield(piece{text[start:end], p.first && start == 0})
			start = end
		}
	}, nil
}

// prependScheme is a Metaspace's prepend_scheme, which older files write as
// add_prefix_space.
func prependScheme(scheme string, addPrefixSpace *bool) string {
	switch {
	case addPrefixSpace != nil && !*addPrefixSpace:
		return "never"
	case scheme == "":
		return "always"
	}
	return scheme
}
