package tokenizer

import (
	"fmt"
	"strings"
	"time"

	"github.com/dlclark/regexp2/v2"
)

// A pattern finds what a Split or a Replace is about: a literal string or a regular
// expression. Expressions have look-ahead, which Go's regexp lacks.
type pattern struct {
	literal string
	re      *regexp2.Regexp
}

// matchLimit bounds the time of one match, as a pattern of a file that is not trusted
// could take for ever. The rest of the text is then taken as without a match.
const matchLimit = 2 * time.Second

func newPattern(p *patternJSON) (*pattern, error) {
	switch {
	case p == nil || (p.String == nil) == (p.Regex == nil):
		return nil, fmt.Errorf("a pattern needs either String or Regex")
	case p.String != nil && *p.String == "":
		return nil, fmt.Errorf("the pattern is empty")
	case p.String != nil:
		return &pattern{literal: *p.String}, nil
	}
	re, err := regexp2.Compile(*p.Regex)
	if err != nil {
		return nil, fmt.Errorf("pattern %q: %w", *p.Regex, err)
	}
	re.MatchTimeout = matchLimit
	return &pattern{re: re}, nil
}

// each calls yield with the byte range of each match, from left to right.
func (p *pattern) each(s string, yield func(start, end int)) {
	if p.re == nil {
		for i := 0; ; {
			at := strings.Index(s[i:], p.literal)
			if at < 0 {
				return
			}
			yield(i+at, i+at+len(p.literal))
			i += at + len(p.literal)
		}
	}
	m, err := p.re.FindStringMatch(s)
	for ; m != nil && err == nil; m, err = p.re.FindNextMatch(m) {
		start, n := m.ByteRange()
		yield(start, start+n)
	}
}

// replace is s with content in place of each match.
func (p *pattern) replace(s, content string) string {
	if p.re == nil {
		return strings.ReplaceAll(s, p.literal, content)
	}
	var out strings.Builder
	rest := 0
	p.each(s, func(start, end int) {
		out.WriteString(s[rest:start])
		out.WriteString(content)
		rest = end
	})
	out.WriteString(s[rest:])
	return out.String()
}
