package study

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// decoder reads a YAML document into a value whose fields say by their tags what may be
// there. It keeps where each value stood, so that what is found wrong later can be named by
// line and column too.
type decoder struct {
	file  string
	nodes map[string]*yaml.Node // by path, such as models[0].path
	found []mistake
}

// mistake is something wrong at a place of the file.
type mistake struct {
	line, column int
	text         string
}

// decodeYAML fills in v, a pointer to a struct. What is wrong with values is noted for err,
// so that more can be looked for; its own error says that the file is no YAML at all.
func decodeYAML(file string, data []byte, v any) (*decoder, error) {
	d := &decoder{file: file, nodes: map[string]*yaml.Node{}}
	var doc, second yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: is empty; `coppice study init` writes one to begin with", file)
	} else if err != nil {
		// The library's message begins with the line.
		return nil, fmt.Errorf("%s: %s", file, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(&second); err == nil {
		return nil, fmt.Errorf("%s:%d:%d: a second document; a study file has one", file, second.Line, second.Column)
	} else if !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %s", file, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	d.value(doc.Content[0], reflect.ValueOf(v).Elem(), "", "")
	return d, nil
}

// err is all that was found wrong, in the order of the file.
func (d *decoder) err() error {
	slices.SortStableFunc(d.found, func(a, b mistake) int {
		return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.column, b.column))
	})
	var errs []error
	for _, m := range d.found {
		errs = append(errs, fmt.Errorf("%s:%d:%d: %s", d.file, m.line, m.column, m.text))
	}
	return errors.Join(errs...)
}

// errorf notes what is wrong with the value at a path, or with the nearest one around it
// that is there.
func (d *decoder) errorf(path, format string, args ...any) {
	at := path
	n := d.nodes[at]
	for n == nil && at != "" {
		at = at[:max(0, strings.LastIndexAny(at, ".["))]
		n = d.nodes[at]
	}
	d.nodeErrorf(n, path, format, args...)
}

func (d *decoder) nodeErrorf(n *yaml.Node, path, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if path != "" {
		text = path + ": " + text
	}
	d.found = append(d.found, mistake{n.Line, n.Column, text})
}

// value decodes a node. tag is that of the field which the value is, or is an element of.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string, tag reflect.StructTag) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	d.nodes[path] = n
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), path, tag)
	case reflect.Struct:
		d.mapping(n, v, path)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.errorf(path, "expected a list, such as [%s]", strings.TrimSpace(n.Value))
			return
		}
		if len(n.Content) == 0 {
			d.errorf(path, "is empty; leave the key out, or name something")
		}
		v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
		for i, c := range n.Content {
			d.value(c, v.Index(i), fmt.Sprintf("%s[%d]", path, i), tag)
		}
	default:
		d.scalar(n, v, path, tag)
	}
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.errorf(path, "expected keys with values; the keys here are %s", strings.Join(keysOf(v.Type()), ", "))
		return
	}
	prefix := path
	if prefix != "" {
		prefix += "."
	}
	seen := map[string]bool{}
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		field, ok := fieldOf(v.Type(), key.Value)
		switch {
		case !ok:
			d.nodeErrorf(key, path, "unknown key %q; the keys here are %s", key.Value, strings.Join(keysOf(v.Type()), ", "))
		case seen[key.Value]:
			d.nodeErrorf(key, path, "the key %q is there twice", key.Value)
		default:
			d.value(value, v.FieldByIndex(field.Index), prefix+key.Value, field.Tag)
		}
		seen[key.Value] = true
	}
	for _, f := range fieldsOf(v.Type()) {
		if name := f.Tag.Get("yaml"); f.Tag.Get("required") != "" && !seen[name] {
			d.nodeErrorf(n, path, "the key %q is missing: %s", name, f.Tag.Get("doc"))
		}
	}
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string, tag reflect.StructTag) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		d.errorf(path, "expected %s", kindName(v.Kind()))
		return
	}
	whole := v.Kind() == reflect.Int || v.Kind() == reflect.Uint64 // the library would cut 1.5 to 1
	if err := n.Decode(v.Addr().Interface()); err != nil || whole && n.ShortTag() != "!!int" {
		d.errorf(path, "%q is not %s", n.Value, kindName(v.Kind()))
		return
	}
	if enum := tag.Get("enum"); enum != "" && !slices.Contains(strings.Split(enum, ","), n.Value) {
		d.errorf(path, "%q is not one of %s", n.Value, strings.ReplaceAll(enum, ",", ", "))
		return
	}
	x, ok := number(v)
	if !ok {
		if n.Value == "" {
			d.errorf(path, "is empty")
		}
		return
	}
	if math.IsInf(x, 0) {
		d.errorf(path, "%s: expected a finite number", n.Value)
		return
	}
	for _, b := range bounds {
		if text := tag.Get(b.tag); text != "" {
			if limit, err := strconv.ParseFloat(text, 64); err != nil || !b.holds(x, limit) {
				d.errorf(path, "%s: expected %s", n.Value, boundsText(tag))
				return
			}
		}
	}
}

// bounds are the tags that bound numbers, with the JSON schema's words for them. None holds
// of NaN.
var bounds = []struct {
	tag, schema, words string
	holds              func(x, limit float64) bool
}{
	{"min", "minimum", "at least", func(x, limit float64) bool { return x >= limit }},
	{"above", "exclusiveMinimum", "more than", func(x, limit float64) bool { return x > limit }},
	{"below", "exclusiveMaximum", "less than", func(x, limit float64) bool { return x < limit }},
}

func boundsText(tag reflect.StructTag) string {
	var words []string
	for _, b := range bounds {
		if limit := tag.Get(b.tag); limit != "" {
			words = append(words, b.words+" "+limit)
		}
	}
	return strings.Join(words, " and ")
}

func number(v reflect.Value) (float64, bool) {
	switch {
	case v.CanInt():
		return float64(v.Int()), true
	case v.CanUint():
		return float64(v.Uint()), true
	case v.CanFloat():
		return v.Float(), true
	}
	return 0, false
}

func kindName(k reflect.Kind) string {
	switch k {
	case reflect.Int:
		return "a whole number"
	case reflect.Uint64:
		return "a whole number of at least 0"
	case reflect.Float64:
		return "a number"
	}
	return "a text"
}

// fieldsOf lists the fields of a struct that a file may set.
func fieldsOf(t reflect.Type) []reflect.StructField {
	return slices.DeleteFunc(reflect.VisibleFields(t), func(f reflect.StructField) bool { return f.Tag.Get("yaml") == "" })
}

func fieldOf(t reflect.Type, key string) (reflect.StructField, bool) {
	for _, f := range fieldsOf(t) {
		if f.Tag.Get("yaml") == key {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for _, f := range fieldsOf(t) {
		keys = append(keys, f.Tag.Get("yaml"))
	}
	return keys
}
