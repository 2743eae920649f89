package calib

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/surgery"
	"github.com/coppice-lm/coppice/tensor"
)

// after is the head of what a number of steps made.
func (s *stepper) after(steps int) surgery.WeightsHead {
	h := s.head
	h.Recipe = fmt.Sprintf("%s; after %d", h.Recipe, steps)
	return h
}

// file is the name of what a number of steps made, while there are more to take; with 0, of
// what is used on the way.
func (s *stepper) file(steps int, what string) string {
	dir, base := filepath.Split(s.out)
	return fmt.Sprintf("%s.%s.coppice-step-%d-%s", dir, base, steps, what)
}

// clean removes what all numbers of steps but one made; with none, all files.
func (s *stepper) clean(but int) error {
	dir, base := filepath.Split(s.out)
	entries, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		return writeError(err)
	}
	prefix := "." + base + ".coppice-step-"
	for _, e := range entries {
		rest, ours := strings.CutPrefix(e.Name(), prefix)
		if !ours || but > 0 && (strings.HasPrefix(rest, fmt.Sprint(but, "-")) || rest == "0-streams") {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return writeError(err)
		}
	}
	return nil
}

// resume opens what earlier steps of the same call made, and returns how many they were.
// What others left is removed.
func (g *gaussNewton) resume() (steps int, err error) {
	for n := g.opt.Steps - 1; n > 0 && steps == 0; n-- {
		w, err := surgery.OpenWeights(g.file(n, "weights"))
		if err != nil {
			continue
		}
		length, err := g.lengthOf(w, n)
		if err != nil {
			w.Close()
			continue
		}
		g.given.weights, g.length, steps = w, length, n
	}
	return steps, g.clean(steps)
}

// reached is the head of what a number of steps made, with what the next ones need to know.
func (g *gaussNewton) reached(steps int) surgery.WeightsHead {
	h := g.after(steps)
	h.Recipe += fmt.Sprintf(", length %v", g.length)
	return h
}

// lengthOf is the length in the head of what a number of steps made, if that is what this call needs.
func (g *gaussNewton) lengthOf(w *surgery.Weights, steps int) (length float64, err error) {
	h := g.after(steps)
	if _, err = fmt.Sscanf(strings.TrimPrefix(w.Recipe, h.Recipe), ", length %v", &length); err != nil {
		return 0, err
	}
	h.Recipe = w.Recipe
	if !reflect.DeepEqual(w.WeightsHead, h) {
		return 0, errors.New("of another call")
	}
	return length, nil
}

// write writes an MLP a layer to a file, at once or not at all, and opens it. of makes that of a
// layer of the student, from the last to the first; none where the layer keeps its own.
func (g *gaussNewton) write(name string, head surgery.WeightsHead, of func(l int) (*surgery.LayerWeights, error)) (*surgery.Weights, error) {
	next := g.file(0, "next")
	w, err := surgery.CreateWeights(next, head)
	if err != nil {
		return nil, writeError(err)
	}
	for l := len(g.planned) - 1; l >= 0 && err == nil; l-- {
		var m *surgery.LayerWeights
		if m, err = of(l); err == nil && m != nil {
			err = writeError(w.WriteLayer(g.planned[l], *m))
		}
	}
	if e := w.Close(); err == nil {
		err = writeError(e)
	}
	if err == nil {
		err = writeError(os.Rename(next, name))
	}
	if err != nil {
		os.Remove(next)
		return nil, err
	}
	return surgery.OpenWeights(name)
}

// moved writes the student's weights, moved along a course by a part of it, and opens them.
func (g *gaussNewton) moved(what string, course func(l int) (*surgery.LayerWeights, error), length float64) (*surgery.Weights, error) {
	return g.write(g.file(0, what), g.after(0), func(l int) (*surgery.LayerWeights, error) {
		c, err := course(l)
		if err != nil || c == nil {
			return nil, err
		}
		m, err := g.read(g.given.weights, l)
		if err == nil {
			along(m.Gate, c.Gate, length)
			along(m.Up, c.Up, length)
			along(m.Down, c.Down, length)
		}
		return m, err
	})
}

// read is the MLP of a layer of the student in a file: nil where the layer keeps its own.
func (g *gaussNewton) read(w *surgery.Weights, l int) (*surgery.LayerWeights, error) {
	if g.planned[l] < 0 {
		return nil, nil
	}
	m, err := w.Layer(g.planned[l])
	return &m, err
}

// keep writes where the student is, and has the next step go on from there.
func (g *gaussNewton) keep(name string, head surgery.WeightsHead) error {
	w, err := g.write(name, head, func(l int) (*surgery.LayerWeights, error) { return g.read(g.given.weights, l) })
	if err == nil {
		g.reads(w, nil)
	}
	return err
}

// stepWeights is a source of weights of which the MLPs that are refitted are in a file, and have the
// names that they have there. It may become another one while no layer is loaded.
type stepWeights struct {
	engine.Source
	shapes  map[string]tensor.Shape // of those
	weights *surgery.Weights
}

// take gives the projections of a layer weights of the files.
func (w *stepWeights) take(l *arch.Layer, planned, width, hidden int) {
	l.Width = width
	for what, p := range map[string]*arch.Projection{"gate": &l.Gate, "up": &l.Up, "down": &l.Down} {
		name, shape := surgery.WeightsTensor(planned, what), tensor.Shape{width, hidden}
		if what == "down" {
			shape = tensor.Shape{hidden, width}
		}
		w.shapes[name] = shape
		*p = arch.Projection{Weight: name, Rows: shape[0], OfRows: shape[0]}
	}
}

// Lookup implements engine.Source.
func (w *stepWeights) Lookup(name string) (tensor.Info, bool) {
	if shape, ok := w.shapes[name]; ok {
		return tensor.Info{Name: name, DType: tensor.F32, Shape: shape}, true
	}
	return w.Source.Lookup(name)
}

// ReadRows implements engine.Source.
func (w *stepWeights) ReadRows(name string, dst []byte, first, n int) error {
	shape, ok := w.shapes[name]
	if !ok {
		return w.Source.ReadRows(name, dst, first, n)
	}
	return w.weights.ReadBytes(name, dst, 4*first*shape[1])
}

// along moves weights by a part of a course.
func along(to, course []float32, length float64) {
	for i, v := range course {
		to[i] += float32(length) * v
	}
}
