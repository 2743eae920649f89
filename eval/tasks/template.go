package tasks

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// template is text with fields of a record in braces: "Q: {question}\nA:". A dot goes into
// an object: "{question.stem}". Two braces stand for one.
type template struct {
	source string
	line   int // in the task file
	parts  []templatePart
}

// templatePart is literal text or, with path, the value of a field.
type templatePart struct {
	text string
	path []string
}

// parseTemplate reads a template; line is where the task file has it.
func parseTemplate(source string, line int) (*template, error) {
	t := &template{source: source, line: line}
	var text strings.Builder
	for rest := source; rest != ""; {
		switch {
		case strings.HasPrefix(rest, "{{"), strings.HasPrefix(rest, "}}"):
			text.WriteByte(rest[0])
			rest = rest[2:]
		case rest[0] == '}':
			return nil, fmt.Errorf("%q has a } without {; a brace in the text is written twice", source)
		case rest[0] == '{':
			name, after, found := strings.Cut(rest[1:], "}")
			if !found {
				return nil, fmt.Errorf("%q has a { without }; a brace in the text is written twice", source)
			}
			path := strings.Split(name, ".")
			for _, p := range path {
				if p == "" || strings.ContainsAny(p, "{ \t\n") {
					return nil, fmt.Errorf("{%s} in %q does not name a field", name, source)
				}
			}
			t.parts = append(t.parts, templatePart{text: text.String()}, templatePart{path: path})
			text.Reset()
			rest = after
		default:
			text.WriteByte(rest[0])
			rest = rest[1:]
		}
	}
	t.parts = append(t.parts, templatePart{text: text.String()})
	return t, nil
}

// render fills in the fields of a record.
func (t *template) render(r record) (string, error) {
	var b strings.Builder
	for _, p := range t.parts {
		b.WriteString(p.text)
		if p.path == nil {
			continue
		}
		value, err := lookup(r, p.path)
		if err != nil {
			return "", t.errorf(err)
		}
		text, err := asText(value)
		if err != nil {
			return "", t.errorf(fmt.Errorf("field %q: %w", strings.Join(p.path, "."), err))
		}
		b.WriteString(text)
	}
	return b.String(), nil
}

// list returns the list of strings that a template of a single field names.
func (t *template) list(r record) ([]string, error) {
	path := t.field()
	if path == nil {
		return nil, t.errorf(errors.New("a list is named by a single field, such as \"{options}\""))
	}
	raw, err := lookup(r, path)
	if err != nil {
		return nil, t.errorf(err)
	}
	var values []json.RawMessage
	if err := json.Unmarshal(raw, &values); err != nil {
		return nil, t.errorf(fmt.Errorf("field %q is not a list", strings.Join(path, ".")))
	}
	texts := make([]string, len(values))
	for i, v := range values {
		if texts[i], err = asText(v); err != nil {
			return nil, t.errorf(fmt.Errorf("field %q: %w", strings.Join(path, "."), err))
		}
	}
	return texts, nil
}

// field returns the path of a template that is a single field, else nil.
func (t *template) field() []string {
	if len(t.parts) == 3 && t.parts[0].text == "" && t.parts[2].text == "" {
		return t.parts[1].path
	}
	return nil
}

// errorf says which template of the task file could not be filled in.
func (t *template) errorf(err error) error {
	return fmt.Errorf("%w (in %q, line %d of the task file)", err, t.source, t.line)
}

// lookup goes down a path of objects.
func lookup(r record, path []string) (json.RawMessage, error) {
	for i, name := range path[:len(path)-1] {
		var inner map[string]json.RawMessage
		if err := r.decode(name, &inner); err != nil {
			return nil, err
		}
		if inner == nil {
			return nil, fmt.Errorf("field %q is no object", strings.Join(path[:i+1], "."))
		}
		r = record{fields: inner}
	}
	var value json.RawMessage
	err := r.decode(path[len(path)-1], &value)
	return value, err
}

// asText writes a string as it is, a number with its own digits and a truth value as true
// or false.
func asText(raw json.RawMessage) (string, error) {
	var value any
	if err := json.Unmarshal(raw, &value); err != nil {
		return "", err
	}
	switch v := value.(type) {
	case string:
		return v, nil
	case float64, bool:
		return string(raw), nil
	}
	return "", fmt.Errorf("%.40s is not a string or number", raw)
}
