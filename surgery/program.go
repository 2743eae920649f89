// Package surgery carries a plan out. Compile turns a plan and a checkpoint's headers
// into a Program, the list of output tensors with where each of their rows comes from:
// it reads no weights and decides nothing that the plan does not say. Run streams the
// program from the checkpoint into a sink, a few megabytes at a time; Verify streams it
// again and compares.
//
// A plan may refit down_proj. PlanRefit decides how, before; the refitted weights follow
// from plan, model and statistics (Program.Attach), the same bytes every time, and are
// solved for layer by layer while the program runs.
package surgery

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/tensor"
)

// Program is what must be done to make the pruned checkpoint.
type Program struct {
	Steps  []Step       // one a tensor, in the order of the output
	Config *arch.Config // of the output
	Spec   arch.Spec    // of the output
	Notes  []string     // what the user should be told

	files map[string][]byte // what the form adds; of nil content: what it leaves out of the input
	refit *refitter         // nil where the plan refits nothing
}

// Step makes one output tensor out of one input tensor.
type Step struct {
	Out  tensor.Info
	In   tensor.Info
	unit arch.Unit // Untouched: every row of the input, in order
	keep []int     // neurons, or rows or columns of heads, that stay
	// width is the output's number of those, above len(keep) where zeros pad it; from is the
	// input's.
	width, from int

	compute computation // copied: the values are the input's
	layer   int         // of the input, where they are computed
}

// name is the input's name, for messages; the output's where there is no input.
func (s *Step) name() string {
	if s.In.Name == "" {
		return s.Out.Name
	}
	return s.In.Name
}

// DType returns the element type that a --dtype value asks for. Same keeps the stored
// type of each tensor; block types, which only a GGUF has, become F16.
func DType(name string) (tensor.DType, error) {
	switch name {
	case "same":
		return tensor.Invalid, nil
	case "f16", "bf16", "f32":
		return tensor.ParseDType(name)
	}
	return tensor.Invalid, fmt.Errorf("unknown element type %q; types are same, f16, bf16, f32", name)
}

// Compile turns a plan for a checkpoint into a program that writes tensors of type to
// (Invalid: the stored type, F16 if that is a block type). A plan for another model, or
// one in a form that cannot say its widths, is refused.
func Compile(p *plan.Plan, c *checkpoint.Checkpoint, to tensor.DType) (*Program, error) {
	fingerprint, err := c.Fingerprint()
	if err != nil {
		return nil, err
	}
	if err := p.CheckModel(fingerprint, &c.Spec); err != nil {
		return nil, err
	}
	if to == tensor.Invalid && c.Quantised() {
		to = tensor.F16
	}
	prog := &Program{Spec: p.Spec(&c.Spec), Notes: slices.Clone(c.Notes)}
	known := map[string]arch.Tensor{}
	for _, t := range c.Spec.Tensors() {
		known[t.Name] = t
	}
	renumber := renumbering(p)
	for _, in := range c.Tensors() {
		t := known[in.Name]
		s := Step{In: in, Out: in, unit: t.Unit}
		if to != tensor.Invalid && (in.DType.IsFloat() || in.DType.IsBlock()) {
			s.Out.DType = to
		}
		if layer, rest := arch.LayerOf(in.Name); layer >= 0 {
			of := p.Layers[layer]
			attention := t.Of == arch.Attention || strings.HasPrefix(rest, "self_attn.") // what other programs leave there too
			if of.Drop || attention && of.DropAttention || t.Of == arch.MLP && of.Width == 0 {
				continue
			}
			s.Out.Name = arch.LayerPrefix(renumber[layer]) + rest
			if attention {
				s.cutHeads(of, &c.Spec)
			} else {
				s.cut(of, c.Spec.Widths[layer])
			}
		}
		prog.Steps = append(prog.Steps, s)
	}
	if err := prog.addRefit(p, c); err != nil {
		return nil, err
	}
	if prog.Config, err = outputConfig(p, c, &prog.Spec, to); err != nil {
		return nil, err
	}
	if err := prog.modelingFile(c); err != nil {
		return nil, err
	}
	prog.noteZeros(p)
	return prog, nil
}

// cut sets what a layer's plan does to one of its tensors.
func (s *Step) cut(l plan.Layer, from int) {
	if s.unit == arch.Untouched {
		return
	}
	if len(l.Keep) == from && l.Width == from {
		s.unit = arch.Untouched // everything stays
		return
	}
	s.keep, s.width, s.from = l.Keep, l.Width, from
	s.Out.Shape = slices.Clone(s.In.Shape)
	switch s.unit {
	case arch.Cols:
		s.Out.Shape[1] = l.Width
	case arch.FusedRows:
		s.Out.Shape[0] = 2 * l.Width
	default:
		s.Out.Shape[0] = l.Width
	}
}

// cutHeads sets what a layer's plan does to a tensor of its attention.
func (s *Step) cutHeads(l plan.Layer, spec *arch.Spec) {
	if s.unit == arch.Untouched || l.KeepHeads == nil {
		s.unit = arch.Untouched
		return
	}
	has := spec.AttentionAt(l.Layer)
	group := has.Queries / has.KV
	// add appends the rows of n heads for each key-value head that stays.
	add := func(first, n int) {
		for _, h := range l.KeepHeads {
			for i := range n * spec.HeadDim {
				s.keep = append(s.keep, first+h*n*spec.HeadDim+i)
			}
		}
	}
	s.Out.Shape = slices.Clone(s.In.Shape)
	axis := 0
	switch s.unit {
	case arch.KVRows:
		add(0, 1)
	case arch.QKVRows:
		add(0, group)
		add(has.Queries*spec.HeadDim, 1)
		add((has.Queries+has.KV)*spec.HeadDim, 1)
	case arch.HeadCols:
		axis = 1
		add(0, group)
	default:
		add(0, group)
	}
	s.width, s.from = len(s.keep), s.In.Shape[axis]
	s.Out.Shape[axis] = s.width
}

// renumbering maps the layers that stay to their new numbers.
func renumbering(p *plan.Plan) map[int]int {
	m := map[int]int{}
	for i, l := range p.Kept() {
		m[l.Layer] = i
	}
	return m
}

// noteZeros tells how many zero neurons there are, and why.
func (prog *Program) noteZeros(p *plan.Plan) {
	neurons, layers := 0, 0
	for _, l := range p.Kept() {
		if n := l.Width - len(l.Keep); n > 0 {
			neurons, layers = neurons+n, layers+1
		}
	}
	switch {
	case neurons == 0:
	case p.Form == plan.DeciLM:
		prog.Notes = append(prog.Notes, fmt.Sprintf("%d zero neurons round %d of %d layers up to multiples of %d, which is what --form decilm can say: they compute nothing and save no bytes", neurons, layers, prog.Spec.Layers, arch.DeciMultiple))
	case p.Uniform():
		prog.Notes = append(prog.Notes, fmt.Sprintf("%d zero neurons pad the layers to %d: they compute nothing and save no bytes", neurons, prog.Spec.Intermediate))
	default:
		prog.Notes = append(prog.Notes, fmt.Sprintf("%d zero neurons pad %d of %d layers: they compute nothing and save no bytes", neurons, layers, prog.Spec.Layers))
	}
}

// modelingFile says what becomes of the file through which transformers loads forms that
// are not plain: it is written for them, and an input's is left out of plain outputs. A
// file of that name that is someone else's is not overwritten.
func (prog *Program) modelingFile(c *checkpoint.Checkpoint) error {
	inWay := false
	for _, f := range c.Extra() {
		if f.Name != arch.ModelingName {
			continue
		}
		ours, err := isOurs(f)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", c.Path, f.Name, err)
		}
		if ours {
			prog.files = map[string][]byte{f.Name: nil}
		}
		inWay = !ours
	}
	switch {
	case prog.Spec.Form == arch.Plain:
		return nil
	case inWay:
		return fmt.Errorf("%s: holds a %s that Coppice did not write, and the output needs one of its own; rename it, or choose --form padded", c.Path, arch.ModelingName)
	}
	prog.files = map[string][]byte{arch.ModelingName: arch.ModelingFile}
	return nil
}

func isOurs(f checkpoint.ExtraFile) (bool, error) {
	r, err := f.Open()
	if err != nil {
		return false, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, 1<<16))
	return arch.IsModelingFile(b), err
}

// outputConfig changes in the input's config.json what the program changes in the
// model, and nothing else.
func outputConfig(p *plan.Plan, c *checkpoint.Checkpoint, spec *arch.Spec, to tensor.DType) (*arch.Config, error) {
	cfg := c.Config.Clone()
	if err := arch.SetForm(cfg, &c.Spec, spec); err != nil {
		return nil, fmt.Errorf("%s: config.json: %w", c.Path, err)
	}
	if spec.MLPBias != c.Spec.MLPBias {
		if err := cfg.Set("mlp_bias", spec.MLPBias); err != nil {
			return nil, err
		}
	}
	if spec.Layers != c.Spec.Layers {
		var kept []int
		for _, l := range p.Kept() {
			kept = append(kept, l.Layer)
		}
		if err := arch.CutLayers(cfg, c.Spec, kept); err != nil {
			return nil, fmt.Errorf("%s: config.json: %w", c.Path, err)
		}
	}
	if to == tensor.Invalid {
		return cfg, nil
	}
	name, ok := map[tensor.DType]string{tensor.F16: "float16", tensor.BF16: "bfloat16", tensor.F32: "float32"}[to]
	if !ok {
		return cfg, nil // a stored type that no --dtype names: the config already says it
	}
	var keys []string
	for _, k := range []string{"torch_dtype", "dtype"} { // the old spelling and the new
		if cfg.Has(k) {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		keys = []string{"torch_dtype"}
	}
	for _, k := range keys {
		if err := cfg.Set(k, name); err != nil {
			return nil, err
		}
	}
	return cfg, nil
}

// Infos lists the output tensors.
func (p *Program) Infos() []tensor.Info {
	infos := make([]tensor.Info, len(p.Steps))
	for i, s := range p.Steps {
		infos[i] = s.Out
	}
	return infos
}

// Bytes is the size of all output tensors.
func (p *Program) Bytes() int64 {
	var n int64
	for _, s := range p.Steps {
		n += s.Out.RowBytes() * int64(s.Out.Rows())
	}
	return n
}
