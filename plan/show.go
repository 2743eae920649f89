package plan

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// Show writes a plan for people: by which rule, and per layer how many neurons stay.
func (p *Plan) Show(w io.Writer) error {
	method := string(p.Method)
	if method == "" {
		method = "none"
	}
	fmt.Fprintf(w, "model      %s, %d layers, hidden size %d, width %d\n           %s\n", p.Family, len(p.Layers), p.Hidden, p.Intermediate, p.Model)
	fmt.Fprintf(w, "method     %s (seed %d)\nrule       %s\n\n", method, p.Seed, p.Rule.String())
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "layer\twidth\tkept\tzero\tkept %\texpansion\t")
	for _, l := range p.Layers {
		if l.Drop {
			fmt.Fprintf(t, "%d\tdropped\t\t\t\t\t\n", l.Layer)
			continue
		}
		fmt.Fprintf(t, "%d\t%d\t%d\t%d\t%.1f\t%.3f\t\n", l.Layer, l.Width, len(l.Keep), l.Width-len(l.Keep),
			100*float64(len(l.Keep))/float64(p.Intermediate), float64(l.Width)/float64(p.Hidden))
	}
	return t.Flush()
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
	}
	if len(r.Layers) > 0 {
		s += fmt.Sprintf("--layers %v ", r.Layers)
	}
	if len(r.Drop) > 0 {
		s += fmt.Sprintf("--drop-layers %v ", r.Drop)
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
}

// Same reports whether the layer is the same in both plans.
func (d LayerDiff) Same() bool {
	return d.DropA == d.DropB && d.WidthA == d.WidthB && d.KeepA == d.Both && d.KeepB == d.Both
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
		d := LayerDiff{i, x.Drop, y.Drop, len(x.Keep), len(y.Keep), x.Width, y.Width, 0}
		for _, j := range x.Keep {
			if _, ok := slices.BinarySearch(y.Keep, j); ok {
				d.Both++
			}
		}
		diffs = append(diffs, d)
	}
	return diffs, nil
}
