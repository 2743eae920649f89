package report

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/study"
)

// Budget is what a variant must keep to. Zero values set no limit.
type Budget struct {
	MaxBytes    int64   `json:"max_bytes,omitempty"`            // of the weights as stored
	MaxJoules   float64 `json:"max_joules_per_token,omitempty"` // of the evaluations' input tokens, idle power included
	MinAccuracy []Floor `json:"min_accuracy,omitempty"`
}

// Floor is the least accuracy, between 0 and 1, of a task or a group.
type Floor struct {
	Task     string  `json:"task"`
	Accuracy float64 `json:"accuracy"`
}

// Without a budget, a variant of goodShare of the quality counts as a replacement of the dense
// model, and one of startShare as a start for recovery training.
const (
	goodShare  = 0.9
	startShare = 0.5
)

// Recommendation is the variant to take, and why; ID is "" where none fits.
type Recommendation struct {
	Budget  Budget   `json:"budget"`
	ID      string   `json:"id,omitempty"`
	Label   string   `json:"label,omitempty"`
	Reasons []string `json:"reasons"` // sentences, the first of which says what is recommended
	Nearest []Miss   `json:"nearest,omitempty"`
}

// Miss is a variant that does not fit, with what is missing by how much.
type Miss struct {
	ID      string   `json:"id"`
	Label   string   `json:"label"`
	Misses  []string `json:"misses"`
	by      float64  // sum of the relative excesses
	unknown int      // limits whose value was not measured
}

// UnknownTaskError says that a budget names a task that the ledger does not have.
type UnknownTaskError struct {
	Task string
	Have []string // tasks with an accuracy
}

func (e *UnknownTaskError) Error() string {
	if len(e.Have) == 0 {
		return fmt.Sprintf("no task of the ledger has an accuracy, so none can be asked of %q", e.Task)
	}
	return fmt.Sprintf("the ledger has no accuracy of task %q; it has %s", e.Task, strings.Join(e.Have, ", "))
}

func (b *Budget) empty() bool {
	return b.MaxBytes == 0 && b.MaxJoules == 0 && len(b.MinAccuracy) == 0
}

// check finds tasks that no variant was asked.
func (b *Budget) check(sets []*Set) error {
	var have []string
	for _, s := range sets {
		for _, c := range s.Columns {
			if c.accuracy() && !slices.Contains(have, c.Task) {
				have = append(have, c.Task)
			}
		}
	}
	var errs []error
	for _, f := range b.MinAccuracy {
		if !slices.Contains(have, f.Task) {
			errs = append(errs, &UnknownTaskError{f.Task, have})
		}
	}
	return errors.Join(errs...)
}

// fullName is a variant's label, with its model where the report has several sets.
func (r *Report) fullName(s *Set, v *Variant) string {
	switch dense := v.Cell.Method == study.Dense; {
	case dense && len(r.Sets) == 1:
		return "the dense model"
	case dense:
		return "the dense " + s.name()
	case len(r.Sets) == 1:
		return v.Label
	}
	return v.Label + " of " + s.name()
}

// candidate is a variant that could be recommended.
type candidate struct {
	set  *Set
	v    *Variant
	name string
	miss Miss
}

// recommend chooses by the budget; without one, the smallest variant with goodShare of the
// quality, else the pruned one with most of it if that is at least startShare.
func (r *Report) recommend(b Budget) Recommendation {
	rec := Recommendation{Budget: b, Reasons: []string{}}
	var all []candidate
	r.each(func(s *Set, v *Variant) {
		c := candidate{set: s, v: v, name: r.fullName(s, v)}
		c.miss = s.misses(v, b)
		c.miss.Label = c.name
		all = append(all, c)
	})
	switch {
	case len(all) == 0:
		rec.Reasons = append(rec.Reasons, "No cell was finished, so nothing can be recommended.")
		return rec
	case b.empty():
		return r.recommendFreely(rec, all)
	}
	var fit []candidate
	for _, c := range all {
		if len(c.miss.Misses) == 0 {
			fit = append(fit, c)
		}
	}
	if len(fit) == 0 {
		return r.recommendNone(rec, all)
	}
	slices.SortStableFunc(fit, compareQuality)
	best := fit[0]
	rec.ID, rec.Label = best.v.ID, best.name
	take := "Take " + best.name
	if best.v.Cell.Method == study.Dense && len(r.Sets) == 1 {
		take = "Keep " + best.name
	}
	rec.Reasons = append(rec.Reasons,
		fmt.Sprintf("%s: of %s that %s the budget (%s) it has the best quality%s.",
			take, plural(len(fit), "variant"), verb(len(fit), "keeps to", "keep to"), b.String(), qualityIn(best.v)))
	rec.Reasons = append(rec.Reasons, r.reasons(best)...)
	if len(fit) > 1 {
		text := fmt.Sprintf("Next comes %s%s", fit[1].name, qualityIn(fit[1].v))
		if best.v.Quality != nil && fit[1].v.Quality != nil && within(best.v, fit[1].v) {
			text += ", within one standard error of it"
		}
		rec.Reasons = append(rec.Reasons, text+".")
	}
	return rec
}

// compareQuality puts the best quality first, the unknown last; equals by fewer bytes.
func compareQuality(a, b candidate) int {
	q := func(c candidate) float64 {
		if c.v.Quality == nil {
			return -1
		}
		return c.v.Quality.Value
	}
	return cmp.Or(cmp.Compare(q(b), q(a)), cmp.Compare(a.v.Bytes, b.v.Bytes))
}

func (r *Report) recommendFreely(rec Recommendation, all []candidate) Recommendation {
	var pruned, good []candidate
	for _, c := range all {
		if c.v.Quality != nil && c.v.Cell.Method != study.Dense {
			pruned = append(pruned, c)
			if c.v.Quality.Value >= goodShare {
				good = append(good, c)
			}
		}
	}
	if len(pruned) == 0 {
		rec.Reasons = append(rec.Reasons, "No pruned variant has a quality to compare, so nothing can be recommended.")
		return rec
	}
	slices.SortStableFunc(pruned, compareQuality)
	best := pruned[0]
	if len(good) > 0 {
		best = slices.MinFunc(good, func(a, b candidate) int {
			return cmp.Or(cmp.Compare(a.v.Bytes, b.v.Bytes), compareQuality(a, b))
		})
		rec.Reasons = append(rec.Reasons, fmt.Sprintf("Take %s: it is the smallest variant with at least %.0f %% of the dense model's quality%s.",
			best.name, 100*goodShare, qualityIn(best.v)))
	} else {
		rec.Reasons = append(rec.Reasons,
			fmt.Sprintf("No pruned variant keeps %.0f %% of the dense model's quality. Most is kept by %s%s.", 100*goodShare, best.name, qualityIn(best.v)))
	}
	if best.v.Quality.Value >= startShare {
		rec.ID, rec.Label = best.v.ID, best.name
		rec.Reasons = append(rec.Reasons, r.reasons(best)...)
	}
	switch {
	case rec.ID == "":
		rec.Reasons = append(rec.Reasons, "Keep the dense model.")
	case len(good) == 0:
		rec.Reasons = append(rec.Reasons, "Take it as a start for recovery training, or keep the dense model.")
	}
	rec.Reasons = append(rec.Reasons, "No budget was given; --max-bytes, --max-joules and --min-accuracy choose under one.")
	return rec
}

// recommendNone says which variants come nearest to the budget.
func (r *Report) recommendNone(rec Recommendation, all []candidate) Recommendation {
	slices.SortStableFunc(all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.miss.unknown, b.miss.unknown), cmp.Compare(a.miss.by, b.miss.by), compareQuality(a, b))
	})
	rec.Reasons = append(rec.Reasons, fmt.Sprintf("No variant keeps to the budget (%s).", rec.Budget.String()))
	for _, c := range all[:min(3, len(all))] {
		rec.Nearest = append(rec.Nearest, c.miss)
	}
	n := rec.Nearest[0]
	rec.Reasons = append(rec.Reasons, fmt.Sprintf("Nearest is %s: %s.", n.Label, list(n.Misses)))
	return rec
}

// misses says by how much a variant fails each limit.
func (s *Set) misses(v *Variant, b Budget) Miss {
	m := Miss{ID: v.ID, Misses: []string{}}
	over := func(by float64, format string, args ...any) {
		m.by += by
		m.Misses = append(m.Misses, fmt.Sprintf(format, args...))
	}
	unknown := func(format string, args ...any) {
		m.unknown++
		m.Misses = append(m.Misses, fmt.Sprintf(format, args...))
	}
	if b.MaxBytes > 0 {
		switch {
		case v.Bytes == 0:
			unknown("its size was not recorded")
		case v.Bytes > b.MaxBytes:
			over(float64(v.Bytes)/float64(b.MaxBytes)-1, "%s is %s too large", byteSize(v.Bytes), byteSize(v.Bytes-b.MaxBytes))
		}
	}
	if b.MaxJoules > 0 {
		switch {
		case v.JoulesPerToken == nil:
			unknown("its energy was not measured")
		case *v.JoulesPerToken > b.MaxJoules:
			over(*v.JoulesPerToken/b.MaxJoules-1, "%s J a token is %s too much", digits(*v.JoulesPerToken), digits(*v.JoulesPerToken-b.MaxJoules))
		}
	}
	for _, f := range b.MinAccuracy {
		j := slices.IndexFunc(s.Columns, func(c Column) bool { return c.Task == f.Task && c.accuracy() })
		if j < 0 || v.Values[j].Metric == nil {
			unknown("%s was not measured", f.Task)
		} else if a := v.Values[j].Metric.Value; a < f.Accuracy {
			over((f.Accuracy-a)/f.Accuracy, "%s %s is %.1f points short of %s", f.Task, percent(a), 100*(f.Accuracy-a), percent(f.Accuracy))
		}
	}
	return m
}

// String says the limits in words.
func (b *Budget) String() string {
	var parts []string
	if b.MaxBytes > 0 {
		parts = append(parts, "at most "+byteSize(b.MaxBytes))
	}
	if b.MaxJoules > 0 {
		parts = append(parts, "at most "+digits(b.MaxJoules)+" J a token")
	}
	for _, f := range b.MinAccuracy {
		parts = append(parts, fmt.Sprintf("at least %s on %s", percent(f.Accuracy), f.Task))
	}
	return strings.Join(parts, ", ")
}

// qualityIn puts a variant's quality into a sentence.
func qualityIn(v *Variant) string {
	if v.Quality == nil {
		return " (no quality: a task was not measured)"
	}
	if v.Quality.StdErr == nil {
		return fmt.Sprintf(" (%s of dense)", percent(v.Quality.Value))
	}
	return fmt.Sprintf(" (%s ± %.1f of dense)", percent(v.Quality.Value), 100**v.Quality.StdErr)
}

func verb(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
