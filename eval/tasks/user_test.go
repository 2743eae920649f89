package tasks

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/eval"
)

// userFile writes a task file and data beside it, and loads the tasks.
func userFile(t *testing.T, yaml, data string) (path string, tasks []*eval.Task, err error) {
	t.Helper()
	dir := t.TempDir()
	path = filepath.Join(dir, "tasks.yaml")
	for name, text := range map[string]string{path: yaml, filepath.Join(dir, "d.jsonl"): data} {
		if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	tasks, err = LoadFile(path)
	return path, tasks, err
}

const threeKinds = `
tasks:
  - name: capitals
    kind: multiple_choice
    data: d.jsonl
    context: "Q: {q.text}\n{{A}}:"
    choices: ["{right}", "not {right}, {n}"]
    answer: "{label}"
    labels: ["x", "y"]
    metrics: [acc]
    group: geography
  - name: options
    kind: multiple_choice
    data: d.jsonl
    context: "{q.text}"
    choices: "{options}"
    answer: "{right}"
  - name: words
    kind: cloze
    data: d.jsonl
    context: "{q.text}"
    target: "{right}"
    metrics: [acc]
  - name: letters
    kind: rolling
    data: d.jsonl
    text: "{q.text} {right}"
`

func TestUserTasks(t *testing.T) {
	_, got, err := userFile(t, threeKinds, `{"q":{"text":"Fränce"},"right":"Paris","n":1.50,"label":"y","options":["Rome","Paris"]}`+"\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range got {
		for i := range task.Docs {
			task.Docs[i].Record = nil
		}
		if filepath.Base(task.Source) != "d.jsonl" {
			t.Errorf("%s: %s", task.Name, task.Source)
		}
		task.Source = ""
	}
	context := "Q: Fränce\n{A}:"
	want := []*eval.Task{
		{Name: "capitals", Group: "geography", Kind: eval.MultipleChoice, Metrics: []string{eval.Acc}, Version: 1, Docs: []eval.Doc{
			{Line: 1, Target: "1", Gold: 1, Lengths: []int{5, 15}, Pairs: pairs(context, " Paris", " not Paris, 1.50")},
		}},
		{Name: "options", Kind: eval.MultipleChoice, Metrics: []string{eval.Acc, eval.AccNorm}, Version: 1, Docs: []eval.Doc{
			{Line: 1, Target: "1", Gold: 1, Lengths: []int{4, 5}, Pairs: pairs("Fränce", " Rome", " Paris")},
		}},
		{Name: "words", Kind: eval.Cloze, Metrics: []string{eval.Acc}, Version: 1, Docs: []eval.Doc{
			{Line: 1, Target: " Paris", Pairs: pairs("Fränce", " Paris")},
		}},
		{Name: "letters", Kind: eval.Rolling, Metrics: eval.Rolling.Metrics(), Version: 1, Docs: []eval.Doc{
			{Line: 1, Target: "Fränce Paris", Text: "Fränce Paris", Words: 2, Bytes: 13},
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestUserAnswers(t *testing.T) {
	yaml := "tasks:\n- {name: t, kind: multiple_choice, data: d.jsonl, context: c, choices: '{o}', answer: '{a}'}\n"
	for record, want := range map[string]int{
		`{"o":["x","y"],"a":1}`: 1, `{"o":["x","y"],"a":"1"}`: 1, `{"o":["x","y"],"a":"y"}`: 1, `{"o":["no","yes"],"a":true}`: 1,
		`{"o":["0","1"],"a":1}`: 1, `{"o":["7","8"],"a":"8"}`: 1,
	} {
		_, tasks, err := userFile(t, yaml, record+"\n")
		if err != nil || tasks[0].Docs[0].Gold != want {
			t.Errorf("%s: %v", record, err)
		}
	}
	for record, want := range map[string]string{
		`{"o":["1","0"],"a":1}`:    "give the task labels",
		`{"o":["x","y"],"a":"z"}`:  "neither one of the choices",
		`{"o":["x","y"],"a":2}`:    "number 2 of 2 choices",
		`{"o":["x","y"],"a":[1]}`:  `field "a"`,
		`{"o":["x","y"]}`:          `no field "a"`,
		`{"o":"x","a":0}`:          `field "o" is not a list`,
		`{"o":["x",{}],"a":0}`:     `field "o"`,
		`{"o":["x","y"],"a":null}`: `no field "a"`,
		`{"o":["x","y"],"a":"-1"}`: "neither one of the choices",
	} {
		path, _, err := userFile(t, yaml, record+"\n")
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), filepath.Join(filepath.Dir(path), "d.jsonl")+":1: ") {
			t.Errorf("%s: error %v, want one with %q", record, err, want)
		}
	}
}

// A mistake in a task file is an error with its line.
func TestUserFileErrors(t *testing.T) {
	for _, c := range []struct {
		name, old, new string
		line, want     string
	}{
		{"missing field", "    target: \"{right}\"\n", "", ":18: ", `the cloze task has no key "target"`},
		{"missing name", "  - name: words\n    kind", "  - kind", ":18: ", `no key "name"`},
		{"missing kind", "    kind: cloze\n", "", ":18: ", `no key "kind"`},
		{"missing data", "    kind: cloze\n    data: d.jsonl\n", "    kind: cloze\n", ":18: ", `no key "data"`},
		{"unknown key", "    target:", "    targets:", ":22: ", `unknown key "targets"`},
		{"unknown kind", "kind: cloze", "kind: close", ":19: ", `unknown kind "close"`},
		{"unknown metric", "    target: \"{right}\"\n    metrics: [acc]", "    target: \"{right}\"\n    metrics: [acc, f1]", ":23: ", `"f1"`},
		{"key twice", "    target: \"{right}\"\n", "    target: \"{right}\"\n    target: b\n", ":23: ", `"target" is there twice`},
		{"task twice", "name: words", "name: options", ":18: ", `"options" is there twice`},
		{"built-in name", "name: words", "name: boolq", ":18: ", "built-in"},
		{"bad name", "name: words", "name: a/b", ":18: ", "slash"},
		{"open brace", "target: \"{right}\"", "target: \"{right\"", ":22: ", "{ without }"},
		{"closing brace", "target: \"{right}\"", "target: \"right}\"", ":22: ", "} without {"},
		{"no field name", "target: \"{right}\"", "target: \"{}\"", ":22: ", "does not name a field"},
		{"list for text", "target: \"{right}\"", "target: [a]", ":22: ", "must be text"},
		{"text for a list", "choices: \"{options}\"", "choices: \"a {options}\"", ":16: ", "must be a list"},
		{"not YAML", "tasks:", "tasks: [", ": ", "yaml"},
		{"other root", "tasks:", "task:", ":3: ", `unknown key "task"`},
	} {
		changed := strings.Replace(threeKinds, c.old, c.new, 1)
		if changed == threeKinds {
			t.Fatalf("%s: the file holds no %q", c.name, c.old)
		}
		path, _, err := userFile(t, changed, "{}\n")
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), path+c.line) {
			t.Errorf("%s: error %v, want one with %q at %s", c.name, err, c.want, c.line)
		}
	}
	for yaml, want := range map[string]string{"": "empty", "[]": "keys with values", "tasks: []": "at least one task", "tasks: [x]": "keys with values"} {
		if _, _, err := userFile(t, yaml, "{}\n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v", yaml, err)
		}
	}
	// A field that a record lacks is named with both lines.
	path, _, err := userFile(t, threeKinds, `{"q":{},"right":"Paris","n":1,"label":"y","options":["Rome","Paris"]}`+"\n")
	for _, want := range []string{"task capitals", filepath.Join(filepath.Dir(path), "d.jsonl") + ":1: ", `no field "text"`, "line 6 of the task file"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %q", err, want)
		}
	}
}
