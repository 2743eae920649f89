package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/score"
)

// CurveName says what the squared error of a layer's output, after a refit, is measured
// against.
type CurveName string

// The curves. Errors are those after a refit on held-back text, or on the text of the fit
// where none was held back; of a plan that does not refit down_proj by least squares, those
// without a refit.
const (
	Residual CurveName = "residual" // the energy of the residual stream at the layer's output
	Output   CurveName = "output"   // the energy of the layer's own output
)

// CurveNames lists the curves in the order in which help prints them.
var CurveNames = []CurveName{Residual, Output}

// ParseCurve returns the curve of that name.
func ParseCurve(name string) (CurveName, error) {
	if slices.Contains(CurveNames, CurveName(name)) {
		return CurveName(name), nil
	}
	var names []string
	for _, c := range CurveNames {
		names = append(names, string(c))
	}
	return "", fmt.Errorf("unknown curve %q; curves are %s", name, strings.Join(names, ", "))
}

// Allocation says how the neurons that stay were shared out among the layers: so that the
// sum over layers of a curve is least, under a budget of parameters. The widths that came
// of it are those of the rule.
type Allocation struct {
	Curve  CurveName `json:"curve"`
	Step   int       `json:"step"`   // widths are multiples of it, or a whole layer
	Budget Rule      `json:"budget"` // the rule whose widths, the same in all layers, have as many parameters
	Stats  string    `json:"stats"`  // fingerprint of the statistics that the curves were made from
	// Error is the sum of the curve over the layers at the widths chosen, Uniform the sum at
	// those of Budget.
	Error   float64 `json:"error"`
	Uniform float64 `json:"error_uniform"`
}

// Gain is the share of the error that the allocation takes away.
func (a *Allocation) Gain() float64 {
	if a.Uniform == 0 {
		return 0
	}
	return 1 - a.Error/a.Uniform
}

// maxStep bounds the step of an allocation.
const maxStep = 1 << 20

func (a *Allocation) check() error {
	if _, err := ParseCurve(string(a.Curve)); err != nil {
		return err
	}
	if a.Step < 1 || a.Step > maxStep || a.Stats == "" {
		return fmt.Errorf("a step of %d and statistics %q: expected a positive number and a fingerprint", a.Step, a.Stats)
	}
	if !(a.Error >= 0) || !(a.Uniform >= 0) {
		return fmt.Errorf("errors of %v and %v: expected numbers that are not negative", a.Error, a.Uniform)
	}
	if len(a.Budget.Widths) > 0 {
		return fmt.Errorf("a budget of --widths: expected --ratio, --width or --expansion")
	}
	return a.Budget.Check()
}

// DefaultStep is the step of an allocation unless the user says otherwise: 64 neurons, or
// an eighth of narrow layers, rounded up to the alignment and to what the form can say.
func DefaultStep(rule Rule, form Form, spec *arch.Spec) int {
	multiple := rule.Align
	if form == DeciLM && arch.DeciMultiple%multiple == 0 {
		multiple = arch.DeciMultiple
	}
	step := max(1, min(64, spec.Intermediate/8))
	return (step + multiple - 1) / multiple * multiple
}

// Allocate shares the neurons that a rule keeps out among the layers that it prunes: the
// rule it returns has a list of widths, in steps, whose sum is that of the rule's widths
// (zero neurons of its alignment included) rounded down to a step, and of all such lists
// the one with the least sum of curves. The refit is the one that the plan will have; empty
// for none. A rule that leaves nothing to choose is a *RuleError.
func Allocate(curves *score.Curves, spec *arch.Spec, rule Rule, name CurveName, step int, refit RefitMethod) (Rule, *Allocation, error) {
	if err := rule.CheckFor(spec); err != nil {
		return rule, nil, err
	}
	switch {
	case len(rule.Widths) > 0 || rule.Ratio == nil && rule.Width == nil && rule.Expansion == nil:
		return rule, nil, ruleErrorf("--allocation global needs --ratio, --width or --expansion, which say how much stays")
	case step < 1 || step > spec.Intermediate || step%rule.Align != 0:
		return rule, nil, ruleErrorf("--allocation-step %d: expected a multiple of --align %d, at most the model's width of %d", step, rule.Align, spec.Intermediate)
	case len(curves.Layers) != spec.Layers:
		return rule, nil, fmt.Errorf("the error curves are of %d layers, the model has %d", len(curves.Layers), spec.Layers)
	}
	a := &Allocation{Curve: name, Step: step, Budget: rule, Stats: curves.Stats}
	widths := slices.Clone(spec.Widths)
	var layers []choice
	budget := 0
	for l, d := range spec.Widths {
		if !rule.prunes(l) || slices.Contains(rule.Drop, l) {
			continue
		}
		costs, err := costsOf(&curves.Layers[l], name, refit)
		if err != nil {
			return rule, nil, fmt.Errorf("layer %d: %w", l, err)
		}
		if len(costs) != d+1 {
			return rule, nil, fmt.Errorf("layer %d: the error curve is of %d neurons, the layer has %d", l, len(costs)-1, d)
		}
		keep, width, err := rule.widths(l, d, spec.Hidden)
		if err != nil {
			return rule, nil, err
		}
		budget += width
		a.Uniform += costs[keep]
		c := choice{layer: l, costs: costs}
		for w := step; w < d; w += step {
			c.widths = append(c.widths, w)
		}
		c.widths = append(c.widths, d)
		layers = append(layers, c)
	}
	if budget < len(layers)*step {
		return rule, nil, ruleErrorf("%d neurons in all are too few for %d layers in steps of %d: choose a smaller --allocation-step", budget, len(layers), step)
	}
	for i, w := range share(layers, budget, step) {
		widths[layers[i].layer] = w
		a.Error += layers[i].costs[w]
	}
	return Rule{Widths: widths, Drop: rule.Drop, Align: rule.Align, AlignMode: rule.AlignMode}, a, nil
}

// costsOf is a curve by the number of neurons that stay.
func costsOf(c *score.Curve, name CurveName, refit RefitMethod) ([]float64, error) {
	errors, energy := c.Fit, c.BodyStream
	switch {
	case refit != LeastSquares:
		errors = c.Cut
	case len(c.Held) > 0:
		errors, energy = c.Held, c.HeldStream
	}
	if name == Output {
		energy = float64(errors[0])
	}
	costs := make([]float64, len(errors))
	for k, e := range errors {
		if e == 0 {
			continue
		}
		if energy == 0 {
			return nil, fmt.Errorf("the statistics have no energy to measure the error against (curve %q)", name)
		}
		costs[k] = float64(e) / energy
	}
	return costs, nil
}

// choice is a layer whose width is chosen.
type choice struct {
	layer  int
	widths []int     // to choose from, ascending: multiples of the step, and the whole layer
	costs  []float64 // by number of neurons
}

// share chooses a width for each layer so that they add up to the budget, rounded down to
// a step, and the costs to the least: dynamic programming over the layers, exact for
// curves of any form. Where the model's width is no multiple of the step a whole layer is
// counted as one step more than it has, and what that leaves over is given out after,
// where it helps most. The budget is at least one step a layer.
func share(layers []choice, budget, step int) []int {
	units := func(w int) int { return (w + step - 1) / step }
	most := 0
	for _, c := range layers {
		most += len(c.widths)
	}
	total := min(budget/step, most)
	// least[u] is the least cost of the layers so far with u units in all, and taken[i][u]
	// which width of layer i that has, -1 where u units cannot be had.
	least := make([]float64, total+1)
	reached := make([]bool, total+1)
	reached[0] = true
	taken := make([][]int32, len(layers))
	for i, c := range layers {
		next, has := make([]float64, total+1), make([]bool, total+1)
		taken[i] = make([]int32, total+1)
		for u := range reached {
			if !reached[u] {
				continue
			}
			for o, w := range c.widths {
				to := u + units(w)
				if to > total {
					break
				}
				if cost := least[u] + c.costs[w]; !has[to] || cost < next[to] {
					next[to], has[to], taken[i][to] = cost, true, int32(o)
				}
			}
		}
		least, reached = next, has
	}
	chosen, at := make([]int, len(layers)), total
	sum := 0
	for i, c := range slices.Backward(layers) {
		chosen[i] = int(taken[i][at])
		w := c.widths[chosen[i]]
		at -= units(w)
		sum += w
	}
	for budget-sum >= step {
		best, gain, more := -1, 0.0, 0
		for i, c := range layers {
			if chosen[i] == len(c.widths)-1 {
				continue
			}
			from, to := c.widths[chosen[i]], c.widths[chosen[i]+1]
			if g := c.costs[from] - c.costs[to]; best < 0 || g > gain {
				best, gain, more = i, g, to-from
			}
		}
		if best < 0 {
			break // every layer is whole
		}
		chosen[best]++
		sum += more
	}
	widths := make([]int, len(layers))
	for i, c := range layers {
		widths[i] = c.widths[chosen[i]]
	}
	return widths
}
