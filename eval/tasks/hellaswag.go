package tasks

import (
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"

	"github.com/coppice-lm/coppice/eval"
)

// HellaSwag: which of four endings continues a description (Zellers et al. 2019,
// arXiv:1905.07830).
func hellaswag() Definition {
	return Definition{
		Name: "hellaswag", Summary: "HellaSwag: the likeliest of four endings",
		Files: []string{"hellaswag/hellaswag_val.jsonl"},
		Kind:  eval.MultipleChoice, Metrics: []string{eval.Acc, eval.AccNorm}, Version: 1,
		doc: hellaswagDoc,
	}
}

func hellaswagDoc(r record) (eval.Doc, error) {
	fields, err := r.texts("activity_label", "ctx_a", "ctx_b")
	if err != nil {
		return eval.Doc{}, err
	}
	var endings []string
	if err := r.decode("endings", &endings); err != nil {
		return eval.Doc{}, err
	}
	gold, err := r.index("label")
	if err != nil {
		return eval.Doc{}, err
	}
	for i := range endings {
		endings[i] = cleanHellaswag(endings[i])
	}
	context := cleanHellaswag(fields[0] + ": " + fields[1] + " " + capitalize(fields[2]))
	return multipleChoice(context, endings, gold, strconv.Itoa(gold))
}

// bracketed is what the WikiHow part of the data left in brackets, within a line.
var bracketed = regexp.MustCompile(`\[.*?\]`)

// cleanHellaswag removes the marks of WikiHow's mark-up. Two spaces become one once, from
// left to right: three become two.
func cleanHellaswag(s string) string {
	s = strings.TrimFunc(s, eval.IsSpace)
	s = strings.ReplaceAll(s, " [title]", ". ")
	s = bracketed.ReplaceAllString(s, "")
	return strings.ReplaceAll(s, "  ", " ")
}

// capitalize gives the first letter its title form and all others their small one, as
// Python's str.capitalize does and lm-eval with it: "ßA" becomes "Ssa".
func capitalize(s string) string {
	_, size := utf8.DecodeRuneInString(s)
	return cases.Title(language.Und).String(s[:size]) + cases.Lower(language.Und).String(s[size:])
}
