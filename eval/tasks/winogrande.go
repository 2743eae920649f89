package tasks

import (
	"fmt"
	"strings"

	"github.com/coppice-lm/coppice/eval"
)

// WinoGrande: which of two nouns a blank stands for (Sakaguchi et al. 2019,
// arXiv:1907.10641). Each option makes a context of its own, up to and with the option; the
// rest of the sentence is what is scored, the same for both.
func winogrande() Definition {
	return Definition{
		Name: "winogrande", Summary: "WinoGrande: which of two nouns fills a blank",
		Files: []string{"winogrande/dev.jsonl"},
		Kind:  eval.MultipleChoice, Metrics: []string{eval.Acc}, Version: 1,
		Answers: []string{"1", "2"},
		doc:     winograndeDoc,
	}
}

func winograndeDoc(r record) (eval.Doc, error) {
	fields, err := r.texts("sentence", "option1", "option2", "answer")
	if err != nil {
		return eval.Doc{}, err
	}
	before, after, found := strings.Cut(fields[0], "_")
	if !found {
		return eval.Doc{}, fmt.Errorf("the sentence %q has no blank \"_\"", fields[0])
	}
	gold := map[string]int{"1": 0, "2": 1}
	answer, ok := gold[fields[3]]
	if !ok {
		return eval.Doc{}, fmt.Errorf("answer %q is neither 1 nor 2; the test set has no answers, take the validation set", fields[3])
	}
	rest := strings.TrimFunc(after, eval.IsSpace)
	doc, err := multipleChoice("", []string{rest, rest}, answer, rest)
	for i, option := range fields[1:3] {
		doc.Pairs[i].Context = before + option
	}
	return doc, err
}
