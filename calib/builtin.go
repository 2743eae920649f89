package calib

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
)

// BuiltInName names the built-in text among the paths of a calibration text. A file of that
// name is ./builtin.
const BuiltInName = "builtin"

// UsesBuiltIn reports whether the built-in text is read for some paths: named, or because
// there are none.
func UsesBuiltIn(paths []string) bool {
	return len(paths) == 0 || slices.Contains(paths, BuiltInName)
}

// builtIn says at its head what it is and how it is laid out. It is not compressed, so
// that it can be read where it stands.
//
//go:embed builtin.txt
var builtIn string

// Work is a work of which the built-in text has passages.
type Work struct {
	Title, Author, Year string
	Source              string // repository@commit, and the files in it
	Passages            []string
}

// BuiltIn returns the text that the program carries for those who have none of their own:
// about 77,000 tokens of SmolLM2 in English, of many kinds and in the public domain.
// docs/calibration-text.md says how it was chosen.
func BuiltIn() []Work {
	var all []Work
	for _, work := range strings.Split(builtIn, "\n%% ")[1:] {
		head, text, _ := strings.Cut(work, "\n")
		about := strings.SplitN(head, " | ", 4)
		w := Work{Title: about[0], Author: about[1], Year: about[2], Source: about[3]}
		for passage := range strings.SplitSeq(text, "\n%\n") {
			w.Passages = append(w.Passages, strings.TrimSpace(passage))
		}
		all = append(all, w)
	}
	return all
}

// builtInDocuments are its passages.
func builtInDocuments() []document {
	var all []document
	for _, w := range BuiltIn() {
		for i, text := range w.Passages {
			all = append(all, document{name: fmt.Sprintf("the built-in text, %s, passage %d", w.Title, i+1), text: text})
		}
	}
	return all
}
