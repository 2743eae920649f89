package main

import (
	"cmp"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/eval/tasks"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/report"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/study"
)

// demoFiles are a small Llama, a part of the text that it was trained on, and a text of
// books that it has not seen. docs/tiny-model.md says how they were made.
//
//go:embed demo/tiny.gguf demo/calib.txt demo/heldout.txt
var demoFiles embed.FS

const (
	demoModel, demoCalib, demoText = "tiny.gguf", "calib.txt", "heldout.txt"
	demoContext                    = 256   // tokens of a row of calibration text, of a window of perplexity, of the model
	demoTokens                     = 32768 // of calibration
	demoPrompt                     = "Once upon a time there lived a king"
)

// demoStory is how all stories are told, so that they differ by the model alone.
var demoStory = lm.GenerateOptions{Sampling: lm.Sampling{Temperature: 0.7, TopP: 0.9, Seed: 5}, MaxTokens: 80}

// The demo's cells: each ratio by each method.
var (
	demoRatios  = []float64{0.2, 0.4, 0.6}
	demoMethods = []string{string(score.MaxAbs), best}
)

func (a *app) demo() *cobra.Command {
	d := demo{app: a}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Prune a small model, measure it and let it tell a story, with nothing but this program",
		Long: `Take a small Llama that the program carries, remove 20, 40 and 60 % of its neurons by
their weights alone (maxabs) and by what they do on a text (best), and show what each
does to perplexity on books that the model has not seen, and to a story that it tells. A
small report is written beside it, as of a study.

With --model the same is done with a model of yours, which may have seen the books. It
takes a pass over the texts for each row, and room in the temporary directory (or --keep)
for one pruned copy at a time and for the statistics.`,
		Example: "  coppice demo\n  coppice demo --json\n  coppice demo --keep tiny\n  coppice demo --model SmolLM2-135M-Instruct.Q4_1.gguf",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if d.model == "" {
				collectGarbage(400) // a small heap, for which the process's rate is two fifths of the demo's time
			}
			r, err := d.run(cmd)
			if err != nil {
				return d.failed(err)
			}
			page := ""
			if d.keep != "" || !a.json && !a.quiet {
				page, err = d.report() // without a page, too, there is something to show
			}
			if a.json || a.quiet {
				return errors.Join(a.result(r), err) // which prints nothing for a quiet one
			}
			return errors.Join(d.show(r, page), err)
		},
	}
	cmd.Flags().StringVar(&d.model, "model", "", "a model directory or .gguf file to use instead of the small one")
	cmd.Flags().StringVar(&d.keep, "keep", "", "a new directory in which everything that is made stays")
	return cmd
}

// demo is one run of the verb.
type demo struct {
	*app
	model, keep string // flags

	dir        string           // where things are made
	dense      arch.Spec        // the model's shape as it came
	parameters map[string]int64 // by ratio; "" is the dense model's
	ledger     study.Ledger     // what was measured, as a study has it
}

// demoResult is what the demo finds, by ratio where a model was pruned.
type demoResult struct {
	Dense   perplexity            `json:"dense"`
	MaxAbs  map[string]perplexity `json:"maxabs"`
	Best    map[string]perplexity `json:"best"`
	Stories demoStories           `json:"stories"` // prompt and continuation
}

type demoStories struct {
	Dense  string            `json:"dense"`
	MaxAbs map[string]string `json:"maxabs"`
	Best   map[string]string `json:"best"`
}

// perplexity is one of a token; null in JSON where it is no number.
type perplexity float64

func (p perplexity) MarshalJSON() ([]byte, error) {
	if math.IsNaN(float64(p)) || math.IsInf(float64(p), 0) {
		return []byte("null"), nil
	}
	return json.Marshal(float64(p))
}

// run makes and measures every model. Of the pruned ones there is one at a time on disk,
// unless they are to be kept.
func (d *demo) run(cmd *cobra.Command) (*demoResult, error) {
	if d.model != "" {
		if err := lm.Check(d.model); err != nil { // before anything is made
			return nil, badInput(err)
		}
	}
	err := d.makeDir()
	if d.keep == "" && d.dir != "" {
		defer os.RemoveAll(d.dir)
	}
	if err != nil {
		return nil, err
	}
	model := d.model
	if model == "" {
		// As a directory, of the types that pruned ones have: then sizes can be compared.
		model = filepath.Join(d.dir, "tiny")
		if err := d.sub(cmd, "import", filepath.Join(d.dir, demoModel), "-o", model); err != nil {
			return nil, err
		}
	}
	r := &demoResult{
		MaxAbs: map[string]perplexity{}, Best: map[string]perplexity{},
		Stories: demoStories{MaxAbs: map[string]string{}, Best: map[string]string{}},
	}
	d.parameters = map[string]int64{}
	if r.Dense, r.Stories.Dense, err = d.measure(cmd.Context(), model, study.Cell{Method: study.Dense}); err != nil {
		return nil, err
	}
	stats := filepath.Join(d.dir, "stats.safetensors")
	d.say("dense: perplexity %.2f", r.Dense)
	d.say("calibrating on %s", demoCalib)
	if err := d.sub(cmd, "calib", model, "--calib", filepath.Join(d.dir, demoCalib), "--ctx", fmt.Sprint(demoContext), "--tokens", fmt.Sprint(demoTokens), "-o", stats); err != nil {
		return nil, err
	}
	// The steps of `prune --method best`, because one order of the neurons serves all ratios.
	scores := filepath.Join(d.dir, "scores.json")
	if err := d.sub(cmd, "score", model, "--method", string(bestMethod), "--stats", stats, "-o", scores); err != nil {
		return nil, err
	}
	for _, ratio := range demoRatios {
		key := fmt.Sprint(ratio)
		for _, method := range demoMethods {
			out := filepath.Join(d.dir, fmt.Sprintf("%s%.0f", method, 100*ratio))
			from, perplexities, stories := []string{"--method", method}, r.MaxAbs, r.Stories.MaxAbs
			if method == best {
				from, perplexities, stories = []string{"--scores", scores, "--stats", stats, "--refit", string(bestRefit)}, r.Best, r.Stories.Best
			}
			plan := out + ".plan.json"
			// At the exact width, so that both methods give models of one size.
			args := append([]string{"plan", model, "-o", plan, "--ratio", key, "--align", "1"}, from...)
			if err := d.sub(cmd, append(args, "--quiet")...); err != nil { // its notes are on what else one could do
				return nil, err
			}
			args = []string{"apply", model, "-o", out, "--plan", plan}
			if method == best {
				args = append(args, "--stats", stats)
			}
			if err := d.sub(cmd, append(args, "--quiet")...); err != nil {
				return nil, err
			}
			if perplexities[key], stories[key], err = d.measure(cmd.Context(), out, study.Cell{Method: method, Ratio: ratio}); err != nil {
				return nil, err
			}
			d.say("%s: perplexity %.2f", filepath.Base(out), perplexities[key])
			if d.keep == "" {
				if err := os.RemoveAll(out); err != nil {
					return nil, err
				}
			}
		}
	}
	return r, nil
}

// makeDir makes the directory and writes what the program carries into it.
func (d *demo) makeDir() (err error) {
	if d.dir = d.keep; d.keep == "" {
		if d.dir, err = os.MkdirTemp("", "coppice-demo-"); err != nil {
			return fmt.Errorf("the temporary directory: %w; name another with TMPDIR, or a new directory with --keep", err)
		}
	} else if err := os.Mkdir(d.keep, 0o777); errors.Is(err, os.ErrExist) {
		return usagef("--keep %s: is there already; name a new directory", d.keep)
	} else if err != nil {
		return err
	}
	for _, name := range []string{demoModel, demoCalib, demoText} {
		if name == demoModel && d.model != "" {
			continue
		}
		b, err := demoFiles.ReadFile("demo/" + name)
		if err == nil {
			err = os.WriteFile(filepath.Join(d.dir, name), b, 0o666)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// measure runs a model on the held-out text and lets it tell its story.
func (d *demo) measure(ctx context.Context, path string, cell study.Cell) (perplexity, string, error) {
	c, err := checkpoint.Open(path)
	if err != nil {
		return 0, "", badInput(err)
	}
	spec := c.Spec
	if err := c.Close(); err != nil {
		return 0, "", err
	}
	key, dense := "", (*arch.Spec)(nil)
	if cell.Method == study.Dense {
		d.dense = spec
	} else {
		key, dense = fmt.Sprint(cell.Ratio), &d.dense
	}
	_, d.parameters[key] = spec.Parameters()
	task, err := tasks.TextTask(filepath.Join(d.dir, demoText), demoContext)
	if err != nil {
		return 0, "", err
	}
	m, err := lm.Open(ctx, path, lm.Options{Threads: d.threads})
	if err != nil {
		return 0, "", badInput(err)
	}
	bar := d.requestProgress(filepath.Base(path))
	r, err := eval.Run(ctx, m, []*eval.Task{task}, eval.Options{Progress: bar.requests})
	bar.finish()
	if err != nil {
		return 0, "", badInput(err)
	}
	g, err := m.NewSession().Complete(ctx, demoPrompt, demoStory, nil)
	if err != nil {
		return 0, "", badInput(err)
	}
	cell.ID, cell.DType = filepath.Base(path), "f32"
	cell.Model = strings.TrimSuffix(filepath.Base(cmp.Or(d.model, "tiny Llama")), ".gguf")
	rec := study.Record{Version: study.LedgerVersion, Cell: cell, Status: study.Done}
	if rec.Shape, err = study.ShapeOf(path, dense); err != nil {
		return 0, "", err
	}
	rec.AddResult(r)
	d.ledger.Records = append(d.ledger.Records, rec)
	return perplexity(r.Task(task.Name).Metric(eval.TokenPerplexity).Value), demoPrompt + g.Text, nil
}

// report writes the page of a study's report, to stay, and returns its path.
func (d *demo) report() (string, error) {
	d.ledger.Study = "coppice demo"
	d.ledger.Compare()
	r, err := report.New(&d.ledger, report.Budget{})
	if err != nil {
		return "", err
	}
	page, err := r.HTML()
	if err != nil {
		return "", err
	}
	if d.keep != "" {
		path := filepath.Join(d.keep, "report.html")
		if err := os.WriteFile(path, page, 0o666); err != nil {
			return "", err
		}
		return path, nil
	}
	f, err := os.CreateTemp("", "coppice-demo-*.html")
	if err != nil {
		return "", err
	}
	_, err = f.Write(page)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// sub runs another verb with this one's global flags. What it finds is in files: its
// words are not shown, its progress is.
func (d *demo) sub(cmd *cobra.Command, args ...string) error {
	inner := &app{stdout: io.Discard, stderr: d.stderr}
	root := inner.root()
	args = append(args, "--threads", fmt.Sprint(d.threads))
	if d.quiet {
		args = append(args, "--quiet")
	}
	root.SetArgs(args)
	return root.ExecuteContext(cmd.Context())
}

// say tells how far the demo is.
func (d *demo) say(format string, args ...any) {
	if !d.quiet {
		fmt.Fprintf(d.stderr, format+"\n", args...)
	}
}

// failed says what is left behind, and of a full disk where it is.
func (d *demo) failed(err error) error {
	left := "nothing is left of it"
	if d.keep != "" && d.dir != "" {
		left = "what was finished is kept in " + d.keep
	}
	switch {
	case errors.Is(err, context.Canceled):
		return &interruptedError{err, left}
	case errors.Is(err, syscall.ENOSPC) && d.keep == "":
		return fmt.Errorf("%w (the demo works in %s: name another directory with TMPDIR, or a new one with --keep)", err, os.TempDir())
	case d.keep != "" && d.dir != "":
		return fmt.Errorf("%w; %s", err, left)
	}
	return err
}

// show prints the tables and the stories, and what to do next.
func (d *demo) show(r *demoResult, page string) error {
	size := bytesText(d.textBytes())
	if d.model == "" {
		d.printf("A Llama of %s parameters that was trained on old children's books.\nPerplexity a token on %s of such books that it has not seen", countText(d.parameters[""]), size)
	} else {
		d.printf("%s, perplexity a token on %s of old children's books, which it may have seen", d.model, size)
	}
	d.printf("\n(1 is perfect, %s is blind guessing):\n\n", countText(int64(d.dense.Vocab)))
	t := tabwriter.NewWriter(d.stdout, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "neurons removed\tparameters\tmaxabs\tbest\t")
	fmt.Fprintf(t, "none\t%s\t%.2f\t%.2f\t\n", countText(d.parameters[""]), r.Dense, r.Dense)
	for _, ratio := range demoRatios {
		key := fmt.Sprint(ratio)
		fmt.Fprintf(t, "%.0f %%\t%s\t%.2f\t%.2f\t\n", 100*ratio, countText(d.parameters[key]), r.MaxAbs[key], r.Best[key])
	}
	if err := t.Flush(); err != nil {
		return err
	}
	d.printf("\nmaxabs looks at weights alone; best at what neurons do on a text, and it refits what stays.\n\n")
	last := fmt.Sprint(demoRatios[len(demoRatios)-1])
	for _, s := range []struct{ title, text string }{
		{"The story that it tells whole", r.Stories.Dense},
		{"with 60 % removed by best", r.Stories.Best[last]},
		{"with 60 % removed by maxabs", r.Stories.MaxAbs[last]},
	} {
		d.printf("%s:\n%s\n\n", s.title, wrap(s.text, 76, "    "))
	}
	if page != "" {
		d.printf("report: %s\n", page)
	}
	if d.keep != "" {
		d.printf("kept in %s; try: coppice generate %s --prompt %q --temperature 0.7\n", d.keep, filepath.Join(d.keep, best+"40"), demoPrompt)
	}
	d.printf("next: coppice demo --model %s\n      coppice prune %[1]s -o DIR --ratio 0.4 --method best\n", cmp.Or(d.model, "MODEL"))
	return nil
}

func (d *demo) textBytes() int64 {
	b, err := demoFiles.ReadFile("demo/" + demoText)
	if err != nil {
		panic(err) // it is embedded
	}
	return int64(len(b))
}

// wrap breaks a text into lines of at most width characters, each after indent.
func wrap(text string, width int, indent string) string {
	var lines []string
	for paragraph := range strings.SplitSeq(text, "\n") {
		line := ""
		for word := range strings.FieldsSeq(paragraph) {
			if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
				lines = append(lines, indent+line)
				line = ""
			}
			if line != "" {
				line += " "
			}
			line += word
		}
		if line != "" {
			lines = append(lines, indent+line)
		}
	}
	return strings.Join(lines, "\n")
}
