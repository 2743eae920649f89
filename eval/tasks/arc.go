package tasks

import (
	"strconv"

	"github.com/coppice-lm/coppice/eval"
)

// ARC: science questions for schools, most with four choices (Clark et al. 2018,
// arXiv:1803.05457). The easy set is what retrieval and word co-occurrence answer.
func arcEasy() Definition {
	return arc("arc_easy", "ARC, easy set: school science, multiple choice", "arc_easy/ARC-Easy-Test.jsonl")
}

func arcChallenge() Definition {
	return arc("arc_challenge", "ARC, challenge set: school science, multiple choice", "arc_challenge/ARC-Challenge-Test.jsonl")
}

func arc(name, summary, file string) Definition {
	return Definition{
		Name: name, Summary: summary, Files: []string{file},
		Kind: eval.MultipleChoice, Metrics: []string{eval.Acc, eval.AccNorm}, Version: 1,
		doc: arcDoc,
	}
}

func arcDoc(r record) (eval.Doc, error) {
	stem, choices, gold, err := ai2Question(r, "question")
	if err != nil {
		return eval.Doc{}, err
	}
	return multipleChoice("Question: "+stem+"\nAnswer:", choices.texts, gold, strconv.Itoa(gold))
}
