package surgery

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/tensor"
)

// computation says what the values of a step are, where they are not copied.
type computation uint8

const (
	copied   computation = iota
	refitted             // down_proj of a layer, refitted by least squares
	shifted              // down_proj's bias, with what the lost neurons add on average
	replayed             // a matrix out of a file of refitted weights
	zeros                // a bias that the model did not have
)

// fromStats reports whether the computation needs statistics, or refitted weights.
func (c computation) fromStats() bool { return c == refitted || c == shifted || c == replayed }

// refitter computes the values of refitted tensors. It keeps those of the last layers
// that were asked for, which the chunks of one tensor share.
type refitter struct {
	plan    *plan.Plan
	from    *checkpoint.Checkpoint
	stats   *score.Stats
	part    score.Part // of the tokens, that refits are made from
	weights *Weights
	threads int

	mu    sync.Mutex
	cache []stepValues  // latest last
	layer int           // of read
	read  *LayerWeights // the refitted weights that were read last
}

type stepValues struct {
	step   *Step
	values []float32 // of the output tensor, row after row
}

// cachedSteps is how many steps' values are kept: goroutines at a border need two.
const cachedSteps = 2

// Attach gives the program the statistics that its plan refits from.
func (p *Program) Attach(st *score.Stats, threads int) error {
	if p.refit == nil {
		return fmt.Errorf("%s: the plan refits nothing; leave --stats out", st.Path())
	}
	if m := p.refit.plan.Refit.Method; m == plan.Propagated {
		return fmt.Errorf("%s: these are statistics of the dense model; a %s refit needs the weights that it made", st.Path(), m)
	}
	fingerprint, err := st.Fingerprint()
	if err != nil {
		return err
	}
	if want := p.refit.plan.Refit.Stats; fingerprint != want {
		return fmt.Errorf("%s: these are not the statistics that the plan refits from (plan: %s, file: %s)", st.Path(), want, fingerprint)
	}
	if err := st.CheckModel(p.refit.plan.Model, &p.refit.from.Spec); err != nil {
		return err
	}
	p.refit.stats, p.refit.part, p.refit.threads = st, score.AllTokens, threads
	return nil
}

// HoldBack makes the program, to which statistics are attached, refit without the tokens
// that are held back, so that what it makes can be judged on them. It is not what the plan
// makes.
func (p *Program) HoldBack() {
	if p.refit != nil {
		p.refit.part = score.Fit
	}
}

// NeedsStats reports whether the program cannot run before Attach.
func (p *Program) NeedsStats() bool {
	return p.refit != nil && p.refit.stats == nil && p.refit.weights == nil && slices.ContainsFunc(p.Steps, func(s Step) bool { return s.compute.fromStats() })
}

// values returns all values of a computed step.
func (r *refitter) values(s *Step) ([]float32, error) {
	if s.compute == zeros {
		return make([]float32, s.Out.Rows()*s.Out.RowElements()), nil
	}
	// One at a time: each solve uses all threads.
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.cache {
		if c.step == s {
			return c.values, nil
		}
	}
	solve := r.solve
	if s.compute == replayed {
		solve = r.replay
	}
	v, err := solve(s)
	if err != nil {
		return nil, err
	}
	r.cache = append(r.cache, stepValues{s, v})
	if len(r.cache) > cachedSteps {
		r.cache = slices.Delete(r.cache, 0, 1)
	}
	return v, nil
}

// solve computes a step's tensor from plan, weights and statistics.
func (r *refitter) solve(s *Step) ([]float32, error) {
	layer := r.plan.Layers[s.layer]
	stats, err := r.stats.Layer(s.layer)
	if err != nil {
		return nil, err
	}
	w, err := score.DownProj(r.from, s.layer)
	if err != nil {
		return nil, err
	}
	h, mu := stats.Second(r.part, r.plan.Refit.Cap, r.threads)
	if s.compute == shifted {
		return r.shiftedBias(s, biasOf(w, mu, layer.Keep))
	}
	fitted, err := leastSquares(w, h, layer.Keep, layer.Damping, r.threads)
	if err != nil {
		return nil, fmt.Errorf("layer %d: %w", s.layer, err)
	}
	values := make([]float32, fitted.Rows*s.width) // zero neurons have zero columns
	for i := range fitted.Rows {
		for j, x := range fitted.Row(i) {
			values[i*s.width+j] = float32(x)
		}
	}
	return values, nil
}

// shiftedBias adds b to the bias that the model has, if it has one.
func (r *refitter) shiftedBias(s *Step, b []float64) ([]float32, error) {
	values := make([]float32, len(b))
	if s.In.Name != "" {
		raw := make([]byte, int64(s.In.Rows())*s.In.RowBytes())
		if err := r.from.ReadRows(s.In.Name, raw, 0, s.In.Rows()); err != nil {
			return nil, err
		}
		if err := tensor.Decode(values, raw, s.In.DType); err != nil {
			return nil, fmt.Errorf("%s: tensor %q: %w", r.from.Path, s.In.Name, err)
		}
	}
	for i := range values {
		values[i] = float32(float64(values[i]) + b[i])
	}
	return values, nil
}

// mlpBiases lists the biases of gated MLPs by tensor name.
func mlpBiases(spec *arch.Spec) map[string]arch.Tensor {
	m := map[string]arch.Tensor{}
	for _, t := range spec.Tensors() {
		if t.Role == arch.MLP && len(t.Shape) == 1 {
			m[t.Name] = t
		}
	}
	return m
}

// addRefit marks the steps that are computed, and adds those of biases that the input
// lacks.
func (prog *Program) addRefit(p *plan.Plan, c *checkpoint.Checkpoint) error {
	if p.Refit == nil {
		return nil
	}
	prog.refit = &refitter{plan: p, from: c}
	if p.Refit.Method != plan.Bias {
		how := refitted
		if p.Refit.Method == plan.Propagated {
			how = replayed
		}
		for i := range prog.Steps {
			s := &prog.Steps[i]
			if layer, _ := arch.LayerOf(s.In.Name); s.unit == arch.Cols && layer >= 0 && p.Refits(p.Layers[layer], c.Spec.Widths[layer]) {
				s.compute, s.layer = how, layer
			}
		}
		return nil
	}
	if err := CheckRefit(&c.Spec, p.Refit.Method); err != nil {
		return err
	}
	prog.Spec.MLPBias = true
	before := c.Spec // the input's numbering and widths, with biases
	before.MLPBias = true
	biases := mlpBiases(&before)
	for i := range prog.Steps {
		s := &prog.Steps[i]
		if t, ok := biases[s.In.Name]; ok {
			delete(biases, s.In.Name)
			s.shift(t, p, c.Spec.Widths[t.Layer])
		}
	}
	renumber := renumbering(p)
	for _, t := range before.Tensors() { // in a fixed order
		if _, missing := biases[t.Name]; !missing || p.Layers[t.Layer].Drop || p.Layers[t.Layer].Width == 0 {
			continue
		}
		_, rest := arch.LayerOf(t.Name)
		s := Step{Out: tensor.Info{Name: arch.LayerPrefix(renumber[t.Layer]) + rest, Shape: slices.Clone(t.Shape)}, compute: zeros, layer: t.Layer}
		weight, ok := prog.lookup(strings.TrimSuffix(s.Out.Name, "bias") + "weight")
		if !ok {
			return fmt.Errorf("%s: tensor %q has no weight to go with", c.Path, t.Name)
		}
		s.Out.DType = weight.DType
		if t.Unit != arch.Untouched {
			s.Out.Shape[0] = p.Layers[t.Layer].Width
		}
		s.shift(t, p, c.Spec.Widths[t.Layer])
		prog.Steps = append(prog.Steps, s)
	}
	return nil
}

// shift makes the bias of the down_proj of a layer of that width a computed one, where
// neurons go.
func (s *Step) shift(t arch.Tensor, p *plan.Plan, width int) {
	if t.Unit == arch.Untouched && p.Refits(p.Layers[t.Layer], width) {
		s.compute, s.layer = shifted, t.Layer
	}
}

// lookup finds an output tensor.
func (prog *Program) lookup(name string) (tensor.Info, bool) {
	for _, s := range prog.Steps {
		if s.Out.Name == name {
			return s.Out, true
		}
	}
	return tensor.Info{}, false
}

// computed returns the chunk of a computed step as float32.
func (m *maker) computed(k chunk) ([]byte, error) {
	if k.step.compute.fromStats() && m.refit.stats == nil && m.refit.weights == nil {
		return nil, fmt.Errorf("the plan refits down_proj: the statistics that it was made with are needed (--stats FILE)")
	}
	values, err := m.refit.values(k.step)
	if err != nil {
		return nil, err
	}
	n := k.step.Out.RowElements()
	m.in = grow(m.in, 4*k.n*n)
	return m.in, tensor.Encode(m.in, values[k.row*n:(k.row+k.n)*n], tensor.F32)
}
