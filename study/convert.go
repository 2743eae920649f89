package study

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/coppice-lm/coppice/eval"
)

// Conditions are those under which a cell's tasks were asked.
type Conditions struct {
	BOS       eval.BOSRule `json:"bos"`
	MaxLength int          `json:"max_length"` // longest model input in tokens
	// Weights and Tokenizer are fingerprints of all of the variant's weights and of its
	// tokenizer.
	Weights   string `json:"weights"`
	Tokenizer string `json:"tokenizer"`
}

// AddResult takes over what an evaluation found. Tasks come in the order of calls.
func (r *Record) AddResult(res *eval.Result) {
	r.Conditions = &Conditions{res.BOS, res.MaxLength, res.Model.Weights, res.Model.Tokenizer}
	r.Groups = append(r.Groups, res.Groups...)
	for i := range res.Tasks {
		r.Tasks = append(r.Tasks, compact(&res.Tasks[i]))
	}
}

// compact is a task's result with its samples as columns.
func compact(t *eval.TaskResult) Task {
	c := Task{TaskResult: *t, Docs: make([]int, len(t.Samples))}
	c.Samples = nil
	for i, s := range t.Samples {
		c.Docs[i] = s.DocID
	}
	for k := range t.Metrics {
		scores, weights := make([]float64, len(t.Samples)), make([]float64, len(t.Samples))
		for i, s := range t.Samples {
			scores[i], weights[i] = s.Scores[k], s.Weights[k]
		}
		if !slices.ContainsFunc(weights, func(w float64) bool { return w != 1 }) {
			weights = nil
		}
		c.Scores, c.Weights = append(c.Scores, scores), append(c.Weights, weights)
	}
	return c
}

// check reports columns that do not fit together.
func (t *Task) check() error {
	if len(t.Scores) != len(t.Metrics) || len(t.Weights) != len(t.Metrics) {
		return fmt.Errorf("scores of %d metrics and weights of %d, where the results have %d", len(t.Scores), len(t.Weights), len(t.Metrics))
	}
	for k := range t.Scores {
		if len(t.Scores[k]) != len(t.Docs) || t.Weights[k] != nil && len(t.Weights[k]) != len(t.Docs) {
			return errors.New("its columns have different lengths")
		}
	}
	return nil
}

// result is compact's inverse. Samples carry the task's fingerprint in the place of their
// records': tasks of one fingerprint ask the same records.
func (t *Task) result() eval.TaskResult {
	r := t.TaskResult
	r.Samples = make([]eval.Sample, len(t.Docs))
	for i, doc := range t.Docs {
		s := eval.Sample{DocID: doc, Fingerprint: t.Fingerprint}
		for k := range t.Scores {
			w := 1.0
			if t.Weights[k] != nil {
				w = t.Weights[k][i]
			}
			s.Scores, s.Weights = append(s.Scores, t.Scores[k][i]), append(s.Weights, w)
		}
		r.Samples[i] = s
	}
	return r
}

// Result is the record as eval knows results, so that eval.Compare makes tables and paired
// tests of records. Records are paired where all records that a task asked are the same.
func (r *Record) Result() *eval.Result {
	res := &eval.Result{Groups: r.Groups, Model: eval.ModelInfo{Name: r.Cell.String(), DType: r.Cell.DType}}
	if s := r.Shape; s != nil {
		res.Model.Parameters, res.Model.Bytes = s.Parameters, s.Bytes
	}
	if c := r.Conditions; c != nil {
		res.BOS, res.MaxLength = c.BOS, c.MaxLength
		res.Model.MaxLength, res.Model.Weights, res.Model.Tokenizer = c.MaxLength, c.Weights, c.Tokenizer
	}
	for i := range r.Tasks {
		res.Tasks = append(res.Tasks, r.Tasks[i].result())
	}
	return res
}

// compare makes the line of the paired tests of a cell against another one.
func compare(cell, against *Record) Comparison {
	c := eval.Compare(against.Result(), cell.Result())
	for _, row := range c.Rows {
		for i := range row.Cells {
			// A test of perplexities that overflow says nothing, and JSON cannot say it.
			if t := row.Cells[i].Test; t != nil && !finite(t.P, t.Low, t.High) {
				row.Cells[i].Test = nil
			}
		}
	}
	return Comparison{Version: LedgerVersion, Cell: cell.Cell.ID, Against: against.Cell.ID, Rows: c.Rows}
}

func finite(xs ...float64) bool {
	return !slices.ContainsFunc(xs, func(x float64) bool { return math.IsNaN(x) || math.IsInf(x, 0) })
}

// references are the records of the ledger that a cell is compared with, of the same model
// asked the same in the same precision: the dense one, and the same size made by maxabs.
func (l *Ledger) references(rec *Record) []*Record {
	c := &rec.Cell
	if c.Method == Dense || rec.Conditions == nil {
		return nil
	}
	var found []*Record
	for i := range l.Records {
		r := &l.Records[i]
		o := &r.Cell
		if r.Status != Done || o.ID == c.ID || o.Model != c.Model || o.ModelFingerprint != c.ModelFingerprint || o.DType != c.DType ||
			!maps.Equal(o.Data, c.Data) || r.Conditions == nil {
			continue
		}
		same := o.Ratio == c.Ratio && o.Width == c.Width && o.Expansion == c.Expansion && o.Align == c.Align
		if o.Method == Dense || o.Method == maxAbs && c.Method != maxAbs && same && o.Allocation == uniform {
			found = append(found, r)
		}
	}
	slices.SortFunc(found, func(a, b *Record) int { return a.Cell.Compare(&b.Cell) })
	return found
}

// Compare adds the comparisons that the ledger's finished cells lack.
func (l *Ledger) Compare() { l.Comparisons = append(l.Comparisons, l.missing()...) }

// missing lists the comparisons that the ledger's finished cells lack, in the order of its
// records.
func (l *Ledger) missing() []Comparison {
	var all []Comparison
	for i := range l.Records {
		r := &l.Records[i]
		if r.Status != Done {
			continue
		}
		for _, against := range l.references(r) {
			if l.Comparison(r.Cell.ID, against.Cell.ID) == nil {
				all = append(all, compare(r, against))
			}
		}
	}
	return all
}
