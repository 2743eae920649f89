package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/eval/tasks"
	"github.com/coppice-lm/coppice/lm"
)

// evalFlags are the flags of eval.
type evalFlags struct {
	tasks, data           []string
	dataDir, taskFile     string
	text                  string
	ctx, limit, maxLength int
	samples, dtype, bos   string
	baseline, out         string
	logSamples, logTokens bool
	force                 bool
	drift                 int
	precision             engine.Precision
	rule                  eval.BOSRule
	picked                map[string][]int
}

func (a *app) eval() *cobra.Command {
	var f evalFlags
	cmd := &cobra.Command{
		Use:   "eval MODEL --tasks A,B [--baseline MODEL2] [-o DIR]",
		Short: "Measure what a model can still do",
		Long: `Measure a model on benchmarks, with the definitions and the numbers of lm-eval 0.4.13
(zero-shot): every metric with its standard error, the level of chance, the rate of the
most frequent answer, and how often the model gave each answer. With --baseline also the
change and a paired test. Tasks: ` + strings.Join(tasks.Names(), ", ") + `.

Data is read from --data-dir (one directory a task) or --data TASK=FILE; nothing is
downloaded. With -o every finished request is kept, so that the same command goes on
where it was interrupted, and results are written in lm-eval's layout.

float32 is the mode of record. --dtype bf16 is faster; how far it drifts from float32 is
measured on a part of the requests and printed.`,
		Example: `  coppice eval smol60 --tasks arc_easy,boolq --data-dir ./data --baseline smol
  coppice eval smol60 --tasks lambada_openai --data lambada_openai=lambada_test.jsonl --limit 100 --dtype bf16
  coppice eval smol60 --text wiki.txt --ctx 512
  coppice eval smol60 --tasks musr --data-dir ./data -o results/smol60 --log-samples`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, err := range []error{f.check(cmd), f.checkOutput(args[0]), kernel.LevelError()} {
				if err != nil {
					return &usageError{err}
				}
			}
			ts, err := f.open()
			if err != nil {
				return evalError(err)
			}
			return a.evaluateAll(cmd.Context(), args[0], ts, &f)
		},
	}
	fl := cmd.Flags()
	fl.StringSliceVar(&f.tasks, "tasks", nil, "benchmarks, separated by commas")
	fl.StringVar(&f.dataDir, "data-dir", "", "directory with one sub-directory a task")
	fl.StringArrayVar(&f.data, "data", nil, "TASK=FILE: the records of one task")
	fl.StringVar(&f.taskFile, "task-file", "", "YAML file with tasks of your own")
	fl.StringVar(&f.text, "text", "", "measure the perplexity of this text file")
	fl.IntVar(&f.ctx, "ctx", 512, "tokens a window of --text")
	fl.IntVar(&f.limit, "limit", 0, "only the first records of each task (default: all)")
	fl.StringVar(&f.samples, "samples", "", `only these records, by index: '{"arc_easy":[0,5]}'`)
	fl.StringVar(&f.dtype, "dtype", "f32", "precision of the computation: f32 or bf16")
	fl.StringVar(&f.bos, "bos", string(eval.BOSTokenizer), "beginning-of-sequence token: tokenizer, none or lm-eval")
	fl.IntVar(&f.maxLength, "max-length", 0, "longest model input in tokens (default: the model's)")
	fl.StringVar(&f.baseline, "baseline", "", "also measure this model, and compare with it")
	fl.StringVarP(&f.out, "output", "o", "", "directory for results and the ledger of finished requests")
	fl.BoolVar(&f.logSamples, "log-samples", false, "write each record with its requests and answers")
	fl.BoolVar(&f.logTokens, "log-tokens", false, "write token ids too (implies --log-samples)")
	fl.BoolVar(&f.force, "force", false, "start afresh where -o holds the ledger of another run")
	fl.IntVar(&f.drift, "drift", 2048, "input tokens on which bf16 is compared with float32; 0: none")
	completeWords(cmd, "tasks", tasks.Names()...)
	completeWords(cmd, "dtype", "f32", "bf16")
	completeWords(cmd, "bos", string(eval.BOSTokenizer), string(eval.BOSNone), string(eval.BOSLMEval))
	return cmd
}

// check validates the flags without opening anything.
func (f *evalFlags) check(cmd *cobra.Command) error {
	given := cmd.Flags().Changed
	for _, name := range []string{"tasks", "data-dir", "task-file", "text", "samples", "baseline", "output"} {
		if v := cmd.Flags().Lookup(name).Value.String(); given(name) && (v == "" || v == "[]") {
			return fmt.Errorf("--%s: its value is empty", name)
		}
	}
	var err error
	if f.precision, err = engine.ParsePrecision(f.dtype); err != nil || f.precision != engine.F32 && f.precision != engine.BF16 {
		return fmt.Errorf("--dtype %q: an evaluation is in f32 or bf16", f.dtype)
	}
	if f.rule, err = eval.ParseBOSRule(f.bos); err != nil {
		return fmt.Errorf("--bos: %w", err)
	}
	if given("samples") {
		if f.picked, err = tasks.ParseSamples(f.samples); err != nil {
			return err
		}
		if len(f.picked) == 0 {
			return fmt.Errorf("--samples %s: it names no task", f.samples)
		}
	}
	switch {
	case len(f.tasks) == 0 && f.taskFile == "" && f.text == "":
		return fmt.Errorf("--tasks, --task-file or --text is needed")
	case len(f.tasks) == 0 && (f.dataDir != "" || len(f.data) > 0):
		return fmt.Errorf("--data-dir and --data need --tasks")
	case f.text != "" && f.ctx < 2:
		return fmt.Errorf("--ctx %d: expected at least 2 tokens", f.ctx)
	case f.text == "" && given("ctx"):
		return fmt.Errorf("--ctx needs --text")
	case given("limit") && f.limit < 1:
		return fmt.Errorf("--limit %d: expected at least 1 record", f.limit)
	case given("limit") && given("samples"):
		return fmt.Errorf("--limit and --samples exclude each other")
	case given("max-length") && f.maxLength < 1:
		return fmt.Errorf("--max-length %d: expected at least 1 token", f.maxLength)
	case f.drift < 0:
		return fmt.Errorf("--drift %d: expected a number of tokens", f.drift)
	case (f.logSamples || f.logTokens) && f.out == "":
		return fmt.Errorf("--log-samples and --log-tokens need -o DIR")
	case f.force && f.out == "":
		return fmt.Errorf("--force needs -o DIR")
	}
	f.logSamples = f.logSamples || f.logTokens
	return nil
}

// checkOutput refuses results in a file's place, or in a model's directory, whose extra
// files would go into all that is made from it.
func (f *evalFlags) checkOutput(model string) error {
	if f.out == "" {
		return nil
	}
	if st, err := os.Stat(f.out); err == nil && !st.IsDir() {
		return fmt.Errorf("-o %s: is a file; name a directory", f.out)
	}
	out, err := os.Stat(f.out)
	if err != nil {
		return nil // it will be made
	}
	for _, m := range []string{model, f.baseline} {
		if in, err := os.Stat(m); err == nil && os.SameFile(in, out) {
			return fmt.Errorf("-o %s: is the model itself; name another directory", f.out)
		}
	}
	return nil
}

// open reads the records of all tasks.
func (f *evalFlags) open() ([]*eval.Task, error) {
	var all []*eval.Task
	if len(f.tasks) > 0 {
		files, err := tasks.ParseFiles(f.data)
		if err != nil {
			return nil, err
		}
		if all, err = tasks.Open(f.tasks, tasks.Data{Dir: f.dataDir, Files: files}); err != nil {
			return nil, err
		}
		for name := range files {
			if !slices.ContainsFunc(all, func(t *eval.Task) bool { return t.Name == name }) {
				return nil, eval.Usagef("--data names a file for task %s, which --tasks does not", name)
			}
		}
	}
	if f.taskFile != "" {
		own, err := tasks.LoadFile(f.taskFile)
		if err != nil {
			return nil, err
		}
		all = append(all, own...)
	}
	if f.text != "" {
		t, err := tasks.TextTask(f.text, f.ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, nil
}

// evaluateAll measures the baseline, if there is one, and the model, and compares them.
func (a *app) evaluateAll(ctx context.Context, path string, ts []*eval.Task, f *evalFlags) error {
	type model struct{ path, dir string }
	models := []model{{path, f.out}}
	if f.baseline != "" {
		if err := lm.Check(path); err != nil { // before the baseline takes its time
			return evalError(err)
		}
		dir := ""
		if f.out != "" {
			dir = filepath.Join(f.out, "baseline")
		}
		models = append([]model{{f.baseline, dir}}, models...)
	}
	var results []*eval.Result
	var drifts []string
	for _, m := range models {
		r, drift, err := a.evaluate(ctx, m.path, m.dir, ts, f)
		if err != nil {
			return keptIn(m.dir, evalError(err))
		}
		results = append(results, r)
		if drift != "" {
			drifts = append(drifts, drift)
		}
	}
	c := eval.Compare(results...)
	c.Notes = append(c.Notes, drifts...)
	return a.printComparison(c, "")
}

// evaluate measures one model and writes what was found. The second result says how far
// bf16 drifted, where that was measured.
func (a *app) evaluate(ctx context.Context, path, dir string, ts []*eval.Task, f *evalFlags) (*eval.Result, string, error) {
	resetPeakMemory()
	m, err := lm.Open(ctx, path, lm.Options{Precision: f.precision, Threads: a.threads, Identify: true})
	if err != nil {
		return nil, "", err
	}
	a.notes(m.Notes())
	bar := a.requestProgress(filepath.Base(path))
	r, err := eval.Run(ctx, m, ts, eval.Options{
		BOS: f.rule, MaxLength: f.maxLength, Limit: f.limit, Samples: f.picked, Dir: dir, Force: f.force,
		Progress: bar.requests, Warn: a.note,
	})
	bar.finish()
	if err != nil {
		return nil, "", err
	}
	r.Usage.PeakMemory = peakMemory()
	if dir != "" {
		paths, err := eval.Write(dir, r, eval.WriteOptions{Time: time.Now(), Samples: f.logSamples, Tokens: f.logTokens, Program: "coppice " + release})
		if err != nil {
			return nil, "", err
		}
		if !a.quiet {
			fmt.Fprintf(a.stderr, "results: %s\n", paths[len(paths)-1])
		}
	}
	if f.precision != engine.BF16 || f.drift == 0 || a.quiet && !a.json {
		return r, "", nil
	}
	m = nil // its weights can go before those of the other precision come
	drift, err := a.measureDrift(ctx, path, r, f.drift)
	return r, drift, err
}

// evalError sorts what went wrong in an evaluation: an output that cannot be written
// failed; what is left is the input's fault.
func evalError(err error) error {
	if errors.As(err, new(*eval.UsageError)) {
		return &usageError{err}
	}
	return badInput(err)
}

// keptIn says of an interruption what becomes of the requests that were finished.
func keptIn(dir string, err error) error {
	if !errors.Is(err, context.Canceled) {
		return err
	}
	if dir == "" {
		return &interruptedError{err, "nothing was kept; with -o DIR the same command goes on where it was"}
	}
	return &interruptedError{err, fmt.Sprintf("what was finished is kept in %s; the same command goes on from there", filepath.Join(dir, eval.LedgerName))}
}
