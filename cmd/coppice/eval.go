package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/engine"
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
			if err := f.check(); err != nil {
				return &usageError{err}
			}
			ts, err := f.open()
			if err != nil {
				return evalError(err)
			}
			var results []*eval.Result
			models := []struct{ path, dir string }{{args[0], f.out}}
			if f.baseline != "" {
				dir := ""
				if f.out != "" {
					dir = filepath.Join(f.out, "baseline")
				}
				models = append([]struct{ path, dir string }{{f.baseline, dir}}, models...)
			}
			for _, m := range models {
				r, err := a.evaluate(cmd.Context(), m.path, m.dir, ts, &f)
				if err != nil {
					return evalError(err)
				}
				results = append(results, r)
			}
			return a.printComparison(eval.Compare(results...), "")
		},
	}
	fl := cmd.Flags()
	fl.StringSliceVar(&f.tasks, "tasks", nil, "benchmarks, separated by commas")
	fl.StringVar(&f.dataDir, "data-dir", "", "directory with one sub-directory a task")
	fl.StringArrayVar(&f.data, "data", nil, "TASK=FILE: the records of one task")
	fl.StringVar(&f.taskFile, "task-file", "", "YAML file with tasks of your own")
	fl.StringVar(&f.text, "text", "", "measure the perplexity of this text file")
	fl.IntVar(&f.ctx, "ctx", 512, "tokens a window of --text")
	fl.IntVar(&f.limit, "limit", 0, "only the first records of each task")
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
	return cmd
}

// check validates the flags without opening anything.
func (f *evalFlags) check() error {
	var err error
	if f.precision, err = engine.ParsePrecision(f.dtype); err != nil {
		return fmt.Errorf("--dtype: %w", err)
	}
	if f.rule, err = eval.ParseBOSRule(f.bos); err != nil {
		return fmt.Errorf("--bos: %w", err)
	}
	if f.samples != "" {
		if f.picked, err = tasks.ParseSamples(f.samples); err != nil {
			return fmt.Errorf("--samples: %w", err)
		}
	}
	switch {
	case len(f.tasks) == 0 && f.taskFile == "" && f.text == "":
		return fmt.Errorf("--tasks, --task-file or --text is needed")
	case f.text != "" && f.ctx < 2:
		return fmt.Errorf("--ctx %d: expected at least 2 tokens", f.ctx)
	case f.limit < 0:
		return fmt.Errorf("--limit %d: expected a number of records", f.limit)
	case f.maxLength < 0:
		return fmt.Errorf("--max-length %d: expected a number of tokens", f.maxLength)
	case (f.logSamples || f.logTokens) && f.out == "":
		return fmt.Errorf("--log-samples and --log-tokens need -o DIR")
	}
	f.logSamples = f.logSamples || f.logTokens
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

// evaluate measures one model and writes what was found.
func (a *app) evaluate(ctx context.Context, path, dir string, ts []*eval.Task, f *evalFlags) (*eval.Result, error) {
	m, err := lm.Open(ctx, path, lm.Options{Precision: f.precision, Threads: a.threads})
	if err != nil {
		return nil, err
	}
	bar := a.requestProgress(filepath.Base(path))
	r, err := eval.Run(ctx, m, ts, eval.Options{
		BOS: f.rule, MaxLength: f.maxLength, Limit: f.limit, Samples: f.picked, Dir: dir, Force: f.force,
		Progress: bar.show, Warn: a.warn,
	})
	bar.finish()
	if err != nil {
		return nil, err
	}
	r.Usage.PeakMemory = peakMemory()
	if dir != "" {
		paths, err := eval.Write(dir, r, eval.WriteOptions{Time: time.Now(), Samples: f.logSamples, Tokens: f.logTokens, Program: "coppice " + release})
		if err != nil {
			return nil, err
		}
		if !a.quiet {
			fmt.Fprintf(a.stderr, "results: %s\n", paths[len(paths)-1])
		}
	}
	if f.precision == engine.BF16 && f.drift > 0 {
		m = nil // its weights can go before those of the other precision come
		if err := a.measureDrift(ctx, path, r, f.drift); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (a *app) warn(message string) {
	if !a.quiet {
		fmt.Fprintf(a.stderr, "note: %s\n", message)
	}
}

// evalError sorts what went wrong in an evaluation: an output that cannot be written
// failed; what is left is the input's fault.
func evalError(err error) error {
	if errors.As(err, new(*eval.UsageError)) {
		return &usageError{err}
	}
	var p *fs.PathError
	if errors.As(err, &p) && (p.Op == "write" || p.Op == "mkdir" || p.Op == "sync") || errors.Is(err, syscall.ENOSPC) {
		return err
	}
	return badInput(err)
}

func (a *app) compare() *cobra.Command {
	var markdown bool
	cmd := &cobra.Command{
		Use:   "compare RESULT RESULT...",
		Short: "Set saved results beside each other",
		Long: `Make the table of eval again from saved results: directories that eval -o wrote, or
results files. The first is the baseline of the others.`,
		Example: "  coppice compare results/smol results/smol60\n  coppice compare results/smol results/smol20 results/smol60 --markdown",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var results []*eval.Result
			for _, path := range args {
				r, err := eval.Load(path)
				if err != nil {
					return badInput(err)
				}
				results = append(results, r)
			}
			format := ""
			if markdown {
				format = "markdown"
			}
			return a.printComparison(eval.Compare(results...), format)
		},
	}
	cmd.Flags().BoolVar(&markdown, "markdown", false, "print Markdown")
	return cmd
}

// printComparison prints a comparison in the asked form.
func (a *app) printComparison(c *eval.Comparison, format string) error {
	switch {
	case a.json:
		b, err := c.JSON()
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.stdout, "%s\n", strings.TrimRight(string(b), "\n"))
		return err
	case a.quiet:
		return nil
	case format == "markdown":
		_, err := fmt.Fprint(a.stdout, c.Markdown())
		return err
	}
	_, err := fmt.Fprint(a.stdout, c.Text())
	return err
}

// peakMemory is the most memory that this process held, in bytes; 0 where the system
// does not say.
func peakMemory() int64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}
