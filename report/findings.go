package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/study"
)

// reasons say what a variant has over the dense model and what it lost.
func (r *Report) reasons(c candidate) []string {
	var out []string
	d := c.set.dense()
	if d == nil || d == c.v {
		return out
	}
	var gains []string
	if d.Bytes > 0 && c.v.Bytes > 0 {
		gains = append(gains, fmt.Sprintf("%s instead of %s", byteSize(c.v.Bytes), byteSize(d.Bytes)))
	}
	if d.Parameters > 0 && c.v.Parameters > 0 {
		gains = append(gains, fmt.Sprintf("%s instead of %s parameters", count(c.v.Parameters), count(d.Parameters)))
	}
	if d.TokensPS != nil && c.v.TokensPS != nil {
		gains = append(gains, fmt.Sprintf("%s instead of %s tokens/s in %s", digits(c.v.TokensPS.Value), digits(d.TokensPS.Value), r.speed.work()))
	}
	if d.JoulesPerToken != nil && c.v.JoulesPerToken != nil {
		gains = append(gains, fmt.Sprintf("%s instead of %s J a token", digits(*c.v.JoulesPerToken), digits(*d.JoulesPerToken)))
	}
	if len(gains) > 0 {
		out = append(out, "It has "+list(gains)+".")
	}
	var worse, held, empty []string
	for j, col := range c.set.Columns {
		v := c.v.Values[j]
		if !col.Main || v.Metric == nil {
			continue
		}
		name := columnName(col)
		switch {
		case slices.Contains(v.Marks, Worse):
			worse = append(worse, fmt.Sprintf("%s (%s to %s)", name, metricText(col, d.Values[j].Metric), metricText(col, v.Metric)))
		case v.Dense != nil && v.Dense.Test != nil && !v.Dense.significant():
			held = append(held, name)
		}
		if slices.Contains(v.Marks, BelowMajority) || slices.Contains(v.Marks, NotAboveGuess) {
			empty = append(empty, name)
		}
	}
	if len(worse) > 0 {
		out = append(out, "It is worse than dense by paired test on "+list(worse)+".")
	}
	if len(held) > 0 {
		out = append(out, "No difference was found on "+list(held)+".")
	}
	if len(empty) > 0 {
		out = append(out, "It is no better than guessing on "+list(empty)+".")
	}
	return out
}

// columnName names a column in a sentence: the task, with the metric where it is no
// accuracy.
func columnName(c Column) string {
	if c.accuracy() {
		return c.Task
	}
	return c.Task + " " + strings.ReplaceAll(c.Metric, "_", " ")
}

// metricText is a value with its unit.
func metricText(c Column, m *eval.Metric) string {
	s := metricValue(c.Metric, m)
	if c.accuracy() && m != nil {
		s += " %"
	}
	return s
}

// find derives the headline's sentences.
func (r *Report) find() []Finding {
	out := []Finding{}
	for _, s := range r.Sets {
		name := ""
		if len(r.Sets) > 1 {
			name = s.name()
		}
		for _, f := range [][]string{s.findSizes(), r.findAlternatives(s), s.findHeld(), s.findGuessing(), r.findSpeed(s), s.findOverlap()} {
			for _, text := range f {
				out = append(out, Finding{name, text})
			}
		}
	}
	add := func(format string, args ...any) {
		out = append(out, Finding{Text: fmt.Sprintf(format, args...)})
	}
	for _, t := range r.Quality.Tasks {
		if !t.Used {
			add("%s does not count in the quality: %s.", t.Task, t.Why)
		}
	}
	if e := r.energy(); e != nil && e.Joules == nil {
		why := e.Absent
		if why == "" {
			why = "no meter was found"
		}
		add("Energy was not measured: %s.", strings.TrimSuffix(why, "."))
	} else if e != nil && e.Estimate {
		add("Energy is an estimate (%s), not a measurement.", e.Meter)
	}
	if n := len(r.Failed); n > 0 {
		add("%s failed; below says why.", plural(n, "cell"))
	}
	if len(r.Sets) == 0 {
		add("No cell was finished.")
	}
	return out
}

// findAlternatives holds a set's pruned variants against smaller models that nobody pruned.
func (r *Report) findAlternatives(s *Set) []string {
	var out []string
	d := s.dense()
	for _, other := range r.Sets {
		o := other.dense()
		if d == nil || o == nil || o.Quality == nil || other.Model == s.Model || o.Bytes >= d.Bytes || o.Bytes == 0 {
			continue
		}
		n, beaten := 0, 0
		for i := range s.Variants {
			v := &s.Variants[i]
			if v == d || v.Quality == nil || v.Bytes < o.Bytes {
				continue
			}
			n++
			if v.Quality.Value <= o.Quality.Value {
				beaten++
			}
		}
		if n > 0 {
			out = append(out, fmt.Sprintf("Of its %s that are larger than the dense %s, %d have no more quality than that.",
				plural(n, "pruned variant"), other.name(), beaten))
		}
	}
	return out
}

// bySize groups the pruned variants that have a quality by size, in the order of the set.
func (s *Set) bySize() (sizes []string, of map[string][]*Variant) {
	of = map[string][]*Variant{}
	for i := range s.Variants {
		v := &s.Variants[i]
		if v.Cell.Method == study.Dense || v.Quality == nil {
			continue
		}
		if of[v.Size] == nil {
			sizes = append(sizes, v.Size)
		}
		of[v.Size] = append(of[v.Size], v)
	}
	return sizes, of
}

// findSizes says which method keeps most at each size, what maxabs keeps there, and which
// others are so near that the errors do not tell them apart.
func (s *Set) findSizes() []string {
	sizes, of := s.bySize()
	if len(sizes) == 0 {
		return nil
	}
	var best []*Variant
	var bests, maxabs, names []string
	near := map[string][]string{} // sizes by series
	same := true
	for _, size := range sizes {
		b := slices.MaxFunc(of[size], func(a, b *Variant) int { return compareFloat(a.Quality.Value, b.Quality.Value) })
		same = same && (len(best) == 0 || best[0].Series == b.Series)
		best = append(best, b)
		bests = append(bests, fmt.Sprintf("%s at %s", percent(b.Quality.Value), size))
		if k := slices.IndexFunc(of[size], func(v *Variant) bool { return v.Series == maxAbs }); k >= 0 && b.Series != maxAbs {
			maxabs = append(maxabs, percent(of[size][k].Quality.Value))
		}
		for _, v := range of[size] {
			if v.Series == b.Series || !within(b, v) || slices.Contains(near[v.Series], size) {
				continue
			}
			if near[v.Series] == nil {
				names = append(names, v.Series)
			}
			near[v.Series] = append(near[v.Series], size)
		}
	}
	text := "Most of the dense quality is kept by " + best[0].Series
	switch {
	case !same:
		for i := range bests {
			bests[i] = best[i].Label + " keeps " + percent(best[i].Quality.Value)
		}
		text = "Of the dense quality " + list(bests)
	case len(sizes) > 1:
		text += " at every size: " + list(bests)
	default:
		text += ": " + bests[0]
	}
	if same && s.methods() == 1 {
		text = "Of the dense quality " + best[0].Series + " keeps " + list(bests)
	}
	if len(maxabs) == len(sizes) {
		text += "; maxabs keeps " + list(maxabs)
	}
	out := []string{text + "."}
	for i, name := range names {
		names[i] = name + " at " + list(near[name])
	}
	if len(names) > 0 {
		out = append(out, "Within one standard error of that: "+strings.Join(names, "; ")+".")
	}
	return out
}

// methods counts the series of pruned variants.
func (s *Set) methods() int {
	seen := map[string]bool{}
	for i := range s.Variants {
		if v := &s.Variants[i]; v.Cell.Method != study.Dense {
			seen[v.Series] = true
		}
	}
	return len(seen)
}

// within reports whether two qualities differ by less than one standard error of their
// difference, taken as independent.
func within(a, b *Variant) bool {
	variance := 0.0
	for _, v := range []*Variant{a, b} {
		if v.Quality.StdErr != nil {
			variance += *v.Quality.StdErr * *v.Quality.StdErr
		}
	}
	d := a.Quality.Value - b.Quality.Value
	return d*d < variance
}

func compareFloat(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// findHeld counts on how many tasks variants are no worse than dense by paired test.
func (s *Set) findHeld() []string {
	tested, free := 0, []string{}
	for i := range s.Variants {
		v := &s.Variants[i]
		n, worse := 0, 0
		for j, c := range s.Columns {
			if c.Main && v.Values[j].Dense != nil && v.Values[j].Dense.Test != nil {
				n++
				if slices.Contains(v.Values[j].Marks, Worse) {
					worse++
				}
			}
		}
		if n > 0 {
			tested++
			if worse == 0 {
				free = append(free, v.Label)
			}
		}
	}
	switch {
	case tested == 0:
		return nil
	case len(free) == 0:
		return []string{"No size is free: every pruned variant is worse than dense on at least one task by paired test."}
	case len(free) > 4:
		return []string{fmt.Sprintf("Of %s no loss was found on any task by paired test.", plural(len(free), "variant"))}
	}
	return []string{fmt.Sprintf("No loss was found on any task by paired test for %s.", list(free))}
}

// findGuessing says on which tasks variants do no better than guessing, though dense does.
func (s *Set) findGuessing() []string {
	var out []string
	d := s.dense()
	for j, c := range s.Columns {
		if !c.Main || c.guess() == 0 {
			continue
		}
		var who []string
		n := 0
		for i := range s.Variants {
			v := &s.Variants[i]
			if v == d || v.Values[j].Metric == nil {
				continue
			}
			n++
			if !aboveGuess(v.Values[j].Metric, c) {
				who = append(who, v.Label)
			}
		}
		dense := d != nil && d.Values[j].Metric != nil && !aboveGuess(d.Values[j].Metric, c)
		switch {
		case len(who) == 0 || dense:
			continue // of the dense model, what the quality leaves out says it
		case len(who) == n:
			out = append(out, fmt.Sprintf("On %s no pruned variant is better than guessing (%s).", c.Task, percent(c.guess())))
		case len(who) > 4:
			out = append(out, fmt.Sprintf("On %s %d of %d pruned variants are no better than guessing (%s).", c.Task, len(who), n, percent(c.guess())))
		default:
			out = append(out, fmt.Sprintf("On %s no better than guessing (%s): %s.", c.Task, percent(c.guess()), list(who)))
		}
	}
	return out
}

// findSpeed says what the smallest variant gains.
func (r *Report) findSpeed(s *Set) []string {
	d := s.dense()
	if d == nil || d.Bytes == 0 {
		return nil
	}
	var small *Variant
	for i := range s.Variants {
		if v := &s.Variants[i]; v != d && v.Bytes > 0 && (small == nil || v.Bytes < small.Bytes) {
			small = v
		}
	}
	if small == nil {
		return nil
	}
	text := fmt.Sprintf("The smallest variant, %s, has %.0f %% of the dense model's bytes", small.Label, 100*float64(small.Bytes)/float64(d.Bytes))
	if small.TokensPS != nil && d.TokensPS != nil {
		text += fmt.Sprintf(" and is %s times as fast in %s", factor(small.TokensPS.Value/d.TokensPS.Value), r.speed.work())
	}
	if small.JoulesPerToken != nil && d.JoulesPerToken != nil {
		text += fmt.Sprintf(", for %.0f %% of the energy a token", 100**small.JoulesPerToken / *d.JoulesPerToken)
	}
	return []string{text + "."}
}

// findOverlap says how much of what maxabs keeps the best other method keeps at the
// smallest size.
func (s *Set) findOverlap() []string {
	var found *Overlap
	sizes, of := s.bySize()
	if len(sizes) == 0 {
		return nil
	}
	last := sizes[len(sizes)-1]
	best := slices.MaxFunc(of[last], func(a, b *Variant) int { return compareFloat(a.Quality.Value, b.Quality.Value) })
	for i := range s.Overlaps {
		if o := &s.Overlaps[i]; o.Size == last && o.A == maxAbs && o.B == best.Series {
			found = o
		}
	}
	if found == nil {
		return nil
	}
	return []string{fmt.Sprintf("Of the neurons that maxabs keeps at %s, %s keeps %s, where chance gives %s.",
		last, found.B, percent(found.Shared), percent(found.Chance))}
}

// notes say how far numbers of this report can be compared with each other.
func (r *Report) notes() []string {
	var out []string
	tests, cells := 0, 0
	r.each(func(_ *Set, v *Variant) {
		cells++
		for _, x := range v.Values {
			for _, c := range []*Change{x.Dense, x.MaxAbs} {
				if c != nil && c.Test != nil {
					tests++
				}
			}
		}
	})
	if tests > 0 {
		chance, decimals := float64(tests)*eval.Significance, 1
		if chance >= 10 {
			decimals = 0
		}
		out = append(out, fmt.Sprintf("p values are not corrected for their number: of %s, about %s would be below %.2f by chance alone.",
			plural(tests, "test"), thousands(chance, decimals), eval.Significance))
	}
	if len(r.Hosts) > 1 {
		out = append(out, fmt.Sprintf("The cells were measured on %d machines or program versions: speeds, memory and energy can be compared only within one.", len(r.Hosts)))
	}
	for _, s := range r.Sets {
		var models []string
		for i := range s.Variants {
			if f := s.Variants[i].Cell.ModelFingerprint; !slices.Contains(models, f) {
				models = append(models, f)
			}
		}
		if len(models) > 1 {
			out = append(out, fmt.Sprintf("%s: its cells are of %d models of one name (fingerprints %s): they cannot be compared; give the models names of their own.",
				s.name(), len(models), list(models)))
		}
	}
	fingerprints := map[string]map[string]bool{}
	var order []string
	r.each(func(_ *Set, v *Variant) {
		for _, c := range r.Sets[0].Columns {
			if f := v.Cell.Data[c.Task]; f != "" {
				if fingerprints[c.Task] == nil {
					fingerprints[c.Task] = map[string]bool{}
					order = append(order, c.Task)
				}
				fingerprints[c.Task][f] = true
			}
		}
	})
	for _, t := range order {
		if len(fingerprints[t]) > 1 {
			out = append(out, fmt.Sprintf("%s was asked with different records in different cells; their values are no exact comparison.", t))
		}
	}
	return out
}
