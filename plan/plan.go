// Package plan is the artefact between deciding and doing: which neurons and heads of
// which layer stay, which layers stay, and by which rule that was decided. A plan holds every
// decision and no weights; applying it decides nothing more. It knows neither clock nor
// host, so the same inputs give the same bytes, and it names the model it was made for
// by fingerprint, so that it cannot be applied to another.
package plan

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/score"
)

// Version is the newest version of the file form. Version 1 says nothing of attention, and
// every layer that stays has neurons; a plan that does not need more is still written as
// one.
const Version = 2

// Plan says what stays of a model.
type Plan struct {
	Version      int          `json:"coppice_plan"`
	Model        string       `json:"model"` // fingerprint of the checkpoint it is for
	Family       string       `json:"family"`
	Hidden       int          `json:"hidden_size"`
	Intermediate int          `json:"intermediate_size"` // before pruning
	Method       score.Method `json:"method,omitempty"`  // of the scores; empty if nothing was scored
	Seed         uint64       `json:"seed,omitempty"`
	Rule         Rule         `json:"rule"`
	// Allocation says where the widths of Rule come from, if they were shared out.
	Allocation *Allocation `json:"allocation,omitempty"`
	// Calibration is what the scores were made from, where activations take part in them.
	Calibration *score.Calibration `json:"calibration,omitempty"`
	Refit       *Refit             `json:"refit,omitempty"` // nil: weights stay as they are
	Form        Form               `json:"form,omitempty"`  // empty: as Arch chooses
	Layers      []Layer            `json:"layers"`          // one for each layer of the model
}

// Layer says what stays of one layer.
type Layer struct {
	Layer int   `json:"layer"`
	Drop  bool  `json:"drop,omitempty"` // the whole layer goes, attention included
	Width int   `json:"width"`          // after pruning; above len(Keep) where zero neurons pad it; 0: no MLP
	Keep  []int `json:"keep"`           // neurons that stay, ascending
	// What goes of the attention: all of it, or all key-value heads but KeepHeads (ascending;
	// nil: all stay), each with the query heads that share it.
	DropAttention bool  `json:"drop_attention,omitempty"`
	KeepHeads     []int `json:"keep_kv_heads,omitempty"`
	// Damping of a least-squares refit: the ridge is Damping * trace(H)/d.
	Damping float64 `json:"damping,omitempty"`
}

// KeepAll is the plan that changes nothing.
func KeepAll(model string, spec *arch.Spec) *Plan {
	p := &Plan{Version: 1, Model: model, Family: spec.Family.ModelType, Hidden: spec.Hidden, Intermediate: spec.Intermediate}
	for l, w := range spec.Widths {
		p.Layers = append(p.Layers, Layer{Layer: l, Width: w, Keep: upTo(w)})
	}
	p.setVersion()
	return p
}

// setVersion makes the version the first that can say what the plan says.
func (p *Plan) setVersion() {
	if slices.ContainsFunc(p.Layers, func(l Layer) bool { return l.isNew() }) {
		p.Version = 2
	}
}

// isNew reports whether version 1 cannot say the layer.
func (l *Layer) isNew() bool {
	return l.DropAttention || l.KeepHeads != nil || !l.Drop && len(l.Keep) == 0
}

// Attention is what is left of a layer's attention.
func (l *Layer) Attention(has arch.HeadCount) arch.HeadCount {
	switch {
	case l.DropAttention || l.Drop:
		return arch.HeadCount{}
	case l.KeepHeads == nil || has.KV == 0:
		return has
	}
	return arch.HeadCount{Queries: len(l.KeepHeads) * (has.Queries / has.KV), KV: len(l.KeepHeads)}
}

// Spec is the model that the plan leaves of one, in the form that it is written in.
func (p *Plan) Spec(spec *arch.Spec) arch.Spec {
	var attention []arch.HeadCount
	for _, l := range p.Kept() {
		attention = append(attention, l.Attention(spec.AttentionAt(l.Layer)))
	}
	after := spec.WithLayers(p.Widths(), attention)
	switch {
	case p.Form == DeciLM:
		after.Form = arch.DeciLM
	case p.Form == Transformers, p.Form == "" && !after.Uniform():
		after.Form = arch.PerLayer
	default:
		after.Form = arch.Plain
	}
	return after
}

// Build decides what stays: the neurons with the highest scores, as many as the rule
// says; of equal scores the lower index. A rule that the model cannot follow is a
// *RuleError.
func Build(scores *score.Scores, spec *arch.Spec, rule Rule) (*Plan, error) {
	p, err := outline(spec, rule)
	if err != nil {
		return nil, err
	}
	p.Model = scores.Model
	p.Method, p.Seed, p.Calibration = scores.Method, scores.Seed, scores.Calibration
	if len(scores.Layers) != spec.Layers {
		return nil, fmt.Errorf("the scores are of %d layers, the model has %d", len(scores.Layers), spec.Layers)
	}
	for l := range p.Layers {
		layer := &p.Layers[l]
		if layer.Drop || layer.Width == 0 || !rule.prunes(l) {
			continue
		}
		if d := spec.Widths[l]; len(scores.Layers[l]) != d {
			return nil, fmt.Errorf("the scores of layer %d are of %d neurons, the layer has %d", l, len(scores.Layers[l]), d)
		}
		layer.Keep = best(scores.Layers[l], len(layer.Keep))
	}
	return p, nil
}

// outline is the plan as far as it does not depend on scores: how many neurons of each
// layer stay, but not which.
func outline(spec *arch.Spec, rule Rule) (*Plan, error) {
	if err := rule.CheckFor(spec); err != nil {
		return nil, err
	}
	p := KeepAll("", spec)
	p.Rule = rule
	for l := range p.Layers {
		layer := &p.Layers[l]
		if slices.Contains(rule.Drop, l) {
			*layer = Layer{Layer: l, Drop: true, Keep: []int{}}
			continue
		}
		layer.DropAttention = slices.Contains(rule.DropAttention, l)
		layer.KeepHeads = rule.keepHeads(l, spec.AttentionAt(l).KV)
		if slices.Contains(rule.DropMLP, l) {
			layer.Width, layer.Keep = 0, []int{}
		}
		if layer.Width == 0 || !rule.prunes(l) {
			continue
		}
		keep, width, err := rule.widths(l, layer.Width, spec.Hidden)
		if err != nil {
			return nil, err
		}
		layer.Keep, layer.Width = layer.Keep[:keep], width
	}
	p.setVersion()
	return p, nil
}

// best returns the indices of the k highest scores, ascending.
func best(scores []float32, k int) []int {
	order := score.Order(scores)[:k]
	slices.Sort(order)
	return order
}

func upTo(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

// Kept lists the layers that stay.
func (p *Plan) Kept() []Layer {
	var kept []Layer
	for _, l := range p.Layers {
		if !l.Drop {
			kept = append(kept, l)
		}
	}
	return kept
}

// Widths lists the width of each layer that stays.
func (p *Plan) Widths() []int {
	var w []int
	for _, l := range p.Kept() {
		w = append(w, l.Width)
	}
	return w
}

// Uniform reports whether all layers that stay have one width.
func (p *Plan) Uniform() bool {
	w := p.Widths()
	return slices.Min(w) == slices.Max(w)
}

// CheckModel is an error if the plan is for another model, or in a form that this one
// does not have (*RuleError).
func (p *Plan) CheckModel(fingerprint string, spec *arch.Spec) error {
	if p.Model != fingerprint {
		return fmt.Errorf("the plan is for another model (plan: %s, model: %s); make a plan for this one with `coppice plan`", p.Model, fingerprint)
	}
	if p.Family != spec.Family.ModelType || p.Hidden != spec.Hidden || len(p.Layers) != spec.Layers || p.Intermediate != spec.Intermediate {
		return fmt.Errorf("the plan does not fit its own model: it says %s with %d layers, hidden size %d and width %d; the model is %s with %d, %d and %d",
			p.Family, len(p.Layers), p.Hidden, p.Intermediate, spec.Family.ModelType, spec.Layers, spec.Hidden, spec.Intermediate)
	}
	for l, d := range spec.Widths {
		if keep := p.Layers[l].Keep; len(keep) > 0 && keep[len(keep)-1] >= d {
			return fmt.Errorf("the plan does not fit its own model: it keeps neuron %d of layer %d, which has %d", keep[len(keep)-1], l, d)
		}
		heads := p.Layers[l].KeepHeads
		if has := spec.AttentionAt(l).KV; len(heads) > 0 && heads[len(heads)-1] >= has {
			return fmt.Errorf("the plan does not fit its own model: it keeps key-value head %d of layer %d, which has %d", heads[len(heads)-1], l, has)
		}
		if p.Refits(p.Layers[l], d) && p.Refit.Method == LeastSquares && p.Layers[l].Damping == 0 {
			return fmt.Errorf("the plan refits layer %d, but says no damping: expected a number above 0 and at most %v", l, MaxDamping)
		}
	}
	return p.checkForm(spec)
}

// Encode returns the file form: JSON, one line a layer.
func (p *Plan) Encode() ([]byte, error) {
	head, err := json.MarshalIndent(struct {
		*Plan
		Layers any `json:"layers,omitempty"`
	}{Plan: p}, "", "  ")
	if err != nil {
		return nil, err
	}
	head = []byte(strings.TrimSuffix(string(head), "\n}"))
	b := append(head, ",\n  \"layers\": ["...)
	for i, l := range p.Layers {
		if i > 0 {
			b = append(b, ',')
		}
		row, err := json.Marshal(l)
		if err != nil {
			return nil, err
		}
		b = append(append(b, "\n    "...), row...)
	}
	return append(b, "\n  ]\n}\n"...), nil
}

// Decode reads the file form and checks that it is a plan that can be carried out.
func Decode(b []byte) (*Plan, error) {
	var p Plan
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("not a plan: %w", err)
	}
	if p.Version < 1 || p.Version > Version {
		return nil, fmt.Errorf("key \"coppice_plan\" is %d; this program reads versions 1 to %d", p.Version, Version)
	}
	if len(p.Layers) == 0 {
		return nil, fmt.Errorf("key \"layers\" is empty")
	}
	if p.Form != "" && !slices.Contains(Forms, p.Form) {
		return nil, fmt.Errorf("key \"form\" is %q; forms are %v", p.Form, Forms)
	}
	if p.Refit != nil {
		if err := p.Refit.check(); err != nil {
			return nil, fmt.Errorf("key \"refit\": %w", err)
		}
	}
	if p.Allocation != nil {
		if err := p.Allocation.check(); err != nil {
			return nil, fmt.Errorf("key \"allocation\": %w", err)
		}
	}
	kept := 0
	for i, l := range p.Layers {
		if err := p.checkLayer(i, l); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		if !l.Drop {
			kept++
		}
	}
	if kept == 0 {
		return nil, fmt.Errorf("all layers are dropped")
	}
	return &p, nil
}

func (p *Plan) checkLayer(i int, l Layer) error {
	switch {
	case l.Layer != i:
		return fmt.Errorf("key \"layer\" is %d", l.Layer)
	case l.Drop && (len(l.Keep) > 0 || l.Width != 0 || l.DropAttention || l.KeepHeads != nil):
		return fmt.Errorf("is dropped but keeps neurons or heads")
	case l.Drop:
		return nil
	case l.isNew() && p.Version < 2:
		return fmt.Errorf("keeps no neuron, or not all of its attention, which version %d of a plan cannot say", p.Version)
	case l.DropAttention && len(l.Keep) == 0:
		return fmt.Errorf("keeps neither attention nor neurons, but is not dropped")
	case l.DropAttention && l.KeepHeads != nil:
		return fmt.Errorf("keeps heads of an attention that is dropped")
	case p.Refit != nil && p.Refit.Method == LeastSquares && !(l.Damping >= 0 && l.Damping <= MaxDamping):
		return fmt.Errorf("damping %v, expected a number above 0 and at most %v", l.Damping, MaxDamping)
	case l.Width < len(l.Keep) || l.Width > p.Intermediate:
		return fmt.Errorf("width %d, expected between the %d neurons it keeps and the model's %d", l.Width, len(l.Keep), p.Intermediate)
	}
	for k, j := range l.KeepHeads {
		if j < 0 || k > 0 && j <= l.KeepHeads[k-1] {
			return fmt.Errorf("key-value head %d at position %d: expected ascending numbers", j, k)
		}
	}
	for k, j := range l.Keep {
		if j < 0 || j >= p.Intermediate || k > 0 && j <= l.Keep[k-1] {
			return fmt.Errorf("neuron %d at position %d: expected ascending numbers below %d", j, k, p.Intermediate)
		}
	}
	return nil
}
