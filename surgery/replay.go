package surgery

import (
	"fmt"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/plan"
)

// AttachWeights gives the program the refitted weights that its plan, one with a
// propagated refit, names.
func (p *Program) AttachWeights(w *Weights) error {
	if p.refit == nil || p.refit.plan.Refit.Method != plan.Propagated {
		return fmt.Errorf("%s: the plan has no %s refit; leave the refitted weights out", w.path, plan.Propagated)
	}
	of := p.refit.plan
	if err := w.checkModel(of.Model, &p.refit.from.Spec); err != nil {
		return err
	}
	selection, err := of.Selection()
	if err != nil {
		return err
	}
	fingerprint, err := w.Fingerprint()
	if err != nil {
		return err
	}
	if fingerprint != of.Refit.Stats {
		return fmt.Errorf("%s: these are not the refitted weights that the plan was made with (plan: %s, file: %s)", w.path, of.Refit.Stats, fingerprint)
	}
	if w.Plan != selection {
		return fmt.Errorf("%s: the plan names these refitted weights, but they were fitted for a plan that keeps other neurons (this one's selection: %s, theirs: %s); make both anew with `coppice refit`", w.path, selection, w.Plan)
	}
	for l, layer := range of.Layers {
		want := 0
		if of.Refits(layer, p.refit.from.Spec.Widths[l]) {
			want = len(layer.Keep)
		}
		if w.Widths[l] != want {
			return fmt.Errorf("%s: layer %d has %d refitted neurons, the plan %d", w.path, l, w.Widths[l], want)
		}
	}
	p.refit.weights = w
	model, err := p.refit.from.Spec.Transformer(p.refit.from.Config)
	if err != nil {
		return err
	}
	for i := range p.Steps {
		s := &p.Steps[i]
		layer, _ := arch.LayerOf(s.In.Name)
		if layer < 0 || len(s.In.Shape) != 2 {
			continue
		}
		inner := s.unit == arch.GateRows || s.unit == arch.UpRows || s.unit == arch.FusedRows
		out := s.In.Name == model.Layers[layer].Out.Weight
		if inner && w.Inner && w.Widths[layer] > 0 || out && w.Heads > 0 && w.Outs[layer] {
			s.compute, s.layer = replayed, layer
		}
	}
	return nil
}

// replay returns the values of a step's tensor from the refitted weights: of MLPs, neurons
// that stay, then zeros up to the width.
func (r *refitter) replay(s *Step) ([]float32, error) {
	if r.read == nil || r.layer != s.layer {
		m, err := r.weights.Layer(s.layer)
		if err != nil {
			return nil, err
		}
		r.read, r.layer = &m, s.layer
	}
	h, k := r.weights.Hidden, r.weights.Widths[s.layer]
	values := make([]float32, s.Out.Rows()*s.Out.RowElements())
	switch s.unit {
	case arch.Untouched, arch.HeadCols:
		if len(r.read.Out) != len(values) {
			return nil, fmt.Errorf("%s: layer %d: an output projection of %d values, the model has %d", r.weights.path, s.layer, len(r.read.Out), len(values))
		}
		copy(values, r.read.Out)
	case arch.Cols:
		for i := range h {
			copy(values[i*s.width:][:k], r.read.Down[i*k:])
		}
	case arch.GateRows:
		copy(values, r.read.Gate)
	case arch.UpRows:
		copy(values, r.read.Up)
	default: // one above the other
		copy(values, r.read.Gate)
		copy(values[s.width*h:], r.read.Up)
	}
	return values, nil
}
