package tasks

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/eval"
)

// Data says where the records of tasks are.
type Data struct {
	Dir   string            // directory with a sub-directory a task (--data-dir), or ""
	Files map[string]string // a file by name of a task (--data TASK=FILE)
}

// ParseFiles reads the values of --data, each TASK=FILE, into Data.Files.
func ParseFiles(values []string) (map[string]string, error) {
	files := map[string]string{}
	for _, v := range values {
		name, path, ok := strings.Cut(v, "=")
		if !ok || name == "" || path == "" {
			return nil, eval.Usagef("--data %q: it has the form TASK=FILE", v)
		}
		found, err := Find(name)
		if err != nil {
			return nil, err
		}
		if len(found) != 1 {
			return nil, eval.Usagef("--data %q: %s is a group; name a file for each of its tasks, such as %s", v, name, found[0].Name)
		}
		if _, twice := files[found[0].Name]; twice {
			return nil, eval.Usagef("--data names a file for task %s twice", found[0].Name)
		}
		files[found[0].Name] = path
	}
	return files, nil
}

// find returns the file that holds the records of a task.
func (d Data) find(def Definition) (string, error) {
	if path, ok := d.Files[def.Name]; ok {
		return path, nil
	}
	if d.Dir == "" {
		return "", eval.Usagef("task %s has no data: give its file with --data %s=FILE, or a directory with --data-dir", def.Name, def.Name)
	}
	for _, name := range def.files() {
		path := filepath.Join(d.Dir, filepath.FromSlash(name))
		_, err := os.Stat(path)
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", eval.Usagef("task %s: %s holds none of %s; give the file with --data %s=FILE", def.Name, d.Dir, strings.Join(def.files(), ", "), def.Name)
}

// files are the places where a task's data is looked for: its own, then the names that the
// split has on the Hugging Face hub.
func (d Definition) files() []string {
	files := slices.Clone(d.Files)
	for _, split := range []string{"test", "validation"} {
		files = append(files, d.Name+"/"+split+".jsonl", d.Name+"/"+split+".parquet", d.Name+"/"+split+"-00000-of-00001.parquet")
	}
	return files
}
