package plan

import (
	"fmt"
	"slices"

	"github.com/coppice-lm/coppice/arch"
)

// Form says as what checkpoint a plan is carried out: how its config says what each layer
// has, and so which programs load it (docs/where-it-runs.md). A plan without a form is
// carried out as Llama where its layers have one width and one attention, else as
// Transformers.
type Form string

const (
	// Llama is the family's own checkpoint, of one width.
	Llama Form = "llama"
	// Transformers is a checkpoint of one width a layer, which transformers loads through
	// a modelling file beside the weights.
	Transformers Form = "transformers"
	// DeciLM is a checkpoint of one width a layer as vLLM and llama.cpp's converter know
	// it; widths are multiples of 256.
	DeciLM Form = "decilm"
	// Padded is the family's own checkpoint, every layer as wide as the widest.
	Padded Form = "padded"
)

// Forms are all forms.
var Forms = []Form{Llama, Transformers, DeciLM, Padded}

// InForm is the plan with a form and the widths that the form can say: neurons that the
// plan removes stay removed, and zero neurons, which compute nothing since act(0)*0 = 0,
// fill what must be wider. The empty form leaves the plan as it is. A form that the model
// or the plan's widths do not have is a *RuleError.
func (p *Plan) InForm(form Form, spec *arch.Spec) (*Plan, error) {
	q := *p
	q.Form = form
	q.Layers = slices.Clone(p.Layers)
	switch form {
	case "", Llama, Transformers:
	case Padded:
		q.widen(func(int) int { return slices.Max(p.Widths()) })
	case DeciLM:
		q.widen(func(w int) int { return (w + arch.DeciMultiple - 1) / arch.DeciMultiple * arch.DeciMultiple })
	default:
		return nil, ruleErrorf("--form %q: forms are %v", form, Forms)
	}
	return &q, q.checkForm(spec)
}

// CheckForm is an error if a model cannot be pruned by a rule into a form. It needs no
// scores.
func CheckForm(rule Rule, form Form, spec *arch.Spec) error {
	p, err := outline(spec, rule)
	if err != nil {
		return err
	}
	_, err = p.InForm(form, spec)
	return err
}

// widen gives the layers that stay the width that to makes of theirs.
func (p *Plan) widen(to func(int) int) {
	for i := range p.Layers {
		if l := &p.Layers[i]; !l.Drop {
			l.Width = to(l.Width)
		}
	}
}

// checkForm is an error if the plan's widths cannot be said in its form.
func (p *Plan) checkForm(spec *arch.Spec) error {
	after := p.Spec(spec)
	if err := after.CanBe(after.Form); err != nil {
		switch {
		case p.Form == "" && after.Attention == nil:
			err = fmt.Errorf("the layers would be %s neurons wide, which a plain checkpoint cannot say; %w", p.widthRange(), err)
		case p.Form == "":
			err = fmt.Errorf("the attention of the layers would differ, which a plain checkpoint cannot say; %w", err)
		}
		return &RuleError{err.Error()}
	}
	switch {
	case p.Form == Llama && !p.Uniform(), p.Form == Padded && !p.Uniform():
		return ruleErrorf("the layers would be %s neurons wide, but a plain checkpoint has one intermediate_size and its loaders (transformers, vLLM, llama.cpp) refuse others; choose --form transformers, --form decilm, or --form padded, which fills the narrower ones with zero neurons and saves no bytes", p.widthRange())
	case p.Form != DeciLM:
		return nil
	}
	for _, l := range p.Kept() {
		if l.Width%arch.DeciMultiple != 0 {
			return ruleErrorf("layer %d would be %d neurons wide, but --form decilm can say multiples of %d only; make the plan with --form decilm", l.Layer, l.Width, arch.DeciMultiple)
		}
		if l.Width > p.Intermediate {
			return ruleErrorf("layer %d would be %d neurons wide, more than the model's %d, since --form decilm can say multiples of %d only; choose --form transformers", l.Layer, l.Width, p.Intermediate, arch.DeciMultiple)
		}
	}
	return nil
}

// widthRange is the widths in words.
func (p *Plan) widthRange() string {
	w := p.Widths()
	return fmt.Sprintf("%d to %d", slices.Min(w), slices.Max(w))
}
