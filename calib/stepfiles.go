package calib

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"

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
		course, weights := g.kept(n, "course"), g.kept(n, "weights")
		if course != nil && weights != nil {
			g.given.weights, g.given.course, steps = weights, course, n
			continue
		}
		for _, w := range []*surgery.Weights{course, weights} {
			if w != nil {
				w.Close()
			}
		}
	}
	return steps, g.clean(steps)
}

// kept opens what a number of steps made, if that is what this call needs: nil where there is
// none, or it was being written.
func (s *stepper) kept(steps int, what string) *surgery.Weights {
	w, err := surgery.OpenWeights(s.file(steps, what))
	if err == nil && !reflect.DeepEqual(w.WeightsHead, s.after(steps)) {
		w.Close()
		return nil
	}
	return w
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

// moved writes where the student is, and has the next step go on from there.
func (g *gaussNewton) moved(name string, head surgery.WeightsHead) error {
	w, err := g.write(name, head, func(l int) (*surgery.LayerWeights, error) {
		if g.planned[l] < 0 {
			return nil, nil
		}
		return g.given.at(g.planned[l])
	})
	if err == nil {
		g.given.weights.Close()
		g.given.weights, g.given.moving, g.given.loaded = w, false, nil
	}
	return err
}

// stepWeights is a source of weights of which the MLPs that are refitted are in files, a layer
// at a time in memory. They may change while no layer is loaded.
type stepWeights struct {
	engine.Source
	matrices        map[string]stepMatrix
	weights, course *surgery.Weights // after the steps so far, and the direction of the last, at its whole length

	moving bool    // whether what is read is moved along the course
	length float64 // and how far

	turn   sync.Mutex
	loaded *surgery.LayerWeights // of which layer of the plan; nil: none
	layer  int
}

// stepMatrix is one of a layer of the plan.
type stepMatrix struct {
	layer, part int // gate, up, down
	shape       tensor.Shape
}

// take gives the projections of a layer weights of the files.
func (w *stepWeights) take(l *arch.Layer, planned, width, hidden int) {
	l.Width = width
	for part, p := range []*arch.Projection{&l.Gate, &l.Up, &l.Down} {
		name, shape := fmt.Sprint(planned, "/", part), tensor.Shape{width, hidden}
		if p == &l.Down {
			shape = tensor.Shape{hidden, width}
		}
		w.matrices[name] = stepMatrix{planned, part, shape}
		*p = arch.Projection{Weight: name, Rows: shape[0], OfRows: shape[0]}
	}
}

// move has weights read so far along the course.
func (w *stepWeights) move(length float64) { w.moving, w.length, w.loaded = true, length, nil }

// at is the MLP of a layer of the plan, as it is read.
func (w *stepWeights) at(layer int) (*surgery.LayerWeights, error) {
	m, err := w.weights.Layer(layer)
	if err == nil && w.moving {
		var course surgery.LayerWeights
		if course, err = w.course.Layer(layer); err == nil {
			along(&m, &m, &course, w.length)
		}
	}
	return &m, err
}

// Lookup implements engine.Source.
func (w *stepWeights) Lookup(name string) (tensor.Info, bool) {
	if m, ok := w.matrices[name]; ok {
		return tensor.Info{Name: name, DType: tensor.F32, Shape: m.shape}, true
	}
	return w.Source.Lookup(name)
}

// ReadRows implements engine.Source.
func (w *stepWeights) ReadRows(name string, dst []byte, first, n int) error {
	m, ok := w.matrices[name]
	if !ok {
		return w.Source.ReadRows(name, dst, first, n)
	}
	mlp, err := w.load(m.layer)
	if err != nil {
		return err
	}
	size := m.shape[1]
	return tensor.Encode(dst, matrices(mlp)[m.part][first*size:(first+n)*size], tensor.F32)
}

func (w *stepWeights) load(layer int) (*surgery.LayerWeights, error) {
	w.turn.Lock()
	defer w.turn.Unlock()
	if w.loaded == nil || w.layer != layer {
		m, err := w.at(layer)
		if err != nil {
			return nil, err
		}
		w.loaded, w.layer = m, layer
	}
	return w.loaded, nil
}

func (w *stepWeights) close() {
	for _, f := range []*surgery.Weights{w.weights, w.course} {
		if f != nil {
			f.Close()
		}
	}
}

func matrices(m *surgery.LayerWeights) [3][]float32 { return [3][]float32{m.Gate, m.Up, m.Down} }

// along stores from + length*step in to, which may be one of the two.
func along(to, from, step *surgery.LayerWeights, length float64) {
	for k, dst := range matrices(to) {
		v, d := matrices(from)[k], matrices(step)[k]
		for i := range dst {
			dst[i] = v[i] + float32(length)*d[i]
		}
	}
}
