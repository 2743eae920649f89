package checkpoint

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// weightEndings are the endings of files that hold weights, in any program's form.
var weightEndings = []string{".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pth", ".pt",
	".gguf", ".h5", ".msgpack", ".onnx", ".onnx_data", ".ckpt", ".npz", ".tflite", ".mlmodel"}

// isWeight reports whether a file holds weights or an index of them.
func isWeight(name string) bool {
	return slices.ContainsFunc(weightEndings, func(e string) bool { return strings.HasSuffix(name, e) })
}

// extraFiles lists every file of a model directory, and of directories in it, that
// holds no weights. Hidden files (.git, .cache) and what Coppice itself writes beside
// a model are not the model's. Links are followed to files, as the Hugging Face cache
// consists of them, never to directories.
func extraFiles(dir string) ([]ExtraFile, error) {
	var files []ExtraFile
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if p == root {
			return nil
		}
		if strings.HasPrefix(d.Name(), ".") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() {
			return nil
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		if isWeight(name) || name == configName || name == PlanName {
			return nil
		}
		st, err := os.Stat(p)
		if err != nil {
			return fmt.Errorf("%s: cannot be copied: %w", p, err)
		}
		if !st.Mode().IsRegular() {
			return nil
		}
		files = append(files, ExtraFile{name, func() (io.ReadCloser, error) { return os.Open(p) }})
		return nil
	})
	return files, err
}

// PlanName is the file in which a pruned model carries the plan that made it.
const PlanName = "coppice_plan.json"

// validName holds an extra file's name inside the output directory.
func validName(name string) error {
	if name == "" || path.IsAbs(name) || path.Clean(name) != name || strings.HasPrefix(name, "../") || name == ".." {
		return fmt.Errorf("file name %q does not stay inside the directory", name)
	}
	return nil
}
