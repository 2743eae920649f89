package study

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coppice-lm/coppice/energy"
	"github.com/coppice-lm/coppice/eval"
)

// job is a cell being measured.
type job struct {
	*run
	cell  *gridCell
	rec   Record
	held  *os.File // the cell's lock
	log   io.Writer
	shown map[string]string // how paths stand in Record.Commands
}

// cellError is what makes a cell fail, and only that.
type cellError struct{ error }

func (e *cellError) Unwrap() error { return e.error }

func cellErrorf(format string, args ...any) error { return &cellError{fmt.Errorf(format, args...)} }

// measure carries a cell out. Its error is ctx's, or that of a disk: a cell that fails is a
// record that says so.
func (r *run) measure(ctx context.Context, c *gridCell, held *os.File) (*Record, error) {
	dir := r.cellDir(c)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, writeError(err)
	}
	log, err := os.OpenFile(filepath.Join(dir, "log.txt"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return nil, writeError(err)
	}
	defer log.Close()
	j := &job{run: r, cell: c, held: held, log: log, shown: map[string]string{}}
	if r.Log != nil {
		j.log = io.MultiWriter(log, r.Log)
	}
	start := time.Now()
	j.rec = Record{
		Version: LedgerVersion, Cell: c.Cell, Status: Done,
		Run: &Run{Started: start.UTC().Format(time.RFC3339), Coppice: r.Program, Host: r.Host},
	}
	j.rec.Run.Host.Threads = r.Threads
	err = j.steps(ctx)
	j.rec.Run.Seconds = time.Since(start).Seconds()
	var failed *cellError
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.As(err, &failed):
		return &Record{Version: LedgerVersion, Cell: c.Cell, Status: Failed, Error: failed.Error(), Run: j.rec.Run}, nil
	case err != nil:
		return nil, err
	}
	return &j.rec, nil
}

// steps are a cell from the first command to the last.
func (j *job) steps(ctx context.Context) error {
	model, err := j.makeVariant(ctx)
	if err != nil {
		return err
	}
	path, dense := j.variant(j.cell), &j.cell.model.spec
	if j.cell.Method == Dense {
		path, dense = j.modelPath(j.cell.model.Model), nil
	}
	if j.rec.Shape, err = ShapeOf(path, dense); err != nil {
		return &cellError{err}
	}
	if err := j.evaluate(ctx, model); err != nil {
		return err
	}
	return j.measureSpeed(ctx, model)
}

// path is a path under the study's directory as commands, which run there, are given it.
// shown is its name in the record, which knows no machine.
func (j *job) path(path, shown string) string {
	if rel, err := filepath.Rel(j.Dir(), path); err == nil && filepath.IsLocal(rel) {
		path = rel
	} else if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	j.shown[path] = shown
	return path
}

// command notes a command in the record and, unless it is done already, carries it out.
// also are locks it needs beside the cell's.
func (j *job) command(ctx context.Context, done bool, also *os.File, args ...string) (Outcome, error) {
	words := slices.Clone(args)
	for i, w := range words {
		if s, ok := j.shown[w]; ok {
			words[i] = s
		}
	}
	line := shellLine(words)
	j.rec.Commands = append(j.rec.Commands, line)
	if done {
		return Outcome{}, nil
	}
	if err := ctx.Err(); err != nil {
		return Outcome{}, err
	}
	hold := []*os.File{j.held}
	if also != nil {
		hold = append(hold, also)
	}
	if j.Threads > 0 {
		args = append(args, "--threads", strconv.Itoa(j.Threads))
	}
	fmt.Fprintf(j.log, "%s\n", line)
	out, err := j.Runner(ctx, Command{Args: args, Dir: j.Dir(), Log: j.log, Hold: hold})
	j.rec.Run.Steps = append(j.rec.Run.Steps, Step{line, out.Seconds, out.Peak})
	var failed *CommandError
	switch {
	case ctx.Err() != nil:
		return out, ctx.Err()
	case errors.As(err, &failed) && failed.Code == exitInterrupted:
		return out, context.Canceled // a terminal's Ctrl-C goes to commands too
	case err != nil:
		return out, &cellError{fmt.Errorf("%s: %w", args[0], j.named(err))}
	}
	return out, nil
}

// named is a command's error with paths as they stand in the record.
func (j *job) named(err error) error {
	var failed *CommandError
	if !errors.As(err, &failed) {
		return err
	}
	var pairs []string
	paths := slices.SortedFunc(maps.Keys(j.shown), func(a, b string) int { return len(b) - len(a) })
	for _, path := range paths {
		if strings.ContainsRune(path, filepath.Separator) { // a bare word may stand for something else
			pairs = append(pairs, path, j.shown[path])
		}
	}
	return &CommandError{failed.Code, strings.NewReplacer(pairs...).Replace(failed.Message)}
}

// evaluate puts the tasks and texts to a model.
func (j *job) evaluate(ctx context.Context, model string) error {
	var span *energy.Span
	if j.meter != nil {
		span = j.meter.Start()
	}
	tokens := int64(0)
	for i, ask := range j.asks() {
		args := []string{"eval", model}
		if len(ask.tasks) > 0 {
			args = append(args, "--tasks", strings.Join(ask.tasks, ","), "--data-dir", j.path(j.abs(j.Data), "data"))
		}
		text := ""
		if ask.text != "" {
			text = filepath.Base(ask.text)
			args = append(args, "--text", j.path(j.abs(ask.text), text), "--ctx", strconv.Itoa(j.Text.Ctx))
		}
		if ask.limit > 0 {
			args = append(args, "--limit", strconv.Itoa(ask.limit))
		}
		name := "results"
		if i > 0 {
			name = fmt.Sprintf("results-%d", i+1)
		}
		dir := filepath.Join(j.cellDir(j.cell), name)
		args = append(args, "--dtype", j.cell.DType, "-o", j.path(dir, name))
		if j.cell.DType != "f32" {
			args = append(args, "--drift", "0") // the f32 cells say how far it drifts
		}
		res, err := j.evaluation(ctx, dir, text, args)
		if err != nil {
			return err
		}
		tokens += res.Usage.Tokens
	}
	if span != nil {
		e := span.Stop()
		e.Tokens = tokens
		j.rec.Run.Energy = &e
	}
	return nil
}

// ask is one evaluation: tasks with one limit, and perhaps a text.
type ask struct {
	tasks []string
	text  string
	limit int
}

// asks are the evaluations that measure all tasks and texts: as few as eval can do, which
// takes one limit and one text.
func (s *Study) asks() []ask {
	var all []ask
	for _, t := range s.Tasks {
		limit := s.limitOf(t)
		i := slices.IndexFunc(all, func(a ask) bool { return a.limit == limit })
		if i < 0 {
			i, all = len(all), append(all, ask{limit: limit})
		}
		all[i].tasks = append(all[i].tasks, t)
	}
	if s.Text == nil {
		return all
	}
	for _, text := range s.Text.Files {
		i := slices.IndexFunc(all, func(a ask) bool { return a.limit == s.Limit && a.text == "" })
		if i < 0 {
			i, all = len(all), append(all, ask{limit: s.Limit})
		}
		all[i].text = text
	}
	return all
}

// evaluation runs one evaluation and takes over what it wrote into dir. Results of a text
// get its name.
func (j *job) evaluation(ctx context.Context, dir, text string, args []string) (*eval.Result, error) {
	_, err := j.command(ctx, false, nil, args...)
	var failed *CommandError
	if errors.As(err, &failed) && failed.Code == exitUsage {
		return nil, cellErrorf("%w; to measure the cell afresh, remove %s", err, dir)
	} else if err != nil {
		return nil, err
	}
	res, err := eval.Load(dir)
	if err != nil {
		return nil, &cellError{err}
	}
	j.rec.Run.PeakMemory = max(j.rec.Run.PeakMemory, res.Usage.PeakMemory)
	for i := range res.Tasks {
		t := &res.Tasks[i]
		if t.Kind == eval.Text && t.Name == textName {
			t.Name = text
			if !strings.HasPrefix(t.Fingerprint, j.inputs.texts[text]+"-") { // the number of windows follows
				return nil, cellErrorf("the text %s changed while the study ran; run it again", text)
			}
		} else if want := j.cell.Data[t.Name]; t.Fingerprint != want {
			return nil, cellErrorf("the records of task %s changed while the study ran; run it again", t.Name)
		}
	}
	j.rec.AddResult(res)
	return res, nil
}

// measureSpeed takes over what `coppice speed` finds, where the study wants it.
func (j *job) measureSpeed(ctx context.Context, model string) error {
	p := j.Speed
	if p == nil {
		return nil
	}
	args := []string{
		"speed", model, "--prompt", list(p.Prompts), "--decode", strconv.Itoa(p.Decode), "--batch", list(p.Batch),
		"--repeat", strconv.Itoa(p.Repeat), "--dtype", j.cell.DType, "--json",
	}
	if e := j.Energy; e != nil && e.TDP > 0 {
		args = append(args, "--tdp", formatFloat(e.TDP))
	}
	if e := j.Energy; e != nil && e.Grid != nil {
		args = append(args, "--grid", formatFloat(*e.Grid))
	}
	out, err := j.command(ctx, false, nil, args...)
	if err != nil {
		return err
	}
	var found struct {
		LoadSeconds float64 `json:"load_seconds"`
		PeakMemory  int64   `json:"peak_memory_bytes"`
		Speed       []Speed `json:"speed"`
	}
	if err := json.NewDecoder(bytes.NewReader(out.Stdout)).Decode(&found); err != nil {
		return cellErrorf("speed: what it printed cannot be read: %w", err)
	}
	j.rec.Run.PeakMemory = max(j.rec.Run.PeakMemory, found.PeakMemory)
	j.rec.Run.LoadSeconds, j.rec.Run.Speed = found.LoadSeconds, found.Speed
	return nil
}

func list(numbers []int) string {
	var b []byte
	for i, n := range numbers {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(n), 10)
	}
	return string(b)
}

func formatFloat(x float64) string { return strconv.FormatFloat(x, 'g', -1, 64) }
