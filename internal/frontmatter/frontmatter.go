// Package frontmatter reads the YAML at the head of a README.md, in which the Hugging Face
// hub keeps what a model or a data set is: licence, languages, what it was made of.
//
//	---
//	license: llama3.2
//	base_model: meta-llama/Llama-3.2-3B
//	---
//	# A model
//
// Such blocks are written by hand, and some are broken. What can be read of one is
// returned beside the error that says what cannot, so that a typing mistake in one key
// does not cost the licence in another.
package frontmatter

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Front is what the front matter of a model says, as far as Coppice has a use for it.
type Front struct {
	License     string   // an identifier of the hub, "llama3.2"
	LicenseName string   // the name of one that the hub does not know
	LicenseLink string   // where its text is
	BaseModels  []string // owner/name
	Languages   []string // ISO 639 codes
	Tags        []string
}

// Parse reads the front matter of a README. One without front matter says nothing and is
// no error. The error names the keys that could not be read, which stay empty.
func Parse(readme []byte) (Front, error) {
	block, err := cut(readme)
	if block == nil || err != nil {
		return Front{}, err
	}
	var fields map[string]yaml.Node
	if err := yaml.Unmarshal(block, &fields); err != nil {
		return Front{}, fmt.Errorf("its front matter: %w", err)
	}
	var f Front
	var unread []string
	for _, k := range []struct {
		key  string
		one  *string
		many *[]string
	}{
		{key: "license", one: &f.License},
		{key: "license_name", one: &f.LicenseName},
		{key: "license_link", one: &f.LicenseLink},
		{key: "base_model", many: &f.BaseModels},
		{key: "language", many: &f.Languages},
		{key: "tags", many: &f.Tags},
	} {
		node, ok := fields[k.key]
		if !ok {
			continue
		}
		words, err := list(&node)
		if err != nil {
			unread = append(unread, fmt.Sprintf("line %d: key %q: %v", node.Line, k.key, err))
		}
		if k.many != nil {
			*k.many = words
		} else if len(words) > 0 {
			*k.one = words[0]
		}
	}
	if unread != nil {
		return f, fmt.Errorf("its front matter: %s", strings.Join(unread, "; "))
	}
	return f, nil
}

// list reads a string or a list of strings. Words stay as they are written, so that the
// language "no" is not a truth value.
func list(n *yaml.Node) ([]string, error) {
	switch {
	case n.Kind == yaml.ScalarNode:
		if n.Value == "" || n.ShortTag() == "!!null" {
			return nil, nil
		}
		return []string{n.Value}, nil
	case n.Kind != yaml.SequenceNode:
		return nil, errors.New("expected a word or a list of words")
	}
	var words []string
	for _, item := range n.Content {
		if item.Kind != yaml.ScalarNode {
			return words, errors.New("expected a list of words")
		}
		if item.Value != "" && item.ShortTag() != "!!null" {
			words = append(words, item.Value)
		}
	}
	return words, nil
}

// cut returns the YAML of a README's front matter, empty lines standing for those before
// it, so that line numbers are the file's; nil where there is none. Where it begins and
// ends is the hub's rule (REGEX_YAML_BLOCK of huggingface_hub): white space may come
// before it, and a line --- ends it.
func cut(readme []byte) ([]byte, error) {
	text := bytes.TrimPrefix(readme, []byte("\ufeff"))
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	rest := bytes.TrimLeft(text, " \t\n")
	before := bytes.Count(text[:len(text)-len(rest)], []byte("\n"))
	lines := slices.Collect(bytes.Lines(rest))
	if len(lines) == 0 || string(lines[0]) != "---\n" {
		return nil, nil
	}
	for i, line := range lines[1:] {
		if string(bytes.TrimRight(line, " \t\n")) == "---" {
			return append(bytes.Repeat([]byte("\n"), before+1), bytes.Join(lines[1:i+1], nil)...), nil
		}
	}
	return nil, errors.New("its front matter has no end (a line ---)")
}
