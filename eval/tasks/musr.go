package tasks

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/eval"
)

// MuSR: stories of about a thousand words and a question that takes several steps (Sprague
// et al. 2023, arXiv:2310.16049). lm-eval knows the tasks as leaderboard_musr_*.
func musr(part string) Definition {
	name := "musr_" + part
	return Definition{
		Name: name, Group: "musr", Aliases: []string{"leaderboard_" + name},
		Summary: "MuSR, " + strings.ReplaceAll(part, "_", " ") + ": reasoning over a story",
		Files:   []string{"musr/" + part + ".jsonl", "musr/" + part + ".parquet", "musr/" + part + "-00000-of-00001.parquet"},
		Kind:    eval.MultipleChoice, Metrics: []string{eval.AccNorm}, Version: 1,
		doc: musrDoc,
	}
}

// musrDoc lists the choices between question and answer, each on a line of its own with its
// number, and an empty line after the last. The data-set library has the choices as a
// Python literal in a string.
func musrDoc(r record) (eval.Doc, error) {
	fields, err := r.texts("narrative", "question", "answer_choice")
	if err != nil {
		return eval.Doc{}, err
	}
	var choices []string
	if r.has("choices") && bytes.HasPrefix(r.fields["choices"], []byte(`"`)) {
		literal, err := r.text("choices")
		if err != nil {
			return eval.Doc{}, err
		}
		if choices, err = parsePythonStrings(literal); err != nil {
			return eval.Doc{}, fmt.Errorf("field \"choices\": %w", err)
		}
	} else if err := r.decode("choices", &choices); err != nil {
		return eval.Doc{}, err
	}
	gold := slices.Index(choices, fields[2])
	if gold < 0 {
		return eval.Doc{}, fmt.Errorf("answer_choice %q is none of the choices %q", fields[2], choices)
	}
	var context strings.Builder
	fmt.Fprintf(&context, "%s\n\n%s\n\n", fields[0], fields[1])
	for i, c := range choices {
		fmt.Fprintf(&context, "%d - %s\n", i+1, c)
	}
	context.WriteString("\nAnswer:")
	return multipleChoice(context.String(), choices, gold, fields[2])
}
