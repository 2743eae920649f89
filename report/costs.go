package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/coppice-lm/coppice/study"
)

// cost is something that a smaller model has less of, or speed, of which it has more.
type cost struct {
	name string // as in Variant.Front
	axis string // with its unit
	more bool   // more is better
	get  func(*Variant) *Amount
}

// costs are what quality is set against, in the order of the page.
func (r *Report) costs() []cost {
	number := func(get func(*Variant) float64) func(*Variant) *Amount {
		return func(v *Variant) *Amount {
			if x := get(v); x > 0 {
				return &Amount{Value: x}
			}
			return nil
		}
	}
	return []cost{
		{name: "parameters", axis: "parameters, millions", get: number(func(v *Variant) float64 { return float64(v.Parameters) / 1e6 })},
		{name: "bytes", axis: "weights as stored, MB", get: number(func(v *Variant) float64 { return float64(v.Bytes) / 1e6 })},
		{name: "tokens per second", axis: r.speed.String(), more: true, get: func(v *Variant) *Amount { return v.TokensPS }},
		{name: "joules per token", axis: "energy, joules per token", get: func(v *Variant) *Amount {
			if v.JoulesPerToken == nil {
				return nil
			}
			return &Amount{Value: *v.JoulesPerToken}
		}},
	}
}

// less reports whether one variant costs less than another; what was not measured does
// not.
func (c *cost) less(a, b *Variant) bool {
	if a == nil || b == nil || c.get(a) == nil || c.get(b) == nil {
		return false
	}
	if c.more {
		return c.get(a).Value > c.get(b).Value
	}
	return c.get(a).Value < c.get(b).Value
}

// speedKey is a kind of measurement of throughput.
type speedKey struct {
	kind           string
	batch, context int
}

func (k speedKey) String() string {
	if k.kind == "" {
		return "tokens per second"
	}
	return fmt.Sprintf("%s, tokens/s (context %d, batch %d)", k.kind, k.context, k.batch)
}

// work is what is being done at that speed.
func (k speedKey) work() string {
	switch k.kind {
	case "decode":
		return "decoding"
	case "prompt":
		return "reading a prompt"
	}
	return k.kind
}

// addCosts fills in speed and energy. The speed is of the measurement that most variants
// have; of those the first of decoding, the smallest batch and the shortest context.
func (r *Report) addCosts() {
	count := map[speedKey]int{}
	r.each(func(_ *Set, v *Variant) {
		if v.record.Run != nil {
			for _, m := range v.record.Run.Speed {
				count[speedKey{m.Kind, m.Batch, m.Context}]++
			}
		}
	})
	var keys []speedKey
	for k := range count {
		keys = append(keys, k)
	}
	if len(keys) > 0 {
		r.speed = slices.MinFunc(keys, func(a, b speedKey) int {
			return cmp.Or(cmp.Compare(count[b], count[a]), cmp.Compare(a.kind, b.kind),
				cmp.Compare(a.batch, b.batch), cmp.Compare(a.context, b.context))
		})
	}
	r.each(func(_ *Set, v *Variant) {
		if v.record.Run == nil {
			return
		}
		for _, m := range v.record.Run.Speed {
			if (speedKey{m.Kind, m.Batch, m.Context}) == r.speed && m.TokensPS > 0 && !math.IsInf(m.TokensPS, 0) {
				v.TokensPS = &Amount{Value: m.TokensPS}
				if len(m.Runs) > 1 {
					v.TokensPS.Low, v.TokensPS.High = finite(slices.Min(m.Runs)), finite(slices.Max(m.Runs))
				}
			}
		}
		if e := v.record.Run.Energy; e != nil && e.Joules != nil && e.Tokens > 0 {
			v.JoulesPerToken = finite(*e.Joules / float64(e.Tokens))
			v.EnergyEstimate = e.Estimate
		}
	})
}

// each visits all variants in the order of the page.
func (r *Report) each(visit func(*Set, *Variant)) {
	for _, s := range r.Sets {
		for i := range s.Variants {
			visit(s, &s.Variants[i])
		}
	}
}

// addFronts marks, for each cost, the variants of which no other has at least the quality
// for less, nor more of it for as much. Speeds and energies of different machines are compared all
// the same; a note says so.
func (r *Report) addFronts() {
	for _, c := range r.costs() {
		var vs []*Variant
		r.each(func(_ *Set, v *Variant) {
			if v.Quality != nil && c.get(v) != nil {
				vs = append(vs, v)
			}
		})
		for _, v := range front(vs, func(v *Variant) float64 { return v.Quality.Value }, c) {
			v.Front = append(v.Front, c.name)
		}
	}
}

// front returns the Pareto front of what is good and a cost, cheapest first. What was
// repeated costs less only where the ranges of its repetitions do not meet: a lead within
// them puts nothing on the front. Of variants that are equally good, the cheapest alone can
// be on it; of those that are equal in both, the first.
func front(vs []*Variant, good func(*Variant) float64, c cost) []*Variant {
	sorted := slices.Clone(vs)
	slices.SortStableFunc(sorted, func(a, b *Variant) int {
		return cmp.Or(cmp.Compare(good(b), good(a)), cmp.Compare(c.value(a), c.value(b)))
	})
	var out []*Variant
	least := math.Inf(1) // that anything better may cost
	for first := 0; first < len(sorted); {
		v := sorted[first]
		if _, most := c.extremes(v); most < least {
			out = append(out, v)
		}
		equal := good(v)
		for ; first < len(sorted) && good(sorted[first]) == equal; first++ {
			low, _ := c.extremes(sorted[first])
			least = min(least, low)
		}
	}
	slices.Reverse(out)
	return out
}

// value is what a variant costs, the lower the better: a speed is negated.
func (c *cost) value(v *Variant) float64 {
	if c.more {
		return -c.get(v).Value
	}
	return c.get(v).Value
}

// extremes are the least and the most that a variant cost in repetitions, as value gives it.
func (c *cost) extremes(v *Variant) (least, most float64) {
	least, most = c.value(v), c.value(v)
	for _, x := range []*float64{c.get(v).Low, c.get(v).High} {
		if x == nil {
			continue
		}
		cost := *x
		if c.more {
			cost = -cost
		}
		least, most = min(least, cost), max(most, cost)
	}
	return least, most
}

// energy returns the first account of energy that a variant has, for words about the meter.
func (r *Report) energy() *study.Energy {
	var found *study.Energy
	r.each(func(_ *Set, v *Variant) {
		if found == nil && v.record.Run != nil {
			found = v.record.Run.Energy
		}
	})
	return found
}
