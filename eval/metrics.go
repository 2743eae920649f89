package eval

import (
	"fmt"
	"math"
	"slices"
	"strconv"
)

// score fills in the scores and weights of a sample from its answers. fraction is the part
// of the document's tokens that the sample's requests predict.
func (t *Task) score(d *Doc, fraction float64, s *Sample) {
	ll := 0.0
	for _, a := range s.Answers {
		ll += a.LogLikelihood
	}
	s.Scores = make([]float64, len(t.Metrics))
	s.Weights = make([]float64, len(t.Metrics))
	for i, metric := range t.Metrics {
		s.Scores[i], s.Weights[i] = ll, 1
		switch metric {
		case Acc, AccNorm:
			s.Scores[i] = 0
			if t.Kind == Cloze && s.Answers[0].Greedy || t.Kind == MultipleChoice && d.chosen(metric, s.Answers) == d.Gold {
				s.Scores[i] = 1
			}
		case WordPerplexity:
			s.Weights[i] = float64(d.Words) * fraction
		case BytePerplexity, BitsPerByte:
			s.Weights[i] = float64(d.Bytes) * fraction
		case TokenPerplexity:
			s.Weights[i] = float64(len(s.Answers[0].Continuation))
		}
	}
}

// chosen returns the index of the choice that the model prefers: the largest
// log-likelihood, for acc_norm per code point of the choice. The first of equals wins.
func (d *Doc) chosen(metric string, answers []Answer) int {
	best, bestValue := 0, math.Inf(-1)
	for i, a := range answers {
		value := a.LogLikelihood
		if metric == AccNorm {
			value /= float64(d.Lengths[i])
		}
		if value > bestValue {
			best, bestValue = i, value
		}
	}
	return best
}

// aggregate fills in the metrics of a task from its samples.
func (r *TaskResult) aggregate(metrics []string) {
	r.Metrics = make([]Metric, len(metrics))
	for i, name := range metrics {
		scores, weights := r.column(i)
		r.Metrics[i] = aggregateMetric(name, scores, weights)
	}
}

// column returns the scores and weights of metric i over all samples.
func (r *TaskResult) column(i int) (scores, weights []float64) {
	scores = make([]float64, len(r.Samples))
	weights = make([]float64, len(r.Samples))
	for j, s := range r.Samples {
		scores[j], weights[j] = s.Scores[i], s.Weights[i]
	}
	return scores, weights
}

// aggregateMetric makes a metric of its records' scores and weights:
//
//	acc, acc_norm   mean of the scores
//	*perplexity     exp(-sum of log-likelihoods / sum of weights)
//	bits_per_byte   -sum of log-likelihoods / sum of weights / ln 2
func aggregateMetric(name string, scores, weights []float64) Metric {
	if HigherIsBetter(name) {
		return Metric{name, Mean(scores), StdErr(scores), math.NaN()}
	}
	all := make([]int, len(scores))
	for i := range all {
		all[i] = i
	}
	mean := weightedMean(scores, weights, all)
	if name == BitsPerByte {
		bits := func(mean float64) float64 { return -mean / math.Ln2 }
		return Metric{name, bits(mean), bootstrapStdErr(scores, weights, bits), math.NaN()}
	}
	perplexity := func(mean float64) float64 { return math.Exp(-mean) }
	return Metric{name, perplexity(mean), bootstrapStdErr(scores, weights, perplexity), -mean}
}

// guessing returns what a multiple-choice task gives to one who does not read it.
func (t *Task) guessing(samples []Sample, docs []*Doc) *Guessing {
	var gold, chosen []int
	chance := 0.0
	for i, d := range docs {
		chance += 1 / float64(len(d.Pairs))
		for len(gold) < len(d.Pairs) {
			gold, chosen = append(gold, 0), append(chosen, 0)
		}
		gold[d.Gold]++
		chosen[d.chosen(t.Metrics[0], samples[i].Answers)]++
	}
	n := float64(len(docs))
	g := &Guessing{Chance: chance / n}
	for i := range gold {
		rate := AnswerRate{t.answerName(i), float64(gold[i]) / n, float64(chosen[i]) / n}
		if rate.Gold > g.Majority {
			g.Majority, g.MajorityName = rate.Gold, rate.Name
		}
		g.Answers = append(g.Answers, rate)
	}
	return g
}

// answerName is the name of the answer of that index: the task's own, else A, B, C.
func (t *Task) answerName(i int) string {
	switch {
	case i < len(t.Answers):
		return t.Answers[i]
	case i < 26:
		return string(rune('A' + i))
	}
	return strconv.Itoa(i + 1)
}

// groups returns the results of the groups that the tasks belong to, in the order in which
// they first occur.
func groups(tasks []TaskResult) []GroupResult {
	var names []string
	members := map[string][]*TaskResult{}
	for i := range tasks {
		name := tasks[i].Group
		if name == "" {
			continue
		}
		if members[name] == nil {
			names = append(names, name)
		}
		members[name] = append(members[name], &tasks[i])
	}
	var out []GroupResult
	for _, name := range names {
		out = append(out, group(name, members[name]))
	}
	return out
}

// group makes the size-weighted mean of tasks that have the same metrics, all of them
// accuracies.
func group(name string, tasks []*TaskResult) GroupResult {
	g := GroupResult{Name: name}
	sizes := make([]int, len(tasks))
	for i, t := range tasks {
		g.Tasks = append(g.Tasks, t.Name)
		sizes[i] = t.Evaluated
		g.Records += t.Evaluated
		g.Chance += t.Guessing.Chance * float64(t.Evaluated)
		g.Majority += t.Guessing.Majority * float64(t.Evaluated)
	}
	g.Chance /= float64(g.Records)
	g.Majority /= float64(g.Records)
	for i, m := range tasks[0].Metrics {
		sum, errs := 0.0, make([]float64, len(tasks))
		for j, t := range tasks {
			sum += t.Metrics[i].Value * float64(sizes[j])
			errs[j] = t.Metrics[i].StdErr
		}
		g.Metrics = append(g.Metrics, Metric{m.Name, sum / float64(g.Records), PooledStdErr(errs, sizes), math.NaN()})
	}
	return g
}

// checkGroups reports tasks of one group that cannot be averaged.
func checkGroups(tasks []*Task) error {
	first := map[string]*Task{}
	for _, t := range tasks {
		switch f := first[t.Group]; {
		case t.Group == "":
		case slices.ContainsFunc(tasks, func(o *Task) bool { return o.Name == t.Group }):
			return Usagef("task %s: its group has the name of a task, %s, and results have one place for a name", t.Name, t.Group)
		case t.Kind != MultipleChoice:
			return fmt.Errorf("task %s: a group averages multiple-choice tasks, and this one is %s", t.Name, t.Kind)
		case f == nil:
			first[t.Group] = t
		case fmt.Sprint(f.Metrics) != fmt.Sprint(t.Metrics):
			return fmt.Errorf("tasks %s and %s of group %s have different metrics", f.Name, t.Name, t.Group)
		}
	}
	return nil
}
