package study

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/calib"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/eval/tasks"
	"github.com/coppice-lm/coppice/lm"
)

// inputs are what a study's models and texts hold, as far as cells depend on it.
type inputs struct {
	models []modelInput
	// data and versions are a task's fingerprint and the version of its definition.
	data     map[string]string
	versions map[string]float64
	texts    map[string]string // fingerprint of a text under the name that eval gives all texts
	// asked is the text of all requests in bytes, a context counted once for all choices.
	asked       int64
	calibration string // fingerprint of the calibration text and its sizes; "" if no cell needs it
	holdsBack   bool   // whether a part of it is held back; false if nothing depends on it
}

// modelInput is a model of the study. identity is the digest of all that a result may
// depend on: weights (a sample of them), config and tokenizer.
type modelInput struct {
	*Model
	spec        arch.Spec
	transformer *arch.Transformer
	bytes       int64
	fingerprint string
	identity    string
}

// open reads the headers of all models and the records of all tasks.
func (s *Study) open() (*inputs, error) {
	in := &inputs{data: map[string]string{}, versions: map[string]float64{}, texts: map[string]string{}}
	for i := range s.Models {
		m, err := s.openModel(&s.Models[i])
		if err != nil {
			return nil, fmt.Errorf("model %s: %w", s.Models[i].Name, err)
		}
		in.models = append(in.models, *m)
	}
	if err := in.readTasks(s); err != nil {
		return nil, err
	}
	if s.calibrated() {
		var err error
		if in.calibration, err = s.calibrationFingerprint(); err != nil {
			return nil, err
		}
	}
	if slices.Contains(s.Methods, best) && s.Steps == nil {
		var err error
		if in.holdsBack, err = calib.HoldsBack(s.calibrationPaths()); err != nil {
			return nil, fmt.Errorf("calibration text: %w", err)
		}
	}
	return in, nil
}

func (s *Study) openModel(m *Model) (*modelInput, error) {
	c, err := checkpoint.Open(s.modelPath(m))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.RequireWidths(); err != nil {
		return nil, err
	}
	fingerprint, err := c.Fingerprint()
	if err != nil {
		return nil, err
	}
	tok, err := lm.Tokenizer(c)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s has no tokenizer, without which nothing can be measured: put its tokenizer.json beside the weights", m.Path)
	} else if err != nil {
		return nil, err
	}
	transformer, err := c.Spec.Transformer(c.Config)
	if err != nil {
		return nil, err
	}
	return &modelInput{
		Model: m, spec: c.Spec, transformer: transformer, bytes: c.Bytes(), fingerprint: fingerprint,
		identity: digest(fingerprint, string(c.Config.Bytes()), tok.Fingerprint()),
	}, nil
}

// textName is the name under which eval has the results of any text.
const textName = "text"

// openTasks opens the tasks of a study; texts are named by their files.
func (s *Study) openTasks() ([]*eval.Task, error) {
	var all []*eval.Task
	if len(s.Tasks) > 0 {
		var err error
		if all, err = tasks.Open(s.Tasks, tasks.Data{Dir: s.abs(s.Data)}); err != nil {
			return nil, err
		}
	}
	if s.Text != nil {
		for _, file := range s.Text.Files {
			t, err := tasks.TextTask(s.abs(file), s.Text.Ctx)
			if err != nil {
				return nil, err
			}
			t.Name = filepath.Base(file)
			all = append(all, t)
		}
	}
	return all, nil
}

func (in *inputs) readTasks(s *Study) error {
	all, err := s.openTasks()
	if err != nil {
		return err
	}
	limits := s.limits()
	for _, t := range all {
		limit, ok := limits[t.Name]
		if !ok {
			limit = s.Limit // of a text
		}
		in.data[t.Name], in.versions[t.Name] = t.Fingerprint(limit), t.Version
		if t.Kind == eval.Text {
			unnamed := *t
			unnamed.Name = textName
			in.texts[t.Name] = unnamed.Fingerprint(limit)
		}
		docs := t.Docs
		if limit > 0 {
			docs = docs[:min(limit, len(docs))]
		}
		for _, d := range docs {
			size := len(d.Text)
			if t.Kind == eval.Text && limit > 0 {
				size = min(size, limit*t.Window*bytesPerToken)
			}
			in.asked += int64(size)
			last := ""
			for _, p := range d.Pairs {
				in.asked += int64(len(p.Continuation))
				if p.Context != last { // choices share it, and it is computed once
					in.asked += int64(len(p.Context))
				}
				last = p.Context
			}
		}
	}
	return nil
}

// calibrated reports whether any cell needs statistics of activations.
func (s *Study) calibrated() bool {
	for _, m := range s.Methods {
		for _, a := range s.Allocation {
			if usesStats(m, a) {
				return true
			}
		}
	}
	return false
}

// calibrationFingerprint is the digest of the calibration text and of how much of it is
// used.
func (s *Study) calibrationFingerprint() (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "tokens %d ctx %d\n", s.Calibration.Tokens, s.Calibration.Ctx)
	if calib.UsesBuiltIn(s.Calibration.Text) {
		if err := json.NewEncoder(h).Encode(calib.BuiltIn()); err != nil {
			return "", err
		}
	}
	if err := calib.Files(s.calibrationPaths(), func(path string, _ fs.FileInfo) error { return hashFile(h, path) }); err != nil {
		return "", fmt.Errorf("calibration text: %w", err)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// calibrationPaths are where this process finds the calibration text.
func (s *Study) calibrationPaths() []string {
	paths := slices.Clone(s.Calibration.Text)
	for i, path := range paths {
		if path != calib.BuiltInName {
			paths[i] = s.abs(path)
		}
	}
	return paths
}

// hashFile writes a file's type, size and bytes.
func hashFile(h io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	fmt.Fprintf(h, "%s %d\n", strings.ToLower(filepath.Ext(path)), st.Size())
	_, err = io.Copy(h, f)
	return err
}

// digest is a short name for values that it keeps apart.
func digest(values ...any) string {
	b, err := json.Marshal(values)
	if err != nil {
		panic(err) // texts, numbers and maps of them: cannot fail
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}
