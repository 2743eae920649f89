package tasks

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/coppice-lm/coppice/eval"
)

// multipleChoice makes the document of a question: every choice follows the same context
// after one space.
func multipleChoice(context string, choices []string, gold int, target string) (eval.Doc, error) {
	doc := eval.Doc{Gold: gold, Target: target}
	if gold < 0 || gold >= len(choices) {
		return doc, fmt.Errorf("the right answer is number %d of %d choices, counted from 0", gold, len(choices))
	}
	for _, c := range choices {
		doc.Pairs = append(doc.Pairs, eval.Pair{Context: context, Continuation: " " + c})
		doc.Lengths = append(doc.Lengths, utf8.RuneCountInString(c))
	}
	return doc, nil
}

// labelledChoices are the choices of a question as AI2 writes them: each with the letter or
// digit that the answer refers to.
type labelledChoices struct {
	texts, labels []string
}

// UnmarshalJSON reads a list of {"text","label"} objects (the authors' files) or an object
// of two lists of these names (the data-set library).
func (c *labelledChoices) UnmarshalJSON(data []byte) error {
	type choice struct {
		Text  *string `json:"text"`
		Label *string `json:"label"`
	}
	if bytes.HasPrefix(data, []byte("[")) {
		var list []choice
		if err := json.Unmarshal(data, &list); err != nil {
			return err
		}
		for i, e := range list {
			if e.Text == nil || e.Label == nil {
				return fmt.Errorf("choice %d lacks text or label", i)
			}
			c.texts, c.labels = append(c.texts, *e.Text), append(c.labels, *e.Label)
		}
		return nil
	}
	var lists struct {
		Text  []string `json:"text"`
		Label []string `json:"label"`
	}
	if err := json.Unmarshal(data, &lists); err != nil {
		return err
	}
	if len(lists.Text) != len(lists.Label) {
		return fmt.Errorf("%d texts and %d labels", len(lists.Text), len(lists.Label))
	}
	c.texts, c.labels = lists.Text, lists.Label
	return nil
}

// ai2Question reads the question, choices and answer of ARC and OpenBookQA. In the authors'
// schema "question" is an object with "stem" and "choices"; the data-set library has the
// stem in a field of its own, whose name differs between the two.
func ai2Question(r record, stemField string) (stem string, choices labelledChoices, gold int, err error) {
	if r.has("question") && bytes.HasPrefix(r.fields["question"], []byte("{")) {
		var fields map[string]json.RawMessage
		if err := r.decode("question", &fields); err != nil {
			return "", choices, 0, err
		}
		inner := record{fields: fields}
		if stem, err = inner.text("stem"); err == nil {
			err = inner.decode("choices", &choices)
		}
		if err != nil {
			return "", choices, 0, fmt.Errorf("in \"question\": %w", err)
		}
	} else {
		if stem, err = r.text(stemField); err == nil {
			err = r.decode("choices", &choices)
		}
		if err != nil {
			return "", choices, 0, err
		}
	}
	key, err := r.text("answerKey")
	if err != nil {
		return "", choices, 0, err
	}
	key = strings.TrimLeftFunc(key, eval.IsSpace)
	gold = slices.Index(choices.labels, key)
	if gold < 0 {
		return "", choices, 0, fmt.Errorf("answerKey %q is none of the labels %q", key, choices.labels)
	}
	return stem, choices, gold, nil
}
