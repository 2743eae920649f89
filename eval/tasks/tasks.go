package tasks

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/eval"
)

// Definition is a benchmark without its data.
type Definition struct {
	Name    string
	Group   string   // group that it belongs to, or ""
	Aliases []string // other names that users know it by
	Summary string   // one line for people
	Kind    eval.Kind
	Metrics []string
	Version float64  // of lm-eval's definition
	Answers []string // names of the answers where they are the same in all records
	Files   []string // where it is looked for below the data directory, in this order

	// read returns the records of a file; nil means readRecords.
	read func(path string) ([]record, error)
	// doc makes a record into a document.
	doc func(r record) (eval.Doc, error)
}

// All returns the built-in benchmarks.
func All() []Definition {
	return []Definition{
		arcEasy(), arcChallenge(), boolq(), lambadaOpenAI(), lambadaStandard(),
		musr("murder_mysteries"), musr("object_placements"), musr("team_allocation"),
		hellaswag(), piqa(), winogrande(), openbookqa(), wikitext(),
	}
}

// Find returns the definitions that a name stands for: one, or all of a group. Names that
// lm-eval knows a task by are accepted too. An unknown name is an eval.UsageError.
func Find(name string) ([]Definition, error) {
	var found []Definition
	all := All()
	for _, d := range all {
		if d.Name == name || slices.Contains(d.Aliases, name) {
			return []Definition{d}, nil
		}
		if d.Group != "" && (d.Group == name || "leaderboard_"+d.Group == name) {
			found = append(found, d)
		}
	}
	if found == nil {
		return nil, eval.Usagef("unknown task %q: the tasks are %s", name, strings.Join(Names(), ", "))
	}
	return found, nil
}

// Names returns the names of tasks and groups that Find accepts, without aliases.
func Names() []string {
	var names []string
	for _, d := range All() {
		if d.Group != "" && !slices.Contains(names, d.Group) {
			names = append(names, d.Group)
		}
		names = append(names, d.Name)
	}
	return names
}

// Open reads the tasks of these names, in this order, each once. A task that is named by
// itself stays out of its group's mean, which is that of the whole group.
func Open(names []string, data Data) ([]*eval.Task, error) {
	var definitions []Definition
	place := map[string]int{}
	for _, name := range names {
		found, err := Find(name)
		if err != nil {
			return nil, err
		}
		for _, d := range found {
			i, twice := place[d.Name]
			if !twice {
				i = len(definitions)
				place[d.Name] = i
				definitions = append(definitions, d)
				definitions[i].Group = ""
			}
			if len(found) > 1 {
				definitions[i].Group = d.Group
			}
		}
	}
	var tasks []*eval.Task
	for _, d := range definitions {
		path, err := data.find(d)
		if err != nil {
			return nil, err
		}
		task, err := d.Load(path)
		if err != nil {
			return nil, err
		}
		tasks = append(tasks, task)
	}
	return tasks, nil
}

// Load makes the task out of the records of a file. A record that cannot be read or lacks a
// field is an error with file and line.
func (d Definition) Load(path string) (*eval.Task, error) {
	read := d.read
	if read == nil {
		read = readRecords
	}
	records, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("task %s: %w", d.Name, err)
	}
	task := &eval.Task{
		Name: d.Name, Group: d.Group, Kind: d.Kind, Metrics: d.Metrics, Version: d.Version,
		Answers: d.Answers, Source: path, Docs: make([]eval.Doc, len(records)),
	}
	for i, r := range records {
		doc, err := d.doc(r)
		if err != nil {
			return nil, fmt.Errorf("task %s: %w", d.Name, r.errorf(path, err))
		}
		doc.ID, doc.Line, doc.Record = i, r.line, r.raw
		task.Docs[i] = doc
	}
	return task, nil
}

// ParseSamples reads the value of --samples, a JSON object such as {"arc_easy": [0, 5]}, into
// eval.Options.Samples. Tasks may be named by their aliases.
func ParseSamples(text string) (map[string][]int, error) {
	var samples map[string][]int
	if err := json.Unmarshal([]byte(text), &samples); err != nil || samples == nil {
		return nil, eval.Usagef("--samples %q: it has the form {\"arc_easy\": [0, 5]}", text)
	}
	out := map[string][]int{}
	for name, ids := range samples {
		if found, err := Find(name); err == nil && len(found) == 1 {
			name = found[0].Name
		}
		if _, twice := out[name]; twice {
			return nil, eval.Usagef("--samples names task %s twice", name)
		}
		out[name] = ids
	}
	return out, nil
}
