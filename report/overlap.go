package report

import (
	"math/bits"
	"slices"

	"github.com/coppice-lm/coppice/study"
)

// Overlap says how far two methods keep the same neurons of a model at the same size.
type Overlap struct {
	Size string `json:"size"`
	A    string `json:"a"` // series
	B    string `json:"b"`
	// Jaccard is |A and B| / |A or B|, Shared the share of what A keeps that B keeps too;
	// means over layers. By chance Shared would be Chance: the share of all neurons that B
	// keeps.
	Jaccard float64   `json:"jaccard"`
	Shared  float64   `json:"shared"`
	Chance  float64   `json:"shared_by_chance"`
	Layers  []float64 `json:"shared_by_layer"`
}

// overlaps compares all pairs of series at each size, by the cell with the lowest seed.
func overlaps(s *Set) []Overlap {
	var out []Overlap
	var sizes []string
	of := map[string][]*Variant{}
	for i := range s.Variants {
		v := &s.Variants[i]
		if v.Cell.Method == study.Dense || !hasKept(v.record.Shape) {
			continue
		}
		if of[v.Size] == nil {
			sizes = append(sizes, v.Size)
		}
		if !slices.ContainsFunc(of[v.Size], func(o *Variant) bool { return o.Series == v.Series }) {
			of[v.Size] = append(of[v.Size], v)
		}
	}
	for _, size := range sizes {
		for _, a := range of[size] {
			for _, b := range of[size] {
				if a == b || len(a.record.Shape.Kept) != len(b.record.Shape.Kept) || a.record.Shape.DenseWidth != b.record.Shape.DenseWidth {
					continue
				}
				out = append(out, overlap(size, a, b))
			}
		}
	}
	return out
}

// hasKept reports whether a shape says which neurons stay, in bit strings of the right
// length.
func hasKept(s *study.Shape) bool {
	if s == nil || len(s.Kept) == 0 || s.DenseWidth < 1 {
		return false
	}
	return !slices.ContainsFunc(s.Kept, func(b []byte) bool { return len(b) != (s.DenseWidth+7)/8 })
}

// overlap compares the neurons that two variants of a model keep. Layers in which either
// keeps none count in no mean; in Layers they are 0.
func overlap(size string, va, vb *Variant) Overlap {
	o := Overlap{Size: size, A: va.Series, B: vb.Series}
	a, b := va.record.Shape, vb.record.Shape
	n := 0.0
	for l := range a.Kept {
		var inA, inB, both int
		for i, x := range a.Kept[l] {
			y := b.Kept[l][i]
			inA += bits.OnesCount8(x)
			inB += bits.OnesCount8(y)
			both += bits.OnesCount8(x & y)
		}
		if inA == 0 || inB == 0 {
			o.Layers = append(o.Layers, 0)
			continue
		}
		n++
		shared := float64(both) / float64(inA)
		o.Layers = append(o.Layers, shared)
		o.Shared += shared
		o.Jaccard += float64(both) / float64(inA+inB-both)
		o.Chance += float64(inB) / float64(a.DenseWidth)
	}
	if n > 0 {
		o.Shared, o.Jaccard, o.Chance = o.Shared/n, o.Jaccard/n, o.Chance/n
	}
	return o
}
