package tasks

import (
	"fmt"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/coppice-lm/coppice/eval"
)

// userQuestion makes documents of a multiple-choice task out of a task file.
type userQuestion struct {
	context, answer *template
	choices, labels *texts // labels may be nil
}

// texts are several strings: a template each, or the elements of one field.
type texts struct {
	field    *template
	elements []*template
}

func parseTexts(n *yaml.Node) (*texts, error) {
	if n.Kind == yaml.ScalarNode {
		t, err := nodeTemplate(n)
		if err != nil {
			return nil, err
		}
		if t.field() == nil {
			return nil, lineError(n, "%q must be a list, or name a field that is one, such as \"{options}\"", n.Value)
		}
		return &texts{field: t}, nil
	}
	if n.Kind != yaml.SequenceNode {
		return nil, lineError(n, "a list belongs here, or a field that is one, such as \"{options}\"")
	}
	var out texts
	for _, e := range n.Content {
		if e.Kind != yaml.ScalarNode {
			return nil, lineError(e, "an element of the list must be text")
		}
		t, err := nodeTemplate(e)
		if err != nil {
			return nil, err
		}
		out.elements = append(out.elements, t)
	}
	return &out, nil
}

func (t *texts) render(r record) ([]string, error) {
	if t.field != nil {
		return t.field.list(r)
	}
	out := make([]string, len(t.elements))
	for i, e := range t.elements {
		var err error
		if out[i], err = e.render(r); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (q *userQuestion) doc(r record) (eval.Doc, error) {
	context, err := q.context.render(r)
	if err != nil {
		return eval.Doc{}, err
	}
	choices, err := q.choices.render(r)
	if err != nil {
		return eval.Doc{}, err
	}
	if i := slices.Index(choices, ""); i >= 0 {
		return eval.Doc{}, fmt.Errorf("choice %d is empty, so there is nothing to predict", i)
	}
	gold, err := q.gold(r, choices)
	if err != nil {
		return eval.Doc{}, q.answer.errorf(err)
	}
	return multipleChoice(context, choices, gold, strconv.Itoa(gold))
}

// gold finds the right choice: by its label where there are labels, else by its text or its
// index from 0, which must not contradict each other.
func (q *userQuestion) gold(r record, choices []string) (int, error) {
	answer, err := q.answer.render(r)
	if err != nil {
		return 0, err
	}
	if q.labels != nil {
		labels, err := q.labels.render(r)
		if err != nil {
			return 0, err
		}
		if len(labels) != len(choices) {
			return 0, fmt.Errorf("%d labels for %d choices", len(labels), len(choices))
		}
		if i := slices.Index(labels, answer); i >= 0 {
			return i, nil
		}
		return 0, fmt.Errorf("the answer %q is none of the labels %q", answer, labels)
	}
	byText := slices.Index(choices, answer)
	byIndex, err := strconv.Atoi(answer)
	switch {
	case answer == "false":
		byIndex = 0
	case answer == "true":
		byIndex = 1
	case err != nil:
		byIndex = -1
	}
	switch {
	case byText < 0 && byIndex < 0:
		return 0, fmt.Errorf("the answer %q is neither one of the choices %q nor an index", answer, choices)
	case byText < 0:
		return byIndex, nil
	case byIndex >= 0 && byIndex < len(choices) && byIndex != byText:
		return 0, fmt.Errorf("the answer %q is the text of choice %d and the index of another; give the task labels", answer, byText)
	}
	return byText, nil
}
