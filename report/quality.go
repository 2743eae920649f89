package report

import (
	"fmt"
	"math"
	"strings"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/study"
)

// Quality says how the one number of a variant is made: the mean, over the tasks that are used,
// of the share of the reference's performance that is left. With accuracies a and the
// larger g of chance and majority rate (0 for a task without choices), the share is
//
//	max(0, a - g) / (a_reference - g)
//
// so that a constant answer counts as nothing; with perplexities P it is
// P_reference / P, the geometric mean of the probability that a word is still given. A
// task counts once: by its accuracy where it has one, a group by its mean. Tasks in which
// the reference is less than leadErrors standard errors above guessing are left out: there
// is nothing to keep, or so little that its share is noise.
//
// The standard error follows from those of the variant's values alone, as if they were
// independent; the reference is taken as it is. Tasks over the same texts, as both LAMBADAs,
// are not: with these among five tasks a bootstrap over records gives up to 10 % more. The
// reference's own error mostly cancels, as it is asked the same records.
type Quality struct {
	// Reference is the dense model with most parameters, in f32 where there are several.
	Reference string        `json:"reference,omitempty"` // ID; "" where no dense model was measured
	Label     string        `json:"label,omitempty"`
	Tasks     []QualityTask `json:"tasks"`
}

// QualityTask is a task's part in the quality.
type QualityTask struct {
	Task   string  `json:"task"`
	Metric string  `json:"metric"`
	Used   bool    `json:"used"`
	Why    string  `json:"why,omitempty"` // it is not used
	Guess  float64 `json:"guess,omitempty"`
	Dense  float64 `json:"dense"`
}

// leadErrors is how many standard errors the reference must be above guessing.
const leadErrors = 4

// words say how quality is made.
func (q *Quality) words() string {
	var used, out []string
	for _, t := range q.Tasks {
		if t.Used {
			used = append(used, t.Task)
		} else {
			out = append(out, fmt.Sprintf("%s is left out: %s.", t.Task, t.Why))
		}
	}
	if len(used) == 0 {
		return strings.Join(append([]string{"There is no quality: it is the share of a dense model's performance that is left, and none that can be shared out was measured."}, out...), " ")
	}
	text := fmt.Sprintf("Quality is the mean, over %s, of the share of the dense model's performance (%s) that is left: accuracy above guessing over the same of the dense model, guessing being the larger of chance and majority rate; or the dense model's perplexity over the variant's. Its standard error takes the tasks as independent and the dense model's values as exact.", list(used), q.Label)
	return strings.Join(append([]string{text}, out...), " ")
}

// addQuality chooses the reference and gives all variants their quality.
func (r *Report) addQuality() {
	r.Quality.Tasks = []QualityTask{}
	var set *Set
	var ref *Variant
	for _, s := range r.Sets {
		d := s.dense()
		if d == nil {
			continue
		}
		if ref == nil || d.Parameters > ref.Parameters || d.Parameters == ref.Parameters && s.DType == "f32" && set.DType != "f32" {
			set, ref = s, d
		}
	}
	if ref == nil {
		return
	}
	r.Quality.Reference, r.Quality.Label = ref.ID, set.name()
	seen := map[string]bool{}
	for j, c := range set.Columns {
		m := ref.Values[j].Metric
		if !c.Main || seen[c.Task] || m == nil {
			continue
		}
		seen[c.Task] = true
		t := QualityTask{Task: c.Task, Metric: c.Metric, Used: true, Dense: m.Value}
		switch {
		case c.accuracy():
			t.Guess = c.guess()
			switch se := finite(m.StdErr); {
			case m.Value <= t.Guess:
				t.Used, t.Why = false, fmt.Sprintf("the dense model's %s is no better than guessing (%s)", percent(m.Value), percent(t.Guess))
			case se != nil && m.Value-leadErrors**se <= t.Guess:
				t.Used, t.Why = false, fmt.Sprintf("the dense model's %s is less than %d standard errors above guessing (%s)", percent(m.Value), leadErrors, percent(t.Guess))
			}
		case m.Overflow() || m.Value <= 0:
			t.Used, t.Why, t.Dense = false, "the dense model's perplexity is no number", 0
		}
		r.Quality.Tasks = append(r.Quality.Tasks, t)
	}
	r.each(func(s *Set, v *Variant) { v.Quality = r.quality(s, v) })
}

// quality returns nil where a task that counts was not measured.
func (r *Report) quality(s *Set, v *Variant) *Amount {
	sum, variance, n := 0.0, 0.0, 0
	for _, t := range r.Quality.Tasks {
		if !t.Used {
			continue
		}
		m := v.metric(s, t.Task, t.Metric)
		if m == nil {
			return nil
		}
		share, se := t.share(m)
		sum, variance, n = sum+share, variance+se*se, n+1
	}
	if n == 0 {
		return nil
	}
	if finite(sum) == nil {
		return nil
	}
	q := &Amount{Value: sum / float64(n), StdErr: finite(math.Sqrt(variance) / float64(n))}
	if v.Cell.Method == study.Dense && v.ID == r.Quality.Reference {
		q.StdErr = nil // it is 1 by definition
	}
	return q
}

// share is what is left of the reference's performance, with its standard error (0 where
// the value has none).
func (t QualityTask) share(m *eval.Metric) (share, se float64) {
	se = m.StdErr
	if math.IsNaN(se) || math.IsInf(se, 0) {
		se = 0
	}
	if eval.HigherIsBetter(t.Metric) {
		above := t.Dense - t.Guess
		return max(0, m.Value-t.Guess) / above, se / above
	}
	if m.Overflow() {
		return 0, 0
	}
	share = t.Dense / m.Value
	return share, share * se / m.Value
}

// metric returns what a variant reached, nil where it was not measured.
func (v *Variant) metric(s *Set, task, metric string) *eval.Metric {
	for j, c := range s.Columns {
		if c.Task == task && c.Metric == metric {
			return v.Values[j].Metric
		}
	}
	return nil
}
