package safetensors

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is how deep arrays and objects may nest, as in the reference reader. It
// bounds the recursion of skip.
const maxDepth = 128

// scanner reads JSON (RFC 8259) from valid UTF-8. It is here because encoding/json
// replaces what this format must refuse (lone surrogates), keeps the last of two equal
// keys, and takes several times as long.
type scanner struct {
	text []byte
	pos  int
}

// errorf is a syntax error at the current position.
func (s *scanner) errorf(format string, args ...any) error {
	return fmt.Errorf("header is not valid JSON at byte %d: %s", s.pos, fmt.Sprintf(format, args...))
}

// peek skips white space and returns the next byte without taking it, 0 at the end. (A
// NUL in the text is no token either, so the two need no telling apart.)
func (s *scanner) peek() byte {
	for ; s.pos < len(s.text); s.pos++ {
		switch c := s.text[s.pos]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

// kind says in words what the next value is, for errors.
func (s *scanner) kind() string {
	switch c := s.peek(); {
	case s.pos == len(s.text):
		return "the end of the header"
	case c == '{':
		return "an object"
	case c == '[':
		return "an array"
	case c == '"':
		return "a string"
	case c == 't' || c == 'f':
		return "a boolean"
	case c == 'n':
		return "null"
	case c == '-' || isDigit(c):
		return "a number"
	default:
		return fmt.Sprintf("the byte %q", c)
	}
}

// take consumes the byte c or fails.
func (s *scanner) take(c byte) error {
	if s.peek() != c || s.pos == len(s.text) {
		return s.errorf("want %q, found %s", c, s.kind())
	}
	s.pos++
	return nil
}

// object reads an object and calls member at the value of each key, which member must
// read.
func (s *scanner) object(member func(key []byte) error) error {
	if err := s.take('{'); err != nil {
		return err
	}
	if s.peek() == '}' {
		s.pos++
		return nil
	}
	for {
		key, err := s.string()
		if err != nil {
			return err
		}
		if err := s.take(':'); err != nil {
			return err
		}
		if err := member(key); err != nil {
			return err
		}
		if s.peek() != ',' {
			return s.take('}')
		}
		s.pos++
	}
}

// array reads an array and calls element at each value, which element must read.
func (s *scanner) array(element func() error) error {
	if err := s.take('['); err != nil {
		return err
	}
	if s.peek() == ']' {
		s.pos++
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		if s.peek() != ',' {
			return s.take(']')
		}
		s.pos++
	}
}

// string reads a string and undoes its escapes. The result may be a part of the text,
// so that keys and types are compared without a copy of each.
func (s *scanner) string() ([]byte, error) {
	if err := s.take('"'); err != nil {
		return nil, err
	}
	var unescaped []byte // all before start, once there was an escape
	start := s.pos
	for s.pos < len(s.text) {
		switch c := s.text[s.pos]; {
		case c == '"':
			part := s.text[start:s.pos]
			s.pos++
			if unescaped == nil {
				return part, nil
			}
			return append(unescaped, part...), nil
		case c < ' ':
			return nil, s.errorf("control character %#02x in a string", c)
		case c == '\\':
			unescaped = append(unescaped, s.text[start:s.pos]...)
			r, err := s.escape()
			if err != nil {
				return nil, err
			}
			unescaped = utf8.AppendRune(unescaped, r)
			start = s.pos
		default:
			s.pos++
		}
	}
	return nil, s.errorf("a string does not end")
}

// escape reads one escape sequence, two where they are a surrogate pair.
func (s *scanner) escape() (rune, error) {
	if s.pos+1 >= len(s.text) {
		return 0, s.errorf("a string does not end")
	}
	c := s.text[s.pos+1]
	if c == 'u' {
		return s.unicodeEscape()
	}
	const letters, meanings = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
	i := strings.IndexByte(letters, c)
	if i < 0 {
		return 0, s.errorf("unknown escape \\%c", c)
	}
	s.pos += 2
	return rune(meanings[i]), nil
}

// unicodeEscape reads \uXXXX, or \uXXXX\uXXXX where the first is a high surrogate.
func (s *scanner) unicodeEscape() (rune, error) {
	r, ok := s.hex4()
	if !ok {
		return 0, s.errorf("\\u needs four hexadecimal digits")
	}
	if !utf16.IsSurrogate(r) {
		return r, nil
	}
	low, ok := s.hex4()
	if pair := utf16.DecodeRune(r, low); ok && pair != utf8.RuneError {
		return pair, nil
	}
	return 0, s.errorf("\\u%04x is half of a surrogate pair, so the string is not valid Unicode", r)
}

// hex4 takes \uXXXX.
func (s *scanner) hex4() (rune, bool) {
	const n = len(`\uXXXX`)
	if len(s.text)-s.pos < n || s.text[s.pos] != '\\' || s.text[s.pos+1] != 'u' {
		return 0, false
	}
	v, err := strconv.ParseUint(string(s.text[s.pos+2:s.pos+n]), 16, 16)
	if err != nil {
		return 0, false
	}
	s.pos += n
	return rune(v), true
}

// number takes a number and returns it as it is spelt, a part of the text.
func (s *scanner) number() ([]byte, error) {
	if c := s.peek(); c != '-' && !isDigit(c) {
		return nil, s.errorf("want a number, found %s", s.kind())
	}
	start := s.pos
	s.accept('-')
	ok := s.accept('0') || s.digits()
	if s.accept('.') {
		ok = s.digits() && ok
	}
	if s.accept('e') || s.accept('E') {
		_ = s.accept('+') || s.accept('-')
		ok = s.digits() && ok
	}
	// A digit that is left over follows a leading zero.
	if !ok || s.pos < len(s.text) && isDigit(s.text[s.pos]) {
		return nil, s.errorf("malformed number")
	}
	return s.text[start:s.pos], nil
}

// accept takes c, without white space before it, if it is next.
func (s *scanner) accept(c byte) bool {
	if s.pos < len(s.text) && s.text[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

// digits takes as many digits as there are and reports whether there was one.
func (s *scanner) digits() bool {
	start := s.pos
	for s.pos < len(s.text) && isDigit(s.text[s.pos]) {
		s.pos++
	}
	return s.pos > start
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// word takes true, false or null.
func (s *scanner) word() error {
	for _, w := range [...]string{"true", "false", "null"} {
		if len(s.text)-s.pos >= len(w) && string(s.text[s.pos:s.pos+len(w)]) == w {
			s.pos += len(w)
			return nil
		}
	}
	return s.errorf("want a value, found %s", s.kind())
}

// skip reads one value of any kind that stands inside depth arrays and objects.
func (s *scanner) skip(depth int) error {
	switch c := s.peek(); {
	case c == '{' || c == '[':
		if depth >= maxDepth {
			return s.errorf("arrays and objects nest deeper than %d", maxDepth)
		}
		if c == '{' {
			return s.object(func([]byte) error { return s.skip(depth + 1) })
		}
		return s.array(func() error { return s.skip(depth + 1) })
	case c == '"':
		_, err := s.string()
		return err
	case c == '-' || isDigit(c):
		text, err := s.number()
		if err != nil {
			return err
		}
		if _, err := strconv.ParseFloat(string(text), 64); err != nil {
			return s.errorf("number %.40s is out of range", text)
		}
		return nil
	default:
		return s.word()
	}
}
