package card

import (
	"fmt"
	"math"
	"slices"

	"github.com/coppice-lm/coppice/eval"
)

// verdict is what the numbers say of one benchmark.
type verdict int

// The verdicts, the worst first. silent is a benchmark on which the dense model is no
// better than guessing, so that no change of it tells what pruning cost; alone is one that
// was not compared.
const (
	broken verdict = iota
	lost
	held
	better
	silent
	alone
)

var verdictTitles = [...]string{"Broken", "Lost in part", "Held", "Better than before", "Says nothing about pruning", "Measured"}

// finding is a sentence or two about one benchmark.
type finding struct {
	verdict verdict
	text    string
}

// What counts as what. A share of the dense model's lead over guessing below brokenShare,
// or a perplexity brokenFactor times higher, is a benchmark that broke; an answer given in
// oneAnswer of the records is a model that has stopped reading.
const (
	brokenShare  = 0.1
	brokenFactor = 10
	oneAnswer    = 0.95
	normal95     = 1.96 // standard errors on either side of a 95 % interval
)

// judge makes the rows of the table and finds what they mean.
func (card *Card) judge() {
	results := []*eval.Result{card.pruned}
	if card.dense != nil {
		results = []*eval.Result{card.dense, card.pruned}
	}
	for _, r := range eval.Compare(results...).Rows {
		cells := r.Cells
		if cells[len(cells)-1].Metric == nil {
			continue // measured on the dense model alone
		}
		x := row{Row: r, pruned: &cells[len(cells)-1]}
		if len(cells) > 1 && cells[0].Metric != nil {
			x.dense = &cells[0]
		}
		if t := card.pruned.Task(r.Task); t != nil {
			x.member = t.Group != "" && slices.ContainsFunc(card.pruned.Groups, func(g eval.GroupResult) bool { return g.Name == t.Group })
			if t.Guessing != nil {
				x.majorityName = t.Guessing.MajorityName
			}
		}
		card.rows = append(card.rows, x)
	}
	for i := 0; i < len(card.rows); {
		first := i
		for i < len(card.rows) && card.rows[i].Task == card.rows[first].Task {
			i++
		}
		if !card.rows[first].member {
			card.findings = append(card.findings, judgeTask(card.rows[first:i]))
		}
	}
	slices.SortStableFunc(card.findings, func(a, b finding) int { return int(a.verdict - b.verdict) })
}

// judgeTask judges a task by its first accuracy and its first perplexity, the worse of
// which decides.
func judgeTask(rows []row) finding {
	var f *finding
	take := func(higher bool) {
		for i := range rows {
			if eval.HigherIsBetter(rows[i].Metric) != higher {
				continue
			}
			g := rows[i].accuracy()
			if !higher {
				g = rows[i].perplexity()
			}
			if f == nil {
				g.text = fmt.Sprintf("**%s**: %s", escape(title(rows[i].Task)), g.text)
				f = &g
			} else {
				f.verdict, f.text = min(f.verdict, g.verdict), f.text+" "+upper(g.text)
			}
			return
		}
	}
	take(true)
	take(false)
	return *f
}

// accuracy judges an accuracy.
func (r *row) accuracy() finding {
	v, se := r.pruned.Metric.Value, orZero(r.pruned.Metric.StdErr)
	floor, guess := r.floor()
	now := percent(v)
	tail := r.oneAnswer()
	clear := v-normal95*se > orZeroPointer(r.Chance)
	if r.dense == nil {
		switch {
		case !clear:
			return finding{broken, fmt.Sprintf("%s is not above %s beyond its standard error.%s", now, r.bottom(), tail)}
		case v < floor:
			return finding{broken, fmt.Sprintf("%s is below %s.%s", now, guess, tail)}
		}
		return finding{alone, fmt.Sprintf("%s.%s", now, tail)}
	}
	b, bse := r.dense.Metric.Value, orZero(r.dense.Metric.StdErr)
	was := fmt.Sprintf("the original model has %s", percent(b))
	if b-normal95*bse <= floor {
		what := "so it does not tell what pruning cost"
		if v < floor {
			what = "and neither is the pruned one, " + what
		}
		return finding{silent, fmt.Sprintf("%s; %s, which is not above %s beyond its standard error, %s.%s", now, was, guess, what, tail)}
	}
	switch {
	case !clear:
		return finding{broken, fmt.Sprintf("%s is not above %s beyond its standard error; %s.%s", now, r.bottom(), was, tail)}
	case v < floor:
		return finding{broken, fmt.Sprintf("%s is below %s; %s.%s", now, guess, was, tail)}
	}
	test := r.pruned.Test
	if test == nil {
		return finding{alone, fmt.Sprintf("%s; %s; the two share too few records for a test.%s", now, was, tail)}
	}
	chance := orZeroPointer(r.Chance)
	share := (v - chance) / (b - chance)
	lead := "of it"
	if chance > 0 {
		lead = "of its lead over chance"
	}
	switch p := pText(test.P); {
	case !test.Significant():
		return finding{held, fmt.Sprintf("%s; %s, a difference that chance explains (p %s over %s records).%s", now, was, p, count(int64(test.Records)), tail)}
	case v > b:
		return finding{better, fmt.Sprintf("%s; %s (p %s).%s", now, was, p, tail)}
	case share < brokenShare:
		return finding{broken, fmt.Sprintf("%s; %s: %.1f %% %s is left (p %s).%s", now, was, 100*share, lead, p, tail)}
	default:
		return finding{lost, fmt.Sprintf("%s; %s: %.0f %% %s is left (p %s).%s", now, was, 100*share, lead, p, tail)}
	}
}

// floor is what guessing reaches: by chance, or by the one answer that is right most
// often; and which of the two it is.
func (r *row) floor() (float64, string) {
	chance, majority := orZeroPointer(r.Chance), orZeroPointer(r.Majority)
	switch {
	case majority >= chance && majority > 0:
		always := "always giving the most frequent answer"
		if r.majorityName != "" {
			always = "always answering " + quote(r.majorityName)
		}
		return majority, fmt.Sprintf("the %s of %s", percent(majority), always)
	case chance > 0:
		return chance, r.bottom()
	}
	return 0, r.bottom()
}

// bottom is what an accuracy must be above to be one.
func (r *row) bottom() string {
	if r.Chance == nil {
		return "zero"
	}
	return fmt.Sprintf("chance (%s)", percent(*r.Chance))
}

// oneAnswer says that a model gives one answer to all but a few records.
func (r *row) oneAnswer() string {
	for _, a := range r.pruned.Answers {
		if a.Chosen >= oneAnswer {
			return fmt.Sprintf(" It answers %s in %s of the records; that is right in %s.", quote(a.Name), percent(a.Chosen), percent(a.Gold))
		}
	}
	return ""
}

// perplexity judges a metric that is better when lower.
func (r *row) perplexity() finding {
	name := metricTitle(r.Metric)
	now := value(r.Metric, r.pruned.Metric)
	if r.dense == nil {
		return finding{alone, fmt.Sprintf("%s %s.", name, now)}
	}
	text := fmt.Sprintf("%s %s; the original model has %s", name, now, value(r.Metric, r.dense.Metric))
	factor := r.factor()
	test := r.pruned.Test
	switch {
	case test == nil || math.IsNaN(test.P):
		return finding{alone, text + "; the two share too few records for a test."}
	case !test.Significant():
		return finding{held, fmt.Sprintf("%s, a difference that chance explains (p %s).", text, pText(test.P))}
	}
	text += fmt.Sprintf(" (p %s)", pText(test.P))
	switch {
	case factor < 1:
		return finding{better, text + "."}
	case r.Metric != eval.BitsPerByte && factor >= brokenFactor:
		return finding{broken, fmt.Sprintf("%s: %s times as high.", text, digits(factor, 2))}
	default:
		return finding{lost, fmt.Sprintf("%s: %.2f times as high.", text, factor)}
	}
}

// factor is a perplexity over the dense model's. Logarithms carry one that is too large
// for a number.
func (r *row) factor() float64 {
	a, b := r.dense.Metric, r.pruned.Metric
	if finite(a.Log) && finite(b.Log) {
		return math.Exp(b.Log - a.Log)
	}
	return b.Value / a.Value
}

// has reports whether a verdict was given.
func (card *Card) has(v verdict) bool {
	return slices.ContainsFunc(card.findings, func(f finding) bool { return f.verdict == v })
}

func orZero(x float64) float64 {
	if !finite(x) {
		return 0
	}
	return x
}

func orZeroPointer(p *float64) float64 {
	if p == nil {
		return 0
	}
	return *p
}
