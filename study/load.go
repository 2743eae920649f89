package study

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/calib"
	"github.com/coppice-lm/coppice/eval/tasks"
)

// sizeKeys are the keys that say how much of a model goes, of which a file has one.
var sizeKeys = []string{"ratios", "widths", "expansions"}

// Load reads a study file and checks all of it but the contents of models and data. Errors
// name file, line, column and key, one a line of the message.
func Load(path string) (*Study, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &Study{}
	d, err := decodeYAML(path, data, s)
	if err != nil {
		return nil, err
	}
	if len(d.found) > 0 && d.nodes["models"] == nil {
		return nil, d.err() // it may be no study at all
	}
	s.path = path
	s.fill()
	s.checkModels(d)
	s.checkSizes(d)
	s.checkTasks(d)
	s.checkFiles(d)
	if err := d.err(); err != nil {
		return nil, err
	}
	return s, nil
}

var hubName = regexp.MustCompile(`^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$`)

func (s *Study) checkModels(d *decoder) {
	names := map[string]int{}
	for i, m := range s.Models {
		if m.Path == "" {
			continue // which was noted
		}
		at := fmt.Sprintf("models[%d]", i)
		if j, twice := names[m.Name]; twice {
			d.errorf(at, "models[%d] is named %q too; give one of them another name", j, m.Name)
		}
		names[m.Name] = i
		if m.BaseModel != "" && !hubName.MatchString(m.BaseModel) {
			d.errorf(at+".base_model", "%q is not a name on the hub: owner/name", m.BaseModel)
		}
		if _, err := os.Stat(s.modelPath(&m)); errors.Is(err, fs.ErrNotExist) && !isHubRef(m.Path) {
			d.errorf(at+".path", "%s: no such model", m.Path)
		}
	}
}

// isHubRef reports whether a path that does not exist may be owner/name[@revision].
func isHubRef(path string) bool {
	name, _, _ := strings.Cut(path, "@")
	return hubName.MatchString(name) && !strings.HasSuffix(name, ".gguf")
}

// modelPath is where this process finds a model.
func (s *Study) modelPath(m *Model) string {
	if p := s.abs(m.Path); !isHubRef(m.Path) || exists(p) {
		return p
	}
	return m.Path
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (s *Study) checkSizes(d *decoder) {
	var given []string
	for _, key := range sizeKeys {
		if d.nodes[key] != nil {
			given = append(given, key)
		}
	}
	switch {
	case len(given) == 0:
		d.errorf("", "one of the keys ratios, widths and expansions is needed: how much is removed, or kept")
	case len(given) > 1:
		d.errorf(given[1], "%s is given too; a study has one of ratios, widths and expansions", given[0])
	}
	for i, a := range s.Allocation {
		if a != uniform && s.Form == "llama" {
			d.errorf(fmt.Sprintf("allocation[%d]", i), "%s gives each layer a width of its own, which form llama cannot say; choose another form", a)
		}
		if a == measured && len(s.Calibration.Text) == 0 {
			d.errorf(fmt.Sprintf("allocation[%d]", i), "measured runs pruned models over the held-back part of the calibration text: name it under calibration.text")
		}
	}
}

func (s *Study) checkTasks(d *decoder) {
	if len(s.Tasks) == 0 && s.Text == nil {
		d.errorf("", "one of the keys tasks and text is needed: what to measure")
	}
	limits := s.limits()
	for i, name := range s.Tasks {
		found, err := tasks.Find(name)
		if name != "" && err != nil {
			d.errorf(fmt.Sprintf("tasks[%d]", i), "%v", err)
		}
		for _, task := range found {
			if limits[task.Name] != s.limitOf(name) {
				d.errorf(fmt.Sprintf("tasks[%d]", i), "task %s is named twice, with limits of %d and %d records (0: all)", task.Name, s.limitOf(name), limits[task.Name])
			}
		}
	}
	for i, l := range s.Limits {
		at := fmt.Sprintf("limits[%d].task", i)
		if l.Task != "" && !slices.Contains(s.Tasks, l.Task) {
			d.errorf(at, "%q is not one of tasks: %s", l.Task, strings.Join(s.Tasks, ", "))
		}
		if slices.ContainsFunc(s.Limits[:i], func(o Limit) bool { return o.Task == l.Task }) {
			d.errorf(at, "%q has a limit already", l.Task)
		}
	}
	switch {
	case len(s.Tasks) > 0 && s.Data == "":
		d.errorf("tasks", "tasks need the key data: the directory with their records")
	case len(s.Tasks) == 0 && s.Data != "":
		d.errorf("data", "is for tasks, of which there are none")
	}
	if s.Text == nil {
		return
	}
	names := map[string]bool{}
	for i, file := range s.Text.Files {
		base := filepath.Base(file)
		if _, err := tasks.Find(base); names[base] || err == nil {
			d.errorf(fmt.Sprintf("text.files[%d]", i), "%q is the name of another text or task already, and results stand under it", base)
		}
		names[base] = true
	}
}

// checkFiles reports paths where nothing is.
func (s *Study) checkFiles(d *decoder) {
	need := func(at, path string) {
		if _, err := os.Stat(s.abs(path)); err != nil {
			var pathErr *fs.PathError
			if errors.As(err, &pathErr) {
				err = pathErr.Err
			}
			d.errorf(at, "%s: %v", path, err)
		}
	}
	for i, path := range s.Calibration.Text {
		at := fmt.Sprintf("calibration.text[%d]", i)
		switch {
		case path == calib.BuiltInName: // no file
		case filepath.Clean(path) == calib.BuiltInName: // which in a command means the other
			d.errorf(at, "%s: is the name of the text that the program carries; give the file another", path)
		default:
			need(at, path)
		}
	}
	if s.Data != "" {
		need("data", s.Data)
	}
	if s.Text != nil {
		for i, path := range s.Text.Files {
			need(fmt.Sprintf("text.files[%d]", i), path)
		}
	}
}
