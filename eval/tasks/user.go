package tasks

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/coppice-lm/coppice/eval"
)

// LoadFile reads tasks that a user wrote, from a YAML file such as
//
//	tasks:
//	  - name: capitals
//	    kind: multiple_choice
//	    data: capitals.jsonl            # JSON Lines or Parquet, beside this file
//	    context: "Q: {question}\nA:"
//	    choices: ["{right}", "{wrong}"] # or "{options}", a field that is a list
//	    answer: "{label}"               # an index from 0, or one of the labels, or a choice
//	    labels: ["A", "B"]              # optional; or "{options_label}"
//	    metrics: [acc]                  # optional: acc and acc_norm
//	    group: geography                # optional
//	  - name: last_words
//	    kind: cloze
//	    data: texts.jsonl
//	    context: "{text}"
//	    target: "{word}"                # follows the context after one space
//	  - name: letters
//	    kind: rolling
//	    data: letters.parquet
//	    text: "{body}"
//
// In braces stand fields of the record, {a.b} for one within an object; a brace of the text
// is written twice. A key that is missing or unknown is an error with its line, a field
// that a record lacks one with the record's line too.
func LoadFile(path string) ([]*eval.Task, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	definitions, err := parseTaskFile(data)
	if err != nil {
		return nil, fmt.Errorf("%s:%w", path, err)
	}
	var tasks []*eval.Task
	for _, u := range definitions {
		source := u.data
		if !filepath.IsAbs(source) {
			source = filepath.Join(filepath.Dir(path), source)
		}
		task, err := u.Load(source)
		if err != nil {
			return nil, err
		}
		tasks = append(tasks, task)
	}
	return tasks, nil
}

// userTask is a definition out of a task file, with the data that it names.
type userTask struct {
	Definition
	data string
}

// The kinds of a task file and the keys that each must and may have beyond name, kind and
// data.
var userKinds = map[string]struct {
	kind               eval.Kind
	required, optional []string
}{
	"multiple_choice": {eval.MultipleChoice, []string{"context", "choices", "answer"}, []string{"labels", "metrics", "group"}},
	"cloze":           {eval.Cloze, []string{"context", "target"}, []string{"metrics"}},
	"rolling":         {eval.Rolling, []string{"text"}, []string{"metrics"}},
}

// lineError is an error at a line of the task file.
func lineError(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("%d: %w", n.Line, fmt.Errorf(format, args...))
}

// parseTaskFile reads the definitions; its errors begin with the line.
func parseTaskFile(data []byte) ([]userTask, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		return nil, fmt.Errorf(" %w", err) // the library names the line
	}
	if len(document.Content) == 0 {
		return nil, errors.New("1: the file is empty; it needs a list \"tasks\"")
	}
	root, err := mapping(document.Content[0])
	if err != nil {
		return nil, err
	}
	list := root["tasks"]
	for key, value := range root {
		if key != "tasks" {
			return nil, lineError(value, "unknown key %q; a task file has the key \"tasks\"", key)
		}
	}
	if list == nil || list.Kind != yaml.SequenceNode || len(list.Content) == 0 {
		return nil, lineError(document.Content[0], "the file needs a list \"tasks\" with at least one task")
	}
	var tasks []userTask
	for _, n := range list.Content {
		u, err := parseUserTask(n)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(tasks, func(t userTask) bool { return t.Name == u.Name }) {
			return nil, lineError(n, "task %q is there twice", u.Name)
		}
		tasks = append(tasks, u)
	}
	return tasks, nil
}

// mapping returns the values of a YAML mapping whose keys are distinct.
func mapping(n *yaml.Node) (map[string]*yaml.Node, error) {
	if n.Kind != yaml.MappingNode {
		return nil, lineError(n, "keys with values belong here, such as name: my_task")
	}
	values := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i].Value
		if _, twice := values[key]; twice {
			return nil, lineError(n.Content[i], "key %q is there twice", key)
		}
		values[key] = n.Content[i+1]
	}
	return values, nil
}

func parseUserTask(n *yaml.Node) (userTask, error) {
	keys, err := mapping(n)
	if err != nil {
		return userTask{}, err
	}
	kindName, err := scalar(n, keys, "kind")
	if err != nil {
		return userTask{}, err
	}
	kind, ok := userKinds[kindName]
	if !ok {
		return userTask{}, lineError(keys["kind"], "unknown kind %q; it is multiple_choice, cloze or rolling", kindName)
	}
	allowed := slices.Concat([]string{"name", "kind", "data"}, kind.required, kind.optional)
	for key, value := range keys {
		if !slices.Contains(allowed, key) {
			return userTask{}, lineError(value, "unknown key %q; a %s task has %s", key, kindName, strings.Join(allowed, ", "))
		}
	}
	for _, key := range kind.required {
		if keys[key] == nil {
			return userTask{}, lineError(n, "the %s task has no key %q", kindName, key)
		}
	}
	u := userTask{Definition: Definition{Kind: kind.kind, Metrics: kind.kind.Metrics(), Version: 1}}
	if u.Name, err = scalar(n, keys, "name"); err != nil {
		return userTask{}, err
	}
	if found, _ := Find(u.Name); found != nil || u.Name == "text" || !isTaskName(u.Name) {
		return userTask{}, lineError(keys["name"], "%q cannot be the name of a task: it is that of a built-in one, longer than %d bytes, or has a slash, a space or another character than letters, digits, _, - and .", u.Name, maxTaskName)
	}
	if u.data, err = scalar(n, keys, "data"); err != nil {
		return userTask{}, err
	}
	if keys["group"] != nil {
		if u.Group, err = scalar(n, keys, "group"); err != nil {
			return userTask{}, err
		}
	}
	if m := keys["metrics"]; m != nil {
		if u.Metrics, err = userMetrics(m, kind.kind); err != nil {
			return userTask{}, err
		}
	}
	u.doc, err = userDoc(kind.kind, keys)
	return u, err
}

// maxTaskName leaves room for the rest of a samples file's name, which file systems
// limit to 255 bytes.
const maxTaskName = 100

// isTaskName reports whether a name can be part of a file's name on every system.
func isTaskName(name string) bool {
	other := func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("_-.", r)
	}
	return len(name) <= maxTaskName && utf8.ValidString(name) && !strings.ContainsFunc(name, other)
}

// scalar returns the value of a key that must be there and hold text.
func scalar(n *yaml.Node, keys map[string]*yaml.Node, key string) (string, error) {
	v := keys[key]
	if v == nil {
		return "", lineError(n, "the task has no key %q", key)
	}
	if v.Kind != yaml.ScalarNode || v.Value == "" {
		return "", lineError(v, "the value of %q must be text", key)
	}
	return v.Value, nil
}

func userMetrics(n *yaml.Node, kind eval.Kind) ([]string, error) {
	var metrics []string
	if err := n.Decode(&metrics); err != nil || len(metrics) == 0 {
		return nil, lineError(n, "metrics is a list of some of %s", strings.Join(kind.Metrics(), ", "))
	}
	for _, m := range metrics {
		if !slices.Contains(kind.Metrics(), m) {
			return nil, lineError(n, "metric %q is none of %s", m, strings.Join(kind.Metrics(), ", "))
		}
	}
	return metrics, nil
}

// userDoc returns the function that makes a record into a document.
func userDoc(kind eval.Kind, keys map[string]*yaml.Node) (func(record) (eval.Doc, error), error) {
	parse := func(key string) (*template, error) {
		n := keys[key]
		if n.Kind != yaml.ScalarNode {
			return nil, lineError(n, "the value of %q must be text", key)
		}
		return nodeTemplate(n)
	}
	switch kind {
	case eval.Cloze:
		context, err := parse("context")
		if err != nil {
			return nil, err
		}
		target, err := parse("target")
		return func(r record) (eval.Doc, error) { return userCloze(r, context, target) }, err
	case eval.Rolling:
		text, err := parse("text")
		return func(r record) (eval.Doc, error) { return userRolling(r, text) }, err
	}
	var q userQuestion
	var err error
	if q.context, err = parse("context"); err != nil {
		return nil, err
	}
	if q.answer, err = parse("answer"); err != nil {
		return nil, err
	}
	if q.choices, err = parseTexts(keys["choices"]); err != nil {
		return nil, err
	}
	if n := keys["labels"]; n != nil {
		if q.labels, err = parseTexts(n); err != nil {
			return nil, err
		}
	}
	return q.doc, nil
}

func nodeTemplate(n *yaml.Node) (*template, error) {
	t, err := parseTemplate(n.Value, n.Line)
	if err != nil {
		return nil, lineError(n, "%w", err)
	}
	return t, nil
}

func userCloze(r record, context, target *template) (eval.Doc, error) {
	text, err := context.render(r)
	if err != nil {
		return eval.Doc{}, err
	}
	word, err := target.render(r)
	if err == nil && word == "" {
		err = target.errorf(errors.New("the target is empty, so there is nothing to predict"))
	}
	return eval.Doc{
		Pairs:  []eval.Pair{{Context: text, Continuation: " " + word}},
		Target: " " + word,
	}, err
}

func userRolling(r record, text *template) (eval.Doc, error) {
	s, err := text.render(r)
	return eval.Doc{Text: s, Target: s, Words: eval.CountWords(s), Bytes: len(s)}, err
}
