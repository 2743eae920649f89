package study

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/coppice-lm/coppice/energy"
	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/internal/filelock"
)

// Options say how a study is run. Runner and Note must be given.
type Options struct {
	Runner  Runner
	Ledger  string // file; "" means Study.LedgerPath
	Keep    bool   // leave pruned models in the scratch directory
	Threads int    // of every command; 0: as the study file says, or else as the command likes
	Program string // name and version, for the record
	Host    Host
	Note    func(string) // is told what the user should know, a line each
	Log     io.Writer    // what commands say of their progress; nil: nowhere but in the cell's log
	// Meter opens the meter that evaluations are measured with; nil: none. It is called if
	// there is something to measure.
	Meter func(context.Context) (*energy.Meter, error)
	// Free returns the free bytes of the disk that a directory is, or will be, on; nil means
	// FreeSpace.
	Free func(dir string) (int64, error)
}

// Summary is how a run of a study ended.
type Summary struct {
	Ledger   string        `json:"ledger"`
	Cells    int           `json:"cells"`
	Finished int           `json:"finished_before"` // cells that needed nothing
	Measured int           `json:"measured"`        // by this run
	Failed   []CellFailure `json:"failed"`
}

// CellFailure is a cell that could not be measured.
type CellFailure struct {
	ID    string `json:"id"`
	Cell  string `json:"cell"`
	Error string `json:"error"`
}

// UnknownCellError says that a study has no cell of an ID.
type UnknownCellError struct{ File, ID string }

func (e *UnknownCellError) Error() string {
	return fmt.Sprintf("%s has no cell %s; `coppice study cells %s` lists its cells", e.File, e.ID, e.File)
}

// run is a study being run.
type run struct {
	*grid
	Options
	store  *store
	meter  *energy.Meter // nil: none
	sum    Summary
	failed map[string]error // shared work that failed in this run, by file
}

func newRun(s *Study, o Options) (*run, error) {
	g, err := newGrid(s)
	if err != nil {
		return nil, err
	}
	if o.Ledger == "" {
		o.Ledger = s.LedgerPath()
	}
	if o.Free == nil {
		o.Free = FreeSpace
	}
	if o.Threads == 0 {
		o.Threads = s.Threads
	}
	return &run{
		grid: g, Options: o, store: &store{o.Ledger, s.Name, o.Note}, failed: map[string]error{},
		sum: Summary{Ledger: o.Ledger, Failed: []CellFailure{}},
	}, nil
}

// Measure measures all cells of a study that the ledger does not hold finished. A cell that
// fails is recorded as failed and the others go on. Cells that another run is measuring are
// left to it and waited for at the end. When ctx ends Measure returns its error; the same call
// then goes on from there.
func Measure(ctx context.Context, s *Study, o Options) (*Summary, error) {
	r, err := newRun(s, o)
	if err != nil {
		return nil, err
	}
	cells := make([]*gridCell, len(r.cells))
	for i := range cells {
		cells[i] = &r.cells[i]
	}
	return r.all(ctx, cells)
}

// MeasureCell measures one cell of a study, which a ledger may hold finished already. Where
// another run is measuring it MeasureCell waits and then takes its result for its own.
func MeasureCell(ctx context.Context, s *Study, id string, o Options) (*Summary, error) {
	r, err := newRun(s, o)
	if err != nil {
		return nil, err
	}
	c := r.find(id)
	if c == nil {
		return nil, &UnknownCellError{s.path, id}
	}
	return r.all(ctx, []*gridCell{c})
}

// all measures cells in their order.
func (r *run) all(ctx context.Context, cells []*gridCell) (*Summary, error) {
	r.sum.Cells = len(cells)
	ledger, err := r.store.read()
	if err != nil {
		return nil, err
	}
	// What is left over of a run that was killed between a record and what follows it.
	if len(ledger.Records) > 0 {
		if err := r.store.update(ctx, func(l *Ledger) []any { return lines(l.missing()) }); err != nil {
			return nil, err
		}
	}
	var pending []*gridCell
	for _, c := range cells {
		if rec := ledger.Record(c.ID); rec != nil && rec.Status == Done {
			if rec.Cell.Model != c.Model {
				return nil, fmt.Errorf("%s: the model %q has cells in %s under the name %q, and only cells of one name are compared: give the model that name, or name another ledger with --ledger", r.path, c.Model, r.store.path, rec.Cell.Model)
			}
			r.sum.Finished++
			r.cleanFinished(c)
		} else {
			pending = append(pending, c)
		}
	}
	if err := r.checkSpace(pending, ledger); err != nil {
		return nil, err
	}
	for _, dir := range []string{filepath.Join(r.StateDir(), "cells"), filepath.Join(r.StateDir(), "shared"), r.ScratchDir()} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return nil, writeError(err)
		}
	}
	if r.Meter != nil && len(pending) > 0 {
		if r.meter, err = r.Meter(ctx); err != nil {
			return nil, err
		}
		defer r.meter.Close()
	}
	var held []*gridCell
	for i, c := range pending {
		f, err := tryLock(r.lockPath(c))
		if errors.Is(err, filelock.ErrHeld) {
			held = append(held, c)
			continue
		} else if err != nil {
			return nil, writeError(err)
		}
		if err := r.locked(ctx, c, f, fmt.Sprintf("[%d/%d] ", i+1, len(pending))); err != nil {
			return &r.sum, err
		}
	}
	for _, c := range held {
		f, err := lock(ctx, r.lockPath(c), func(holder string) {
			r.Note(fmt.Sprintf("cell %s (%v) is being measured by %s; waiting for it", c.ID, c, holder))
		})
		if err != nil {
			return &r.sum, err
		}
		if err := r.locked(ctx, c, f, ""); err != nil {
			return &r.sum, err
		}
	}
	return &r.sum, nil
}

func lines[T any](all []T) []any {
	out := make([]any, len(all))
	for i, v := range all {
		out[i] = v
	}
	return out
}

func (r *run) cellDir(c *gridCell) string  { return filepath.Join(r.StateDir(), "cells", c.ID) }
func (r *run) lockPath(c *gridCell) string { return r.cellDir(c) + ".lock" }

// variant is where the cell's pruned model is made, in a directory that goes with it.
func (r *run) variant(c *gridCell) string {
	return filepath.Join(r.scratch(c), eval.SanitizeName(c.variantName()))
}

func (r *run) scratch(c *gridCell) string { return filepath.Join(r.ScratchDir(), c.ID) }

// locked measures a cell whose lock is held, unless another run has done so meanwhile, and
// keeps its record.
func (r *run) locked(ctx context.Context, c *gridCell, held *os.File, prefix string) error {
	defer filelock.Release(held)
	ledger, err := r.store.read()
	if err != nil {
		return err
	}
	if rec := ledger.Record(c.ID); rec != nil && rec.Status == Done {
		r.sum.Finished++
		r.clean(c)
		return nil
	}
	r.Note(fmt.Sprintf("%scell %s: %v", prefix, c.ID, c))
	rec, err := r.measure(ctx, c, held)
	if err != nil {
		return err // ctx ended, or nothing can be written
	}
	if err := r.store.update(ctx, func(l *Ledger) []any {
		if old := l.Record(c.ID); old != nil && (old.Status == Done || rec.Status == Failed && old.Error == rec.Error) {
			return nil // nothing new
		}
		l.addRecord(*rec)
		return append([]any{rec}, lines(l.missing())...)
	}); err != nil {
		return err
	}
	if rec.Status == Failed {
		r.sum.Failed = append(r.sum.Failed, CellFailure{c.ID, c.String(), rec.Error})
		r.Note(fmt.Sprintf("cell %s failed: %s", c.ID, rec.Error))
	} else {
		r.sum.Measured++
	}
	r.clean(c)
	return nil
}

// keptName is a file beside a pruned model that a run was asked to keep, so that no later
// run takes it for one that a killed run left.
const keptName = ".kept"

// cleanFinished cleans up after a cell that was finished before, unless a run with another
// ledger is at work on it.
func (r *run) cleanFinished(c *gridCell) {
	if !exists(r.scratch(c)) {
		return
	}
	held, err := tryLock(r.lockPath(c))
	if err != nil {
		return
	}
	defer filelock.Release(held)
	r.clean(c)
}

// clean removes the pruned model of a cell that is over, unless it is to be kept.
func (r *run) clean(c *gridCell) {
	kept := filepath.Join(r.scratch(c), keptName)
	if c.Method == Dense || exists(kept) {
		return
	}
	if r.Keep {
		if exists(r.variant(c)) {
			if err := os.WriteFile(kept, nil, 0o666); err != nil {
				r.Note(err.Error())
			}
		}
		return
	}
	if err := os.RemoveAll(r.scratch(c)); err != nil {
		r.Note(err.Error())
	}
}
