package plan

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/arch"
)

// uneven is a plan of two layers that keeps 300 and 40 of 512 neurons.
func uneven(t *testing.T, s *arch.Spec) *Plan {
	t.Helper()
	p, err := outline(s, Rule{Widths: []int{300, 40}, Align: 1, AlignMode: Nearest})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestInForm(t *testing.T) {
	llama := &arch.Spec{Family: &arch.Families[0], Hidden: 64, Heads: 4, HeadDim: 16, Layers: 2, Intermediate: 512, Widths: []int{512, 512}}
	for _, test := range []struct {
		form   Form
		widths []int // nil: refused
		config arch.Form
	}{
		{"", []int{300, 40}, arch.PerLayer},
		{Transformers, []int{300, 40}, arch.PerLayer},
		{DeciLM, []int{512, 256}, arch.DeciLM},
		{Padded, []int{300, 300}, arch.Plain},
		{Llama, nil, 0},
		{"gguf", nil, 0},
	} {
		p := uneven(t, llama)
		q, err := p.InForm(test.form, llama)
		if test.widths == nil {
			if !errors.As(err, new(*RuleError)) {
				t.Errorf("%s: %v, want a RuleError", test.form, err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(q.Widths(), test.widths) || q.Spec(llama).Form != test.config {
			t.Errorf("%s: widths %v in a config of form %v, %v; want %v, %v", test.form, q.Widths(), q.Spec(llama).Form, err, test.widths, test.config)
			continue
		}
		if !reflect.DeepEqual(p.Widths(), []int{300, 40}) || len(q.Layers[0].Keep) != 300 || len(q.Layers[1].Keep) != 40 {
			t.Errorf("%s: the plan before has %v, the one after keeps %d and %d", test.form, p.Widths(), len(q.Layers[0].Keep), len(q.Layers[1].Keep))
		}
		was, err1 := p.Selection()
		is, err2 := q.Selection()
		if was != is || err1 != nil || err2 != nil {
			t.Errorf("%s: the selection was %s, %v, and is %s, %v", test.form, was, err1, is, err2)
		}
		q.Layers[1].Keep = q.Layers[1].Keep[1:]
		if other, err := q.Selection(); other == is || err != nil {
			t.Errorf("%s: a plan that keeps others has the same selection, %v", test.form, err)
		}
		b, err := q.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Decode(b)
		if err != nil || again.Form != test.form {
			t.Errorf("%s: read back as %v, %v", test.form, again, err)
		}
	}
}

// What a model does not have is refused, with the way out.
func TestFormsOfModels(t *testing.T) {
	spec := func(family int, change func(*arch.Spec)) *arch.Spec {
		s := &arch.Spec{Family: &arch.Families[family], Hidden: 64, Heads: 4, HeadDim: 16, Layers: 2, Intermediate: 512, Widths: []int{512, 512}}
		if change != nil {
			change(s)
		}
		return s
	}
	for _, test := range []struct {
		spec *arch.Spec
		form Form
		want string
	}{
		{spec(5, nil), "", "--form transformers covers llama, mistral, qwen2, not gemma2; --form padded"},
		{spec(1, nil), DeciLM, "--form decilm covers llama, not mistral"},
		{spec(0, func(s *arch.Spec) { s.HeadDim = 32 }), DeciLM, "no head_dim, and this model's is 32"},
		{spec(0, func(s *arch.Spec) { s.Intermediate, s.Widths = 500, []int{500, 500} }), DeciLM, "layer 0 would be 512 neurons wide, more than the model's 500"},
		{spec(0, nil), Llama, "--form transformers, --form decilm, or --form padded"},
	} {
		_, err := uneven(t, test.spec).InForm(test.form, test.spec)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s of %s: %v, want %q", test.form, test.spec.Family.ModelType, err, test.want)
		}
		if test.form != "" {
			if err := CheckForm(Rule{Widths: []int{300, 40}, Align: 1, AlignMode: Nearest}, test.form, test.spec); err == nil {
				t.Errorf("%s of %s: not refused before there are scores", test.form, test.spec.Family.ModelType)
			}
		}
	}
	if _, err := uneven(t, spec(5, nil)).InForm(Padded, spec(5, nil)); err != nil {
		t.Errorf("padded gemma2: %v", err)
	}
}

// A plan that was edited by hand is held against the layers of its model.
func TestCheckModelOfDifferentWidths(t *testing.T) {
	s := &arch.Spec{Family: &arch.Families[0], Hidden: 64, Heads: 4, HeadDim: 16, Layers: 2, Intermediate: 8, Widths: []int{8, 4}}
	p := KeepAll("m", s)
	if err := p.CheckModel("m", s); err != nil {
		t.Fatal(err)
	}
	p.Layers[1] = Layer{Layer: 1, Width: 2, Keep: []int{1, 6}}
	if err := p.CheckModel("m", s); err == nil || !strings.Contains(err.Error(), "neuron 6 of layer 1, which has 4") {
		t.Error(err)
	}
	p = KeepAll("m", s)
	p.Form = DeciLM
	if err := p.CheckModel("m", s); err == nil || !strings.Contains(err.Error(), "multiples of 256 only") {
		t.Error(err)
	}
	p.Form = Llama
	if err := p.CheckModel("m", s); !errors.As(err, new(*RuleError)) {
		t.Error(err)
	}
	if _, err := Decode([]byte(`{"coppice_plan":1,"form":"gguf","intermediate_size":4,"layers":[{"layer":0,"width":1,"keep":[0]}]}`)); err == nil || !strings.Contains(err.Error(), `"form" is "gguf"`) {
		t.Error(err)
	}
}
