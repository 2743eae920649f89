package plan

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/coppice-lm/coppice/score"
)

// Show writes a plan for people: by which rule, and per layer how many neurons stay.
func (p *Plan) Show(w io.Writer) error {
	method := string(p.Method)
	if method == "" {
		method = "none"
	}
	fmt.Fprintf(w, "model      %s, %d layers, hidden size %d, width %d\n           %s\n", p.Family, len(p.Layers), p.Hidden, p.Intermediate, p.Model)
	fmt.Fprintf(w, "method     %s (seed %d)\nrule       %s\n\n", method, p.Seed, p.Rule.String())
	p.showCalibration(w)
	p.showAllocation(w)
	if p.Form != "" {
		fmt.Fprintf(w, "form       %s\n\n", p.Form)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	bar := func(l Layer) string {
		if p.Uniform() {
			return ""
		}
		const full = 24
		n := (full*l.Width + p.Intermediate/2) / p.Intermediate
		return strings.Repeat("#", n) + strings.Repeat(".", full-n) + "\t"
	}
	heads := func(l Layer) string { return "" }
	title := "layer\twidth\tkept\tzero\tkept %\texpansion\t"
	if slices.ContainsFunc(p.Layers, func(l Layer) bool { return l.DropAttention || l.KeepHeads != nil }) {
		title = "layer\tattention\t" + strings.TrimPrefix(title, "layer\t")
		heads = func(l Layer) string { return l.attention() + "\t" }
	}
	fmt.Fprintln(t, title)
	for _, l := range p.Layers {
		if l.Drop {
			fmt.Fprintf(t, "%d\t%sdropped\t\t\t\t\t%s\n", l.Layer, heads(l), bar(l))
			continue
		}
		fmt.Fprintf(t, "%d\t%s%d\t%d\t%d\t%.1f\t%.3f\t%s\n", l.Layer, heads(l), l.Width, len(l.Keep), l.Width-len(l.Keep),
			100*float64(len(l.Keep))/float64(p.Intermediate), float64(l.Width)/float64(p.Hidden), bar(l))
	}
	return t.Flush()
}

// attention is what is left of a layer's, in words: the key-value heads, or all or none.
func (l *Layer) attention() string {
	switch {
	case l.Drop || l.DropAttention:
		return "none"
	case l.KeepHeads != nil:
		return "heads " + joinInts(l.KeepHeads)
	}
	return "all"
}

// showAllocation writes how the widths were shared out, if they were.
func (p *Plan) showAllocation(w io.Writer) {
	a := p.Allocation
	if a == nil {
		return
	}
	fmt.Fprintf(w, "widths     as many parameters as %s, in steps of %d\n", a.Budget.String(), a.Step)
	fmt.Fprintf(w, "           least error by curve %s: %.4g in all layers together, %.4g at one width (%+.1f %%)\n", a.Curve, a.Error, a.Uniform, -100*a.Gain())
	if len(a.Units) > 0 {
		fmt.Fprintf(w, "           besides neurons could go: %v\n", a.Units)
	}
	if a.Divergence > 0 {
		fmt.Fprintf(w, "           divergence on held-back text: %.4f nats a token, %.4f at one width\n", a.Divergence, a.DivergenceUniform)
	}
	fmt.Fprintf(w, "           from the statistics %s\n\n", a.Stats)
}

// showCalibration writes what statistics had a part in, if they had one.
func (p *Plan) showCalibration(w io.Writer) {
	if c := p.Calibration; c != nil {
		fmt.Fprintf(w, "scores of  %d tokens of the text %s\n           first tokens at most %s of the trace\n", c.Tokens, c.Text, formatFloat(c.Cap))
	}
	if r := p.Refit; r != nil {
		fmt.Fprintf(w, "refit      %s from the statistics %s\n", r.Method, r.Stats)
		least, most := 0.0, 0.0
		for _, l := range p.Layers {
			if l.Damping > 0 {
				if least == 0 || l.Damping < least {
					least = l.Damping
				}
				most = max(most, l.Damping)
			}
		}
		if most > 0 {
			fmt.Fprintf(w, "damping    %s to %s\n", formatFloat(least), formatFloat(most))
		}
	}
	if p.Calibration != nil || p.Refit != nil {
		fmt.Fprintln(w)
	}
}

// String is the rule as the flags that give it.
func (r *Rule) String() string {
	s := ""
	switch {
	case r.Ratio != nil:
		s = "--ratio " + formatFloat(*r.Ratio) + " "
	case r.Width != nil:
		s = fmt.Sprintf("--width %d ", *r.Width)
	case r.Expansion != nil:
		s = "--expansion " + formatFloat(*r.Expansion) + " "
	case len(r.Widths) > 0:
		s = "--widths " + joinInts(r.Widths) + " "
	}
	if len(r.Layers) > 0 {
		s += "--layers " + joinInts(r.Layers) + " "
	}
	if len(r.Drop) > 0 {
		s += "--drop-layers " + joinInts(r.Drop) + " "
	}
	if len(r.DropAttention) > 0 {
		s += "--drop-attention " + joinInts(r.DropAttention) + " "
	}
	if len(r.DropMLP) > 0 {
		s += "--drop-mlp " + joinInts(r.DropMLP) + " "
	}
	if len(r.DropHeads) > 0 {
		s += "--drop-heads " + joinHeads(r.DropHeads) + " "
	}
	return s + fmt.Sprintf("--align %d --align-mode %s", r.Align, r.AlignMode)
}

// LayerDiff compares one layer of two plans.
type LayerDiff struct {
	Layer  int  `json:"layer"`
	DropA  bool `json:"drop_a,omitempty"`
	DropB  bool `json:"drop_b,omitempty"`
	KeepA  int  `json:"keep_a"`
	KeepB  int  `json:"keep_b"`
	WidthA int  `json:"width_a"`
	WidthB int  `json:"width_b"`
	Both   int  `json:"both"` // neurons that both keep
	// What is left of the attention, as Show writes it: all, none, or heads 0,2.
	AttentionA string `json:"attention_a"`
	AttentionB string `json:"attention_b"`
}

// Same reports whether the layer is the same in both plans.
func (d LayerDiff) Same() bool {
	return d.DropA == d.DropB && d.AttentionA == d.AttentionB && d.WidthA == d.WidthB && d.KeepA == d.Both && d.KeepB == d.Both
}

// Diff compares two plans layer by layer. Plans of models with another number of layers
// or another width cannot be compared.
func Diff(a, b *Plan) ([]LayerDiff, error) {
	if len(a.Layers) != len(b.Layers) || a.Intermediate != b.Intermediate {
		return nil, fmt.Errorf("the plans are of models of different shapes: %d layers of %d neurons, and %d of %d", len(a.Layers), a.Intermediate, len(b.Layers), b.Intermediate)
	}
	var diffs []LayerDiff
	for i := range a.Layers {
		x, y := a.Layers[i], b.Layers[i]
		d := LayerDiff{i, x.Drop, y.Drop, len(x.Keep), len(y.Keep), x.Width, y.Width, 0, x.attention(), y.attention()}
		for _, j := range x.Keep {
			if _, ok := slices.BinarySearch(y.Keep, j); ok {
				d.Both++
			}
		}
		diffs = append(diffs, d)
	}
	return diffs, nil
}

// Overlap compares two files of scores by what they keep: element [l][i] is the share of
// the neurons that a keeps in layer l, when ratios[i] of them go, that b keeps too.
func Overlap(a, b *score.Scores, ratios []float64) ([][]float64, error) {
	if len(a.Layers) != len(b.Layers) {
		return nil, fmt.Errorf("the scores are of %d layers and of %d", len(a.Layers), len(b.Layers))
	}
	shares := make([][]float64, len(a.Layers))
	for l := range a.Layers {
		d := len(a.Layers[l])
		if d != len(b.Layers[l]) {
			return nil, fmt.Errorf("layer %d: the scores are of %d neurons and of %d", l, d, len(b.Layers[l]))
		}
		if d == 0 { // no MLP: both keep all of it
			shares[l] = slices.Repeat([]float64{1}, len(ratios))
			continue
		}
		for _, ratio := range ratios {
			k := d - min(int(ratio*float64(d)), d-1)
			other, both := best(b.Layers[l], k), 0
			for _, j := range best(a.Layers[l], k) {
				if _, ok := slices.BinarySearch(other, j); ok {
					both++
				}
			}
			shares[l] = append(shares[l], float64(both)/float64(k))
		}
	}
	return shares, nil
}
