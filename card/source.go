package card

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/study"
)

// measured is what is known of the pruned model and of the dense one.
type measured struct {
	pruned, dense *eval.Result  // dense is nil where it was not measured
	record        *study.Record // of the pruned model, where it comes out of a study
	denseRecord   *study.Record
	limits        map[string]int // --limit of each task; 0: none
	notes         []string
}

// fromResults reads outputs of coppice eval, several a model where its tasks were
// evaluated one after another. weights is the digest of the model that they must be of.
func fromResults(pruned, dense []string, weights, dir string) (*measured, error) {
	m := measured{limits: map[string]int{}}
	var err error
	if m.pruned, err = load(pruned, m.limits); err != nil {
		return nil, err
	}
	if m.pruned.Model.Weights != weights {
		return nil, &ForeignError{pruned[0], m.pruned.Model.Name, m.pruned.Model.Weights, dir, weights}
	}
	if len(dense) > 0 {
		if m.dense, err = load(dense, nil); err != nil {
			return nil, err
		}
		if m.dense.Model.Weights == weights {
			return nil, fmt.Errorf("%s: these results are of the pruned model itself (%s), not of the dense one", dense[0], weights)
		}
	}
	return &m, nil
}

// ForeignError says that results are of other weights than the model's.
type ForeignError struct {
	Source, Name, Weights string // the results, and the model that they are of
	Dir, Want             string // the model of the card
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("%s: these results are of another model (%s, weights %s) than %s (weights %s); measure this one with `coppice eval %s -o RESULTS`",
		e.Source, e.Name, e.Weights, e.Dir, e.Want, e.Dir)
}

// load reads results of one model and joins them. It fills in the limit of each task, if
// it is asked to.
func load(paths []string, limits map[string]int) (*eval.Result, error) {
	var all *eval.Result
	seen := map[string]string{}
	for _, path := range paths {
		r, err := eval.Load(path)
		if err != nil {
			return nil, err
		}
		for i := range r.Tasks {
			name := r.Tasks[i].Name
			if other, ok := seen[name]; ok {
				return nil, fmt.Errorf("%s and %s both hold results of %s; name one of them", other, path, name)
			}
			seen[name] = path
			if limits != nil {
				limits[name] = r.Limit
			}
		}
		if all == nil {
			all = r
			continue
		}
		if err := unlike(all, r); err != nil {
			return nil, fmt.Errorf("%s and %s do not go into one table: %w", paths[0], path, err)
		}
		all.Tasks = append(all.Tasks, r.Tasks...)
		all.Groups = append(all.Groups, r.Groups...)
		u := &all.Usage
		u.Seconds += r.Usage.Seconds
		u.Tokens += r.Usage.Tokens
		u.Requests += r.Usage.Requests
		u.PeakMemory = max(u.PeakMemory, r.Usage.PeakMemory)
	}
	return all, nil
}

// unlike says why two results of a model cannot stand in one column.
func unlike(a, b *eval.Result) error {
	for _, c := range []struct{ what, a, b string }{
		{"weights", a.Model.Weights, b.Model.Weights},
		{"precision", a.Model.DType, b.Model.DType},
		{"--bos", string(a.BOS), string(b.BOS)},
		{"maximum length", fmt.Sprint(a.MaxLength), fmt.Sprint(b.MaxLength)},
	} {
		if c.a != c.b {
			return fmt.Errorf("their %s differs (%s and %s)", c.what, c.a, c.b)
		}
	}
	return nil
}

// fromLedger finds the record of the model in a study's ledger, by the weights that were
// evaluated, or the record of a cell that the user names, and the dense one beside it.
func fromLedger(path, cell, weights, dir string) (*measured, error) {
	l, err := study.ReadLedger(path)
	if err != nil {
		return nil, err
	}
	m := &measured{notes: l.Notes}
	if m.record, err = find(l, path, cell, weights, dir, m); err != nil {
		return nil, err
	}
	m.pruned = m.record.Result()
	m.limits = map[string]int{}
	for i := range m.pruned.Tasks {
		m.limits[m.pruned.Tasks[i].Name] = m.pruned.Limit
	}
	c := &m.record.Cell
	for i := range l.Records {
		r := &l.Records[i]
		if r.Status == study.Done && r.Cell.Method == study.Dense && r.Cell.Model == c.Model &&
			r.Cell.ModelFingerprint == c.ModelFingerprint && r.Cell.DType == c.DType && r.Conditions != nil &&
			maps.Equal(r.Cell.Data, c.Data) { // a study that was extended has one for each choice of records
			m.denseRecord, m.dense = r, r.Result()
		}
	}
	return m, nil
}

func find(l *study.Ledger, path, cell, weights, dir string, m *measured) (*study.Record, error) {
	if cell != "" {
		r := l.Record(cell)
		switch {
		case r == nil:
			return nil, fmt.Errorf("%s: there is no cell %s", path, cell)
		case r.Status != study.Done || r.Conditions == nil:
			return nil, fmt.Errorf("%s: cell %s was not measured; run the study again", path, cell)
		case r.Conditions.Weights != weights:
			return nil, &ForeignError{path + ", cell " + cell, r.Cell.String(), r.Conditions.Weights, dir, weights}
		}
		return r, nil
	}
	var found []*study.Record
	for i := range l.Records {
		if r := &l.Records[i]; r.Status == study.Done && r.Conditions != nil && r.Conditions.Weights == weights {
			found = append(found, r)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: none of its %d records is of the weights of %s (%s); make the checkpoint by the commands of a record, or name results with --results", path, len(l.Records), dir, weights)
	}
	slices.SortFunc(found, func(a, b *study.Record) int { return a.Cell.Compare(&b.Cell) }) // float32 first
	for _, r := range found[1:] {
		m.notes = append(m.notes, fmt.Sprintf("%s: cell %s (%s) is of these weights too; --cell chooses it", path, r.Cell.ID, &r.Cell))
	}
	return found[0], nil
}

var errNoRecords = errors.New("a card needs what was measured: --results DIR, which `coppice eval -o DIR` wrote, or --ledger FILE of a study")
