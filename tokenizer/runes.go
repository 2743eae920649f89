package tokenizer

import (
	"sync"
	"unicode"
	"unicode/utf8"
)

// A class is what pre-tokenizers ask of a rune. A rune has at most one of the first
// three.
type class uint8

const (
	classLetter  class = 1 << iota // \p{L}
	classNumber                    // \p{N}
	classSpace                     // \s
	classNewline                   // \r or \n, which are spaces too
	classDigit                     // what the Digits pre-tokenizer calls a digit
)

const wordClass = classLetter | classNumber | classSpace

// A runeTable has the class of every rune in pages of 256, those of unassigned runes
// shared. The ASCII part is there a second time, because nearly every rune of most texts
// is in it.
type runeTable struct {
	ascii [utf8.RuneSelf]class
	index [(unicode.MaxRune + 1) >> pageBits]uint16 // of the rune's page
	pages [][1 << pageBits]class
}

const pageBits = 8

// classes is the table of all runes, built once.
var classes = sync.OnceValue(func() *runeTable {
	t := &runeTable{pages: make([][1 << pageBits]class, 1)}
	set := func(table *unicode.RangeTable, c class) {
		for r := range runesOf(table) {
			page := &t.index[r>>pageBits]
			if *page == 0 {
				*page = uint16(len(t.pages))
				t.pages = append(t.pages, [1 << pageBits]class{})
			}
			t.pages[*page][r&(1<<pageBits-1)] |= c
			if r < utf8.RuneSelf {
				t.ascii[r] |= c
			}
		}
	}
	set(unicode.L, classLetter)
	set(newLetters, classLetter)
	set(unicode.N, classNumber|classDigit)
	set(newNumbers, classNumber|classDigit)
	set(newestNumbers, classDigit)
	set(unicode.White_Space, classSpace)
	set(&unicode.RangeTable{R16: []unicode.Range16{{Lo: '\n', Hi: '\r', Stride: '\r' - '\n'}}}, classNewline)
	return t
})

// runesOf iterates over the runes of a table.
func runesOf(table *unicode.RangeTable) func(yield func(rune) bool) {
	return func(yield func(rune) bool) {
		for _, r := range table.R16 {
			for c := rune(r.Lo); c <= rune(r.Hi); c += rune(r.Stride) {
				if !yield(c) {
					return
				}
			}
		}
		for _, r := range table.R32 {
			for c := rune(r.Lo); c <= rune(r.Hi); c += rune(r.Stride) {
				if !yield(c) {
					return
				}
			}
		}
	}
}

// at is the class of the rune that starts at s[i], and its length in bytes; class 0 and
// length 1 at the end of s, which no pattern takes for a part of a word.
func (t *runeTable) at(s string, i int) (class, int) {
	if i >= len(s) {
		return 0, 1
	}
	if c := s[i]; c < utf8.RuneSelf {
		return t.ascii[c], 1
	}
	r, n := utf8.DecodeRuneInString(s[i:])
	return t.pages[t.index[r>>pageBits]][r&(1<<pageBits-1)], n
}
