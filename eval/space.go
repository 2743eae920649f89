package eval

import (
	"strings"
	"unicode"
)

// IsSpace reports whether r is white space to Python's str.isspace, str.strip and the
// regular expression \s on text. Beyond Unicode's White_Space property these are the
// separators U+001C to U+001F, which Go's unicode.IsSpace does not count.
func IsSpace(r rune) bool {
	return unicode.IsSpace(r) || 0x1c <= r && r <= 0x1f
}

// CountWords returns the number of pieces of text split at each run of white space, an
// empty piece at either end counted: len(re.split(r"\s+", text)) in Python.
func CountWords(text string) int {
	words, inSpace := 1, false
	for _, r := range text {
		space := IsSpace(r)
		if space && !inSpace {
			words++
		}
		inSpace = space
	}
	return words
}

// splitTrailingSpace cuts text before its trailing white space.
func splitTrailingSpace(text string) (head, space string) {
	head = strings.TrimRightFunc(text, IsSpace)
	return head, text[len(head):]
}
