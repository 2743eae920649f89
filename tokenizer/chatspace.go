package tokenizer

import (
	"errors"
	"strconv"
	"strings"
	"unicode"
)

// explicitSpace writes a Jinja template without anything that depends on white space
// control: text becomes string expressions, from which is cut what "-", trim_blocks and
// lstrip_blocks would cut (transformers sets both), and comments vanish. The library
// gets adjacent tags wrong: it renders "a {{ x }}{%- if y %}" without the space.
//
// The rules are those of the Jinja documentation, "Whitespace Control". Raw blocks, which
// chat templates do not use, are an error.
func explicitSpace(source string) (string, error) {
	source = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(source)
	source = strings.TrimSuffix(source, "\n")
	var out strings.Builder
	lineStart := true // the text starts a line
	for rest := source; rest != ""; {
		i := nextTag(rest)
		text := rest[:i]
		if i == len(rest) {
			writeText(&out, text)
			break
		}
		tag, err := cutTag(rest[i:])
		if err != nil {
			return "", err
		}
		rest = rest[i+tag.size:]
		if tag.kind == '%' && tag.body == "raw" {
			return "", errors.New("raw blocks are not supported")
		}
		switch {
		case tag.left == '-':
			text = strings.TrimRightFunc(text, unicode.IsSpace)
		case tag.left != '+' && tag.kind != '{':
			text = trimIndent(text, lineStart)
		}
		writeText(&out, text)
		if tag.kind != '#' {
			out.WriteString("{" + string(tag.kind) + " " + tag.body + " " + closer(tag.kind))
		}
		lineStart = false
		switch {
		case tag.right == '-':
			kept := strings.TrimLeftFunc(rest, unicode.IsSpace)
			cut := rest[:len(rest)-len(kept)]
			rest, lineStart = kept, strings.HasSuffix(cut, "\n")
		case tag.right != '+' && tag.kind != '{' && strings.HasPrefix(rest, "\n"):
			rest, lineStart = rest[1:], true
		}
	}
	return out.String(), nil
}

// trimIndent cuts what stands before a block tag on its line, if that is only space.
func trimIndent(text string, lineStart bool) string {
	line := strings.LastIndexByte(text, '\n') + 1
	if (line > 0 || lineStart) && strings.TrimSpace(text[line:]) == "" {
		return text[:line]
	}
	return text
}

// writeText writes text as an expression that yields it.
func writeText(out *strings.Builder, text string) {
	if text != "" {
		quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(text)
		out.WriteString(`{{ "` + quoted + `" }}`)
	}
}

// A jinjaTag is one {{ }}, {% %} or {# #}.
type jinjaTag struct {
	kind        byte // '{', '%' or '#'
	left, right byte // '-' or '+' inside the delimiters, else 0
	body        string
	size        int // of the whole tag in the source
}

func closer(kind byte) string {
	if kind == '{' {
		return "}}"
	}
	return string(kind) + "}"
}

// nextTag is the index of the first tag, len(s) if there is none.
func nextTag(s string) int {
	for i := 0; i+1 < len(s); i++ {
		if s[i] == '{' && strings.IndexByte("{%#", s[i+1]) >= 0 {
			return i
		}
	}
	return len(s)
}

// cutTag reads the tag that s starts with.
func cutTag(s string) (jinjaTag, error) {
	t := jinjaTag{kind: s[1]}
	end := tagEnd(s, t.kind)
	if end < 0 {
		return t, errors.New("tag " + strconv.Quote(s[:min(len(s), 20)]) + " has no end")
	}
	t.size = end + 2
	body := s[2:end]
	if body != "" && (body[0] == '-' || body[0] == '+') {
		t.left, body = body[0], body[1:]
	}
	if n := len(body); n > 0 && (body[n-1] == '-' || body[n-1] == '+') {
		t.right, body = body[n-1], body[:n-1]
	}
	t.body = strings.TrimSpace(body)
	return t, nil
}

// tagEnd is the index of the closing delimiter of the tag that s starts with, -1 if
// there is none. Delimiters in strings, and braces that an expression opened, do not
// count.
func tagEnd(s string, kind byte) int {
	if kind == '#' {
		if n := strings.Index(s[2:], "#}"); n >= 0 {
			return n + 2
		}
		return -1
	}
	depth := 0
	for i := 2; i < len(s); i++ {
		switch c := s[i]; {
		case depth == 0 && strings.HasPrefix(s[i:], closer(kind)):
			return i
		case c == '{':
			depth++
		case c == '}':
			depth--
		case c == '\'' || c == '"':
			for i++; i < len(s) && s[i] != c; i++ {
				if s[i] == '\\' {
					i++
				}
			}
		}
	}
	return -1
}
