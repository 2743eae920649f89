package tasks

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// parsePythonStrings reads a Python list or tuple of string literals, the form in which some
// data sets hold lists in a column of strings: "['a', \"b's\"]".
func parsePythonStrings(s string) ([]string, error) {
	s = strings.TrimSpace(s)
	closing := map[string]string{"[": "]", "(": ")"}
	if len(s) < 2 || closing[s[:1]] == "" || !strings.HasSuffix(s, closing[s[:1]]) {
		return nil, fmt.Errorf("%q is not a Python list of strings", s)
	}
	rest := strings.TrimSpace(s[1 : len(s)-1])
	var out []string
	for rest != "" {
		value, after, err := parsePythonString(rest)
		if err != nil {
			return nil, err
		}
		out = append(out, value)
		after = strings.TrimSpace(after)
		if after != "" && after[0] != ',' {
			return nil, fmt.Errorf("%q follows a string, where a comma should", after)
		}
		rest = strings.TrimSpace(strings.TrimPrefix(after, ","))
	}
	return out, nil
}

// parsePythonString reads the literal at the begin of s and returns what follows it.
func parsePythonString(s string) (value, rest string, err error) {
	quote := s[0]
	if quote != '\'' && quote != '"' {
		return "", "", fmt.Errorf("%q does not begin with a quotation mark", s)
	}
	var b strings.Builder
	for i := 1; i < len(s); {
		switch s[i] {
		case quote:
			return b.String(), s[i+1:], nil
		case '\\':
			n, err := parsePythonEscape(&b, s[i:])
			if err != nil {
				return "", "", err
			}
			i += n
		default:
			b.WriteByte(s[i])
			i++
		}
	}
	return "", "", fmt.Errorf("%q has no closing quotation mark", s)
}

var pythonEscapes = map[byte]string{
	'\\': `\`, '\'': "'", '"': `"`, 'n': "\n", 't': "\t", 'r': "\r", 'a': "\a", 'b': "\b", 'f': "\f", 'v': "\v", '\n': "",
}

// parsePythonEscape writes what the escape at the begin of s stands for and returns its
// length in bytes.
func parsePythonEscape(b *strings.Builder, s string) (int, error) {
	if len(s) < 2 {
		return 0, fmt.Errorf("a string ends in a backslash")
	}
	if text, ok := pythonEscapes[s[1]]; ok {
		b.WriteString(text)
		return 2, nil
	}
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[1]]
	if digits == 0 {
		return 0, fmt.Errorf("unknown escape %q", s[:2])
	}
	if len(s) < 2+digits {
		return 0, fmt.Errorf("the escape %q is cut off", s)
	}
	code, err := strconv.ParseUint(s[2:2+digits], 16, 32)
	if err != nil || !utf8.ValidRune(rune(code)) {
		return 0, fmt.Errorf("the escape %q is no character", s[:2+digits])
	}
	b.WriteRune(rune(code))
	return 2 + digits, nil
}
