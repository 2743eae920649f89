package plan

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/coppice-lm/coppice/arch"
)

// AlignMode says how a width becomes a multiple of the alignment.
type AlignMode string

// The modes. Pad keeps as many neurons as the rule says and adds zero neurons.
const (
	Nearest AlignMode = "nearest"
	Down    AlignMode = "down"
	Pad     AlignMode = "pad"
)

// Rule says how many neurons stay. At most one of Ratio, Width, Expansion and Widths is
// set; with none, no neuron goes (layers may still be dropped).
type Rule struct {
	Ratio     *float64 `json:"ratio,omitempty"`     // share of each layer's neurons to remove, in (0, 1)
	Width     *int     `json:"width,omitempty"`     // neurons to keep
	Expansion *float64 `json:"expansion,omitempty"` // neurons to keep, as a multiple of hidden_size
	// Widths are the neurons to keep, one number for each layer of the model, before
	// alignment; those of layers and MLPs that are dropped do not count.
	Widths []int `json:"widths,omitempty"`
	Layers []int `json:"layers,omitempty"` // the layers to prune; empty: all
	Drop   []int `json:"drop_layers,omitempty"`
	// Parts of layers that go: the attention, the MLP, or key-value heads with the query heads
	// that share them.
	DropAttention []int     `json:"drop_attention,omitempty"`
	DropMLP       []int     `json:"drop_mlp,omitempty"`
	DropHeads     []KVHead  `json:"drop_kv_heads,omitempty"`
	Align         int       `json:"align"`
	AlignMode     AlignMode `json:"align_mode"`
}

// KVHead is a key-value head of a layer.
type KVHead struct {
	Layer int `json:"layer"`
	Head  int `json:"kv_head"`
}

// RuleError says that a rule cannot be followed: the user asked for the impossible.
type RuleError struct{ Reason string }

func (e *RuleError) Error() string { return e.Reason }

func ruleErrorf(format string, args ...any) error {
	return &RuleError{fmt.Sprintf(format, args...)}
}

// Check is an error if the rule says too much, too little or the impossible, whatever
// the model.
func (r *Rule) Check() error {
	set := 0
	for _, given := range []bool{r.Ratio != nil, r.Width != nil, r.Expansion != nil, len(r.Widths) > 0} {
		if given {
			set++
		}
	}
	switch {
	case set > 1:
		return ruleErrorf("--ratio, --width, --expansion and --widths exclude one another")
	case set == 0 && len(r.Drop)+len(r.DropAttention)+len(r.DropMLP)+len(r.DropHeads) == 0:
		return ruleErrorf("one of --ratio, --width, --expansion, --widths, --drop-layers, --drop-attention, --drop-mlp or --drop-heads is needed")
	case len(r.Widths) > 0 && len(r.Layers) > 0:
		return ruleErrorf("--widths says the width of every layer; leave --layers out")
	case slices.ContainsFunc(r.Widths, func(w int) bool { return w < 0 }):
		return ruleErrorf("--widths %s: expected numbers of neurons to keep", joinInts(r.Widths))
	case r.Ratio != nil && !(*r.Ratio > 0 && *r.Ratio < 1):
		return ruleErrorf("--ratio %v: expected a number between 0 and 1, the share of neurons to remove", *r.Ratio)
	case r.Width != nil && *r.Width < 1:
		return ruleErrorf("--width %d: expected at least 1, the number of neurons to keep", *r.Width)
	case r.Expansion != nil && !(*r.Expansion > 0 && *r.Expansion < 1<<20):
		return ruleErrorf("--expansion %v: expected a positive number, the width as a multiple of hidden_size", *r.Expansion)
	case r.Align < 1:
		return ruleErrorf("--align %d: expected at least 1", r.Align)
	case !slices.Contains([]AlignMode{Nearest, Down, Pad}, r.AlignMode):
		return ruleErrorf("--align-mode %q: expected nearest, down or pad", r.AlignMode)
	}
	return nil
}

// CheckFor is an error if a model cannot follow the rule. It needs no scores.
func (r *Rule) CheckFor(spec *arch.Spec) error {
	if err := r.Check(); err != nil {
		return err
	}
	if r.Align > spec.Intermediate {
		return ruleErrorf("--align %d is larger than the model's width %d", r.Align, spec.Intermediate)
	}
	if len(r.Drop) >= spec.Layers {
		return ruleErrorf("--drop-layers names all %d layers", spec.Layers)
	}
	for _, named := range []struct {
		flag   string
		layers []int
	}{{"--layers", r.Layers}, {"--drop-layers", r.Drop}, {"--drop-attention", r.DropAttention}, {"--drop-mlp", r.DropMLP}} {
		for _, l := range named.layers {
			if l < 0 || l >= spec.Layers {
				return ruleErrorf("%s: there is no layer %d; the model has layers 0 to %d", named.flag, l, spec.Layers-1)
			}
		}
	}
	if n := len(r.Widths); n > 0 && n != spec.Layers {
		return ruleErrorf("--widths has %d numbers; the model has %d layers and needs one for each", n, spec.Layers)
	}
	if err := r.checkParts(spec); err != nil {
		return err
	}
	for l, w := range r.Widths {
		if w == 0 && !r.LeavesNoMLP(l, spec) {
			return ruleErrorf("--widths %s: expected at least 1 for layer %d, the number of neurons to keep; --drop-mlp drops all", joinInts(r.Widths), l)
		}
	}
	return r.checkShrinks(spec)
}

// checkShrinks is an error if a layer cannot have the width that the rule means, or if
// rounding keeps whole every layer that the rule means to cut.
func (r *Rule) checkShrinks(spec *arch.Spec) error {
	var nothing error
	shrinks := false
	for l, d := range spec.Widths {
		if !r.prunes(l) || r.LeavesNoMLP(l, spec) {
			continue
		}
		_, width, err := r.widths(l, d, spec.Hidden)
		if err != nil {
			return err
		}
		shrinks = shrinks || width < d
		if wanted, asked := r.wanted(l, d, spec.Hidden); nothing == nil && width == d && (wanted < d || r.Ratio != nil) {
			_, width = r.rounded(wanted)
			nothing = ruleErrorf("%s with --align %d prunes nothing: %d neurons become %d, and the model has %d; choose a larger ratio or a smaller alignment", asked, r.Align, wanted, width, d)
		}
	}
	if shrinks {
		return nil
	}
	return nothing
}

// prunes reports whether neurons of a layer go.
func (r *Rule) prunes(layer int) bool {
	return (r.Ratio != nil || r.Width != nil || r.Expansion != nil || len(r.Widths) > 0) && (len(r.Layers) == 0 || slices.Contains(r.Layers, layer))
}

// wanted returns how many of the d neurons of a layer the rule keeps before rounding,
// and how the user said so.
func (r *Rule) wanted(layer, d, hidden int) (keep int, asked string) {
	switch {
	case r.Ratio != nil:
		// The published recipe (arXiv 2512.22671): int(ratio*d) neurons go, at least one stays.
		return d - min(int(*r.Ratio*float64(d)), d-1), "--ratio " + formatFloat(*r.Ratio)
	case r.Width != nil:
		return *r.Width, "--width " + strconv.Itoa(*r.Width)
	case r.Expansion != nil:
		return int(math.Round(*r.Expansion * float64(hidden))), "--expansion " + formatFloat(*r.Expansion)
	default:
		return r.Widths[layer], "--widths"
	}
}

// widths returns how many of a layer's d neurons stay and the width that results, never
// above d: a layer that rounding would leave no narrower stays whole.
func (r *Rule) widths(layer, d, hidden int) (keep, width int, err error) {
	wanted, asked := r.wanted(layer, d, hidden)
	if wanted < 1 || wanted > d {
		return 0, 0, ruleErrorf("%s means a width of %d; layer %d of the model is %d wide", asked, wanted, layer, d)
	}
	keep, width = r.rounded(wanted)
	if wanted == d || width >= d {
		return d, d, nil
	}
	if keep == 0 {
		return 0, 0, ruleErrorf("%s rounded down to a multiple of --align %d leaves no neuron of the %d of layer %d", asked, r.Align, d, layer)
	}
	return keep, width, nil
}

// rounded returns how many neurons stay where so many are wanted, and the width, whatever
// the layer has.
func (r *Rule) rounded(wanted int) (keep, width int) {
	a := r.Align
	switch r.AlignMode {
	case Nearest:
		keep = max(a, (wanted+a/2)/a*a)
		return keep, keep
	case Down:
		return wanted / a * a, wanted / a * a
	default: // Pad
		return wanted, (wanted + a - 1) / a * a
	}
}

// WidthAt is the width that a ratio gives for d neurons, rounded to the nearest multiple
// of align but never above d: what inspect shows.
func WidthAt(ratio float64, d, align int) int {
	r := Rule{Ratio: &ratio, Align: align, AlignMode: Nearest}
	_, width, err := r.widths(0, d, 0)
	if err != nil {
		return d
	}
	return width
}

func formatFloat(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

// joinInts is a list as the flags take it.
func joinInts(list []int) string {
	words := make([]string, len(list))
	for i, n := range list {
		words[i] = strconv.Itoa(n)
	}
	return strings.Join(words, ",")
}

// ParseLayers reads a list of layers such as 2-20,24; the result is ascending and holds
// each layer once.
func ParseLayers(s string) ([]int, error) {
	const maxLayer = 1 << 14
	var layers []int
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		a, err := strconv.ParseUint(first, 10, 31)
		b := a
		if err == nil && isRange {
			b, err = strconv.ParseUint(last, 10, 31)
		}
		if err != nil || b < a || b > maxLayer {
			return nil, fmt.Errorf("%q is not a list of layers such as 2-20,24", s)
		}
		for l := a; l <= b; l++ {
			layers = append(layers, int(l))
		}
	}
	slices.Sort(layers)
	return slices.Compact(layers), nil
}
