package tokenizer

import "strings"

// A wordSplit is one of the published split patterns, written out by hand: they differ
// in few points, and a regular expression engine with look-ahead takes most of the time
// of an encoder. Every byte of a text belongs to exactly one word.
//
// The general pattern, of which each alternative is tried in this order:
//
//	contractions                  's 't 're 've 'm 'll 'd
//	[^\r\n\p{L}\p{N}]?\p{L}+      letters, behind any one rune that is no letter, number
//	                              or line end (spaceOnly: behind a space alone)
//	\p{N}{1,digits}               (digits 0: ` ?\p{N}+`)
//	 ?[^\s\p{L}\p{N}]+[\r\n]*     other symbols (lineEnds: with the line ends behind)
//	\s*[\r\n]+                    (lineEnds) white space up to its last line end
//	\s+(?!\S)                     white space but for its last rune, which goes with
//	                              the next word
//	\s+
type wordSplit struct {
	foldCase  bool // contractions in any case, 'ſ for 's among them
	spaceOnly bool
	digits    int
	lineEnds  bool
}

// knownSplits are the patterns that a wordSplit stands for.
var knownSplits = map[string]wordSplit{
	patternGPT2:   {spaceOnly: true},
	patternLlama3: {foldCase: true, digits: 3, lineEnds: true},
	patternQwen2:  {foldCase: true, digits: 1, lineEnds: true},
}

// end is the end of the word that starts at s[i], i < len(s).
func (w *wordSplit) end(t *runeTable, s string, i int) int {
	if s[i] == '\'' {
		if n := w.contraction(s[i+1:]); n > 0 {
			return i + 1 + n
		}
	}
	c, n := t.at(s, i)
	next := i + n
	switch {
	case c&classLetter != 0:
		return letters(t, s, next)
	case c&classNumber != 0:
		return w.numbers(t, s, next)
	case c&classSpace != 0:
		// A space (or, for most patterns, any rune but a line end) may lead a word.
		c2, n2 := t.at(s, next)
		switch {
		case c2&classLetter != 0 && (s[i] == ' ' || !w.spaceOnly && c&classNewline == 0):
			return letters(t, s, next+n2)
		case s[i] != ' ':
		case c2&classNumber != 0 && w.digits == 0:
			return w.numbers(t, s, next+n2)
		case c2&wordClass == 0 && next < len(s):
			return w.symbols(t, s, next+n2)
		}
		return w.spaces(t, s, i)
	default:
		if !w.spaceOnly {
			if c2, n2 := t.at(s, next); c2&classLetter != 0 {
				return letters(t, s, next+n2)
			}
		}
		return w.symbols(t, s, next)
	}
}

// contraction is the length of the contraction s starts with, behind its apostrophe.
func (w *wordSplit) contraction(s string) int {
	if len(s) == 0 {
		return 0
	}
	c, c2 := s[0], byte(0)
	if len(s) > 1 {
		c2 = s[1]
	}
	if w.foldCase {
		if strings.HasPrefix(s, "ſ") {
			return len("ſ")
		}
		c, c2 = c|0x20, c2|0x20
	}
	switch c {
	case 's', 't', 'm', 'd':
		return 1
	case 'r', 'v':
		if c2 == 'e' {
			return 2
		}
	case 'l':
		if c2 == 'l' {
			return 2
		}
	}
	return 0
}

// letters is the end of the letters that go on at s[i].
func letters(t *runeTable, s string, i int) int {
	for i < len(s) {
		c, n := t.at(s, i)
		if c&classLetter == 0 {
			break
		}
		i += n
	}
	return i
}

// numbers is the end of a number of which one digit stands before s[i].
func (w *wordSplit) numbers(t *runeTable, s string, i int) int {
	for count := 1; i < len(s) && count != w.digits; count++ {
		c, n := t.at(s, i)
		if c&classNumber == 0 {
			break
		}
		i += n
	}
	return i
}

// symbols is the end of a run of symbols that goes on at s[i].
func (w *wordSplit) symbols(t *runeTable, s string, i int) int {
	for i < len(s) {
		c, n := t.at(s, i)
		if c&wordClass != 0 {
			break
		}
		i += n
	}
	for w.lineEnds && i < len(s) && (s[i] == '\n' || s[i] == '\r') {
		i++
	}
	return i
}

// spaces is the end of the word of white space that starts at s[i].
func (w *wordSplit) spaces(t *runeTable, s string, i int) int {
	start, last, lineEnd := i, i, -1
	for i < len(s) {
		c, n := t.at(s, i)
		if c&classSpace == 0 {
			break
		}
		last = i
		i += n
		if c&classNewline != 0 {
			lineEnd = i
		}
	}
	switch {
	case w.lineEnds && lineEnd >= 0:
		return lineEnd
	case i == len(s) || last == start:
		return i
	default:
		return last
	}
}

// digitEnd is the end of the piece at s[i] for the Digits pre-tokenizer: one digit (or,
// if together is set, a run of them), or all up to the next digit.
func digitEnd(t *runeTable, s string, i int, together bool) int {
	c, n := t.at(s, i)
	digit := c & classDigit
	i += n
	if digit != 0 && !together {
		return i
	}
	for i < len(s) {
		c, n := t.at(s, i)
		if c&classDigit != digit {
			break
		}
		i += n
	}
	return i
}
