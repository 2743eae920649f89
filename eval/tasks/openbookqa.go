package tasks

import (
	"strconv"

	"github.com/coppice-lm/coppice/eval"
)

// OpenBookQA: elementary science that takes a fact and its application (Mihaylov et al.
// 2018, arXiv:1809.02789), asked without the book.
func openbookqa() Definition {
	return Definition{
		Name: "openbookqa", Summary: "OpenBookQA: elementary science, four choices",
		Files: []string{"openbookqa/test.jsonl"},
		Kind:  eval.MultipleChoice, Metrics: []string{eval.Acc, eval.AccNorm}, Version: 1,
		doc: openbookqaDoc,
	}
}

func openbookqaDoc(r record) (eval.Doc, error) {
	stem, choices, gold, err := ai2Question(r, "question_stem")
	if err != nil {
		return eval.Doc{}, err
	}
	return multipleChoice(stem, choices.texts, gold, strconv.Itoa(gold))
}
