package surgery

import (
	"fmt"
	"sync"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/tensor"
)

// Source is the tensors that a program makes, made when they are read and written
// nowhere: a pruned model that an engine can run before it exists as a checkpoint
// (engine.Source). Refitted tensors are computed when a layer is first read, and kept for
// the last few layers, so layers are best read one after another.
type Source struct {
	steps  map[string]*Step
	makers sync.Pool
}

// Source returns what the program makes of the checkpoint, which must stay open. A
// program that refits must have its statistics attached.
func (p *Program) Source(c *checkpoint.Checkpoint) (*Source, error) {
	if p.NeedsStats() {
		return nil, fmt.Errorf("the plan refits down_proj: the statistics that it was made with are needed (--stats FILE)")
	}
	w := &Source{steps: map[string]*Step{}}
	w.makers.New = func() any { return &maker{from: c, refit: p.refit} }
	for i := range p.Steps {
		w.steps[p.Steps[i].Out.Name] = &p.Steps[i]
	}
	return w, nil
}

// Lookup returns type and shape of a tensor, and whether the program makes it.
func (w *Source) Lookup(name string) (tensor.Info, bool) {
	s, ok := w.steps[name]
	if !ok {
		return tensor.Info{}, false
	}
	return s.Out, true
}

// ReadRows stores rows first to first+n-1 of a tensor in dst. Reads may come from several
// goroutines.
func (w *Source) ReadRows(name string, dst []byte, first, n int) error {
	s, ok := w.steps[name]
	if !ok || first < 0 || n < 0 || first+n > s.Out.Rows() || int64(len(dst)) != int64(n)*s.Out.RowBytes() {
		return fmt.Errorf("no rows %d to %d of tensor %q in %d bytes", first, first+n, name, len(dst))
	}
	m := w.makers.Get().(*maker)
	defer w.makers.Put(m)
	b, err := m.make(chunk{s, first, n})
	copy(dst, b)
	return err
}
