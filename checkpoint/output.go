package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// OutputError says that a model cannot be written where it was asked for: the user
// named a place that holds something else, or that belongs to the input.
type OutputError struct {
	Path, Reason string
}

func (e *OutputError) Error() string { return e.Path + ": " + e.Reason }

// CheckOutput refuses an output directory that is, holds or lies inside the input,
// that is a link, or that is not empty without force. It writes nothing; Create calls
// it, and so does whoever wants to know before a long computation.
func CheckOutput(dir, input string, force bool) error {
	p, err := places(dir)
	if err != nil {
		return err
	}
	if input != "" {
		if err := CheckOutside(dir, input); err != nil {
			return err
		}
	}
	st, err := os.Lstat(p.out)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode()&fs.ModeSymlink != 0 {
		return &OutputError{dir, "is a link; name the directory itself"}
	}
	if !st.IsDir() {
		return &OutputError{dir, "is a file; name a directory"}
	}
	if force {
		return nil
	}
	entries, err := os.ReadDir(p.out)
	if err != nil {
		return err
	}
	if len(entries) > 0 && !p.leftover() {
		return &OutputError{dir, "is not empty; use --force to replace what it holds"}
	}
	return nil
}

// CheckOutside refuses an output, a file or a directory, that is, holds or lies inside
// the input, or holds a file that a link in the input leads to, as those of the Hugging
// Face cache do: replacing the output would destroy the model it is made from.
func CheckOutside(output, input string) error {
	in, err := realPath(input)
	if err != nil {
		return err
	}
	out, err := realPath(output)
	if err != nil {
		return err
	}
	switch {
	case in == out:
		return &OutputError{output, "is the input itself; name another output"}
	case inside(out, in):
		return &OutputError{output, "lies inside the input " + input + "; name an output outside it"}
	case inside(in, out):
		return &OutputError{output, "holds the input " + input + "; name another output"}
	}
	return filepath.WalkDir(in, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink == 0 {
			return nil // what cannot be read is found when the model is opened
		}
		if to, err := filepath.EvalSymlinks(p); err == nil && (to == out || inside(to, out)) {
			return &OutputError{output, "holds " + to + ", to which " + p + " of the input is a link; name another output"}
		}
		return nil
	})
}

// inside reports whether path lies below dir.
func inside(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != "." && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// realPath follows links as far as the path exists.
func realPath(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(abs)
	if errors.Is(err, fs.ErrNotExist) {
		parent, err := realPath(filepath.Dir(abs))
		return filepath.Join(parent, filepath.Base(abs)), err
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return real, err
}

// place is where a model is built and where it goes. Everything is written in stage
// and published when whole; the lock is held while a run lives, stays behind when it
// is killed, and marks stage as Coppice's own to clear.
type place struct {
	out, stage, lock string
	inPlace          bool // stage is inside out, whose parent cannot take it
}

const inPlacePrefix = "/.coppice-"

// The lock holds the names of the outputs at which nothing stood when the run began, each
// with a zero byte after it: what stands there when it was killed is Coppice's own to clear.
// A lock without names, or one that something else left, gives no such leave.
const markEnd = "\x00"

// marked lists the outputs that the lock of a killed run names.
func (p *place) marked() []string {
	mark, err := os.ReadFile(p.lock)
	if err != nil {
		return nil
	}
	var paths []string
	for name := range strings.SplitAfterSeq(string(mark), markEnd) {
		if name, whole := strings.CutSuffix(name, markEnd); whole && name == filepath.Base(name) && name != "." && name != ".." {
			paths = append(paths, filepath.Join(filepath.Dir(p.out), name))
		}
	}
	return paths
}

// leftover reports whether what stands in the output was left by a killed run that began
// with nothing there: inside a mount point whatever it had moved up, elsewhere the whole
// model that it had just published.
func (p *place) leftover() bool {
	return slices.Contains(p.marked(), p.out) && (p.inPlace || !exists(p.stage))
}

// places decides where to build. A sibling of the output can be renamed into place in
// one step; where the output is a mount point or its parent cannot be written, the
// model is built in a hidden directory inside it.
func places(dir string) (place, error) {
	out, err := filepath.Abs(dir)
	if err != nil {
		return place{}, err
	}
	parent, base := filepath.Split(out)
	if base == "" {
		return place{}, &OutputError{dir, "is the root of the file system; name a directory"}
	}
	prefix := filepath.Join(parent, "."+base+".coppice-")
	inPlace := false
	if st, err := os.Lstat(out); err == nil && st.IsDir() && (otherDevice(out, parent) || !writable(parent)) {
		prefix, inPlace = out+inPlacePrefix, true
	}
	return place{out, prefix + "partial", prefix + "lock", inPlace}, nil
}
