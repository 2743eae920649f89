package tasks

import (
	"strconv"

	"github.com/coppice-lm/coppice/eval"
)

// BoolQ: yes/no questions about a passage (Clark et al. 2019, arXiv:1905.10044), in the form
// of SuperGLUE, where the passage begins with the title of its article. 62.17 % of the
// answers are yes, which a model must exceed before its accuracy means anything.
func boolq() Definition {
	return Definition{
		Name: "boolq", Summary: "BoolQ in SuperGLUE's form: yes/no questions about a passage",
		Files: []string{"boolq/superglue_val.jsonl", "boolq/val.jsonl", "boolq/dev.jsonl"},
		Kind:  eval.MultipleChoice, Metrics: []string{eval.Acc}, Version: 2,
		Answers: []string{"no", "yes"},
		doc:     boolqDoc,
	}
}

// boolqDoc reads SuperGLUE's schema (question, passage, label as a truth value or 0/1) or
// that of the original release (question, title, passage, answer), whose passage is put
// into SuperGLUE's form "title -- passage".
func boolqDoc(r record) (eval.Doc, error) {
	fields, err := r.texts("question", "passage")
	if err != nil {
		return eval.Doc{}, err
	}
	question, passage, label := fields[0], fields[1], "label"
	if !r.has("label") {
		title, err := r.text("title")
		if err != nil {
			return eval.Doc{}, err
		}
		passage, label = title+" -- "+passage, "answer"
	}
	gold, err := r.index(label)
	if err != nil {
		return eval.Doc{}, err
	}
	return multipleChoice(passage+"\nQuestion: "+question+"?\nAnswer:", []string{"no", "yes"}, gold, strconv.Itoa(gold))
}
