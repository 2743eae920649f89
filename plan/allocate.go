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
	// Measured is against nothing: an error counts as much as it was seen to move what the whole
	// model, cut in all layers, says of held-back text. Package calib measures it.
	Measured CurveName = "measured"
)

// CurveNames lists the curves that need no model to run.
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
	Step   int       `json:"step"`            // widths are multiples of it, or a whole layer
	Budget Rule      `json:"budget"`          // the rule whose widths, the same in all layers, have as many parameters
	Units  []Unit    `json:"units,omitempty"` // what could go besides neurons, and has where the rule says so
	Stats  string    `json:"stats"`           // fingerprint of the statistics that the curves were made from
	// Error is the sum of the curve over the layers at the widths chosen, Uniform the sum at
	// those of Budget.
	Error   float64 `json:"error"`
	Uniform float64 `json:"error_uniform"`

	// Of Measured: by how much the divergence rises with the error of each layer of the model (nats
	// a token for a mean of |error|^2).
	Slopes []float64 `json:"slopes,omitempty"`
	// Where it was measured, the divergence of what the model itself says next, as the rule cuts it
	// and as Budget does, from what the dense model says (nats a token), on the held-back part of the text
	// of the statistics.
	Divergence        float64 `json:"divergence,omitempty"`
	DivergenceUniform float64 `json:"divergence_uniform,omitempty"`
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
	if _, err := ParseCurve(string(a.Curve)); err != nil && a.Curve != Measured {
		return err
	}
	if (a.Curve == Measured) != (len(a.Slopes) > 0) || slices.ContainsFunc(a.Slopes, func(x float64) bool { return !(x >= 0) }) {
		return fmt.Errorf("slopes %v of curve %q: numbers that are not negative go with curve %q and no other", a.Slopes, a.Curve, Measured)
	}
	if a.Step < 1 || a.Step > maxStep || a.Stats == "" {
		return fmt.Errorf("a step of %d and statistics %q: expected a positive number and a fingerprint", a.Step, a.Stats)
	}
	if !(a.Error >= 0) || !(a.Uniform >= 0) {
		return fmt.Errorf("errors of %v and %v: expected numbers that are not negative", a.Error, a.Uniform)
	}
	for _, u := range a.Units {
		if _, err := ParseUnit(string(u)); err != nil {
			return err
		}
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

// AllocateOptions are what Allocate can be told.
type AllocateOptions struct {
	Curve CurveName
	Step  int         // widths are multiples of it, or a whole layer
	Refit RefitMethod // that the plan will have; any other than LeastSquares: none
	// Budget, if not nil, is a rule that drops less than the one at hand: what its model has
	// more is given to neurons.
	Budget *Rule
	// Slopes, of Measured, say what one unit of each layer's error counts.
	Slopes []float64
	// Near, if not nil, are widths from which at most so many Moves are made, each of a step of
	// neurons from one layer to another: the one that lowers the sum of costs most, as long as one does.
	Near  []int
	Moves int
}

// Allocate shares the neurons that a rule keeps out among the layers that it prunes: the
// rule it returns has a list of widths, in steps, whose sum is that of the rule's widths
// (zero neurons of its alignment included) rounded down to a step, and of all such lists
// the one with the least sum of curves. With another rule as the budget there are as many
// more neurons as leave the model no larger than that one's. A rule that leaves nothing to choose is a
// *RuleError.
func Allocate(curves *score.Curves, spec *arch.Spec, rule Rule, opt AllocateOptions) (Rule, *Allocation, error) {
	if err := rule.CheckFor(spec); err != nil {
		return rule, nil, err
	}
	step := opt.Step
	switch {
	case len(rule.Widths) > 0 || rule.Ratio == nil && rule.Width == nil && rule.Expansion == nil:
		return rule, nil, ruleErrorf("an allocation needs --ratio, --width or --expansion, which say how much stays")
	case step < 1 || step > spec.Intermediate || step%rule.Align != 0:
		return rule, nil, ruleErrorf("--allocation-step %d: expected a multiple of --align %d, at most the model's width of %d", step, rule.Align, spec.Intermediate)
	case len(curves.Layers) != spec.Layers:
		return rule, nil, fmt.Errorf("the error curves are of %d layers, the model has %d", len(curves.Layers), spec.Layers)
	}
	a := &Allocation{Curve: opt.Curve, Step: step, Budget: rule, Stats: curves.Stats, Slopes: opt.Slopes}
	widths := slices.Clone(spec.Widths)
	var layers []choice
	budget := 0
	for l, d := range spec.Widths {
		if !rule.prunes(l) || rule.LeavesNoMLP(l, spec) {
			continue
		}
		keep, width, err := rule.widths(l, d, spec.Hidden)
		if err != nil {
			return rule, nil, err
		}
		costs, err := opt.costs(&curves.Layers[l], l)
		if err != nil {
			return rule, nil, fmt.Errorf("layer %d: %w", l, err)
		}
		if len(costs) != d+1 {
			return rule, nil, fmt.Errorf("layer %d: the error curve is of %d neurons, the layer has %d", l, len(costs)-1, d)
		}
		budget += width
		a.Uniform += costs[keep]
		layers = append(layers, choice{layer: l, widths: opt.widths(d), costs: costs})
	}
	if opt.Budget != nil {
		more, err := rule.neuronsBelow(opt.Budget, spec)
		if err != nil {
			return rule, nil, err
		}
		budget += more
		a.Budget = *opt.Budget
	}
	if budget < len(layers)*step {
		return rule, nil, ruleErrorf("%d neurons in all are too few for %d layers in steps of %d: choose a smaller --allocation-step", budget, len(layers), step)
	}
	var chosen []int
	var err error
	if opt.Near == nil {
		chosen = share(layers, budget, step)
	} else if chosen, err = move(layers, opt.Near, opt.Moves); err != nil {
		return rule, nil, err
	}
	for i, w := range chosen {
		widths[layers[i].layer] = w
		a.Error += layers[i].costs[w]
	}
	shared := rule
	shared.Ratio, shared.Width, shared.Expansion, shared.Layers, shared.Widths = nil, nil, nil, nil, widths
	return shared, a, nil
}

// widths lists the widths that a layer of d neurons may have, ascending.
func (o *AllocateOptions) widths(d int) []int {
	var all []int
	for w := o.Step; w < d; w += o.Step {
		all = append(all, w)
	}
	return append(all, d)
}

// Errors is the error curve of a layer that an allocation for a plan with that refit looks
// at, by number of neurons, and the energy of the residual stream over the same tokens.
func (r RefitMethod) Errors(c *score.Curve) (errors []float32, stream float64) {
	switch {
	case r != LeastSquares:
		return c.Cut, c.BodyStream
	case len(c.Held) > 0:
		return c.Held, c.HeldStream
	}
	return c.Fit, c.BodyStream
}

// costs is a layer's curve by the number of neurons that stay.
func (o *AllocateOptions) costs(c *score.Curve, layer int) ([]float64, error) {
	errors, energy := o.Refit.Errors(c)
	switch o.Curve {
	case Output:
		energy = float64(errors[0])
	case Measured:
		energy = 1 / o.Slopes[layer]
	}
	costs := make([]float64, len(errors))
	for k, e := range errors {
		if e == 0 {
			continue
		}
		if energy == 0 {
			return nil, fmt.Errorf("the statistics have no energy to measure the error against (curve %q)", o.Curve)
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
		most += units(c.widths[len(c.widths)-1])
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

// move moves neurons from layer to layer, as AllocateOptions.Near says.
func move(layers []choice, near []int, moves int) ([]int, error) {
	at, widths := make([]int, len(layers)), make([]int, len(layers)) // at: index of the width
	for i, c := range layers {
		widths[i] = near[c.layer]
		var ok bool
		if at[i], ok = slices.BinarySearch(c.widths, widths[i]); !ok {
			return nil, fmt.Errorf("layer %d: a width of %d is not one of %v", c.layer, widths[i], c.widths)
		}
	}
	for range moves {
		from, to, most := -1, -1, 0.0
		for i, a := range layers { // which gives
			for j, b := range layers { // and takes
				if i == j || at[i] == 0 || at[j] == len(b.widths)-1 || a.widths[at[i]]-a.widths[at[i]-1] != b.widths[at[j]+1]-b.widths[at[j]] {
					continue
				}
				gain := a.costs[a.widths[at[i]]] - a.costs[a.widths[at[i]-1]] + b.costs[b.widths[at[j]]] - b.costs[b.widths[at[j]+1]]
				if gain > most {
					from, to, most = i, j, gain
				}
			}
		}
		if from < 0 {
			break
		}
		at[from]--
		at[to]++
		widths[from], widths[to] = layers[from].widths[at[from]], layers[to].widths[at[to]]
	}
	return widths, nil
}
