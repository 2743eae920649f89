package reporttest

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/study"
)

// result is what a model reaches that keeps a share of what the dense one can do.
func (t task) result(left float64, rng *rand.Rand) eval.TaskResult {
	r := eval.TaskResult{
		Name: t.name, Group: t.group, Kind: t.kind, Version: 1, Source: t.name + ".parquet", Records: t.records, Evaluated: t.records,
		Fingerprint: fmt.Sprintf("%032x", hash(t.name)),
	}
	switch t.kind {
	case eval.MultipleChoice:
		guess := max(t.chance, t.majority)
		acc := t.accuracy(guess+(t.dense-guess)*left, rng)
		r.Metrics = []eval.Metric{acc, {Name: eval.AccNorm, Value: acc.Value - 0.03*left, StdErr: acc.StdErr, Log: math.NaN()}}
		r.Guessing = &eval.Guessing{Chance: t.chance, Majority: t.majority, MajorityName: "0", Answers: []eval.AnswerRate{{Name: "0", Gold: t.majority, Chosen: 0.5}, {Name: "1", Gold: 1 - t.majority, Chosen: 0.5}}}
	case eval.Cloze:
		r.Metrics = []eval.Metric{perplexity(eval.Perplexity, t.perplexity*math.Pow(left, -2.6), 0.09), t.accuracy(t.dense*left, rng)}
	default:
		word := perplexity(eval.WordPerplexity, t.dense*math.Pow(left, -1.4), 0.045)
		bits := word.Log / 5.3 / math.Ln2
		r.Metrics = []eval.Metric{word, perplexity(eval.BytePerplexity, math.Exp(word.Log/5.3), 0.009), {Name: eval.BitsPerByte, Value: bits, StdErr: 0.01 * bits, Log: math.NaN()}}
	}
	return r
}

// accuracy is a mean over the task's records, with its error.
func (t task) accuracy(mean float64, rng *rand.Rand) eval.Metric {
	n := float64(t.records)
	mean += 0.3 * math.Sqrt(mean*(1-mean)/n) * rng.NormFloat64()
	right := math.Round(n * min(1, max(0, mean)))
	p := right / n
	return eval.Metric{Name: eval.Acc, Value: p, StdErr: math.Sqrt(p * (1 - p) / (n - 1)), Log: math.NaN()}
}

func perplexity(name string, value, relative float64) eval.Metric {
	return eval.Metric{Name: name, Value: value, StdErr: relative * value, Log: math.Log(value)}
}

// pool is the mean of a group's tasks.
func pool(name string, parts []eval.TaskResult) eval.GroupResult {
	g := eval.GroupResult{Name: name}
	var se []float64
	var n []int
	mean := 0.0
	for _, t := range parts {
		k := t.Evaluated
		g.Tasks, g.Records = append(g.Tasks, t.Name), g.Records+k
		mean += float64(k) * t.Metric(eval.Acc).Value
		se, n = append(se, t.Metric(eval.Acc).StdErr), append(n, k)
		g.Chance += float64(k) * t.Guessing.Chance
		g.Majority += float64(k) * t.Guessing.Majority
	}
	all := float64(g.Records)
	g.Chance, g.Majority = g.Chance/all, g.Majority/all
	g.Metrics = []eval.Metric{{Name: eval.Acc, Value: mean / all, StdErr: eval.PooledStdErr(se, n), Log: math.NaN()}}
	return g
}

// compare makes tests that fit the two records' values.
func compare(r, against *study.Record) study.Comparison {
	c := study.Comparison{Version: study.LedgerVersion, Cell: r.Cell.ID, Against: against.Cell.ID}
	row := func(task string, group bool, a, b eval.Metric, n int) {
		cell := eval.Cell{Metric: &b, Records: n}
		change := b.Value - a.Value
		cell.Change = &change
		if relative := change / a.Value; a.Value != 0 {
			cell.Relative = &relative
		}
		if eval.HigherIsBetter(a.Name) {
			moved := int(math.Round(change * float64(n)))
			noise := n / 14
			t := &eval.PairedTest{Name: "mcnemar_exact", Records: n, OnlyBaseline: noise + max(0, -moved), OnlyOther: noise + max(0, moved)}
			t.P = eval.McNemar(t.OnlyBaseline, t.OnlyOther)
			cell.Test = t
		} else {
			d := math.Log(a.Value) - math.Log(b.Value)
			cell.Test = &eval.PairedTest{Name: "paired_bootstrap", Records: n, P: max(1e-4, math.Exp(-60*math.Abs(d))), Low: d - 0.02, High: d + 0.02}
		}
		c.Rows = append(c.Rows, eval.Row{Task: task, Group: group, Metric: a.Name, Cells: []eval.Cell{{Metric: &a, Records: n}, cell}})
	}
	for i := range r.Tasks {
		for j, m := range r.Tasks[i].Metrics {
			row(r.Tasks[i].Name, false, against.Tasks[i].Metrics[j], m, r.Tasks[i].Evaluated)
		}
	}
	for i := range r.Groups {
		for j, m := range r.Groups[i].Metrics {
			row(r.Groups[i].Name, true, against.Groups[i].Metrics[j], m, r.Groups[i].Records)
		}
	}
	return c
}
