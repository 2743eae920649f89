package gguf

import (
	"fmt"
	"regexp"
	"strconv"
)

// splitName is how llama.cpp names the parts of a split file.
var splitName = regexp.MustCompile(`^(?s)(.*)-(\d{5})-of-(\d{5})\.gguf$`)

// SplitPaths returns the paths of all parts, in order, of the split file that path is a
// part of (NAME-00002-of-00005.gguf); path alone where its name is not of that form. It
// does not look whether the files exist. The keys split.no and split.count of each part
// say which one it is.
func SplitPaths(path string) ([]string, error) {
	m := splitName.FindStringSubmatch(path)
	if m == nil {
		return []string{path}, nil
	}
	// Five digits always parse.
	no, _ := strconv.Atoi(m[2])
	count, _ := strconv.Atoi(m[3])
	if no < 1 || no > count {
		return nil, fmt.Errorf("%s: the name says part %d of %d; parts are numbered from 1", path, no, count)
	}
	paths := make([]string, count)
	for i := range paths {
		paths[i] = fmt.Sprintf("%s-%05d-of-%05d.gguf", m[1], i+1, count)
	}
	return paths, nil
}
