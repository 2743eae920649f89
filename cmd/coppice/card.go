package main

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/card"
	"github.com/coppice-lm/coppice/eval"
)

// cardFlags are the flags of card.
type cardFlags struct {
	src    card.Sources
	says   card.Says
	out    string
	stdout bool
	force  bool
}

func (a *app) card() *cobra.Command {
	var f cardFlags
	cmd := &cobra.Command{
		Use:   "card DIR (--results DIR | --ledger FILE) [--base-model OWNER/NAME]",
		Short: "Write the model card of a pruned model out of what was measured",
		Long: `Write README.md of a model that prune or apply wrote: front matter for the Hugging Face
hub, what was done, sizes before and after, the table of benchmarks beside the original
model with paired tests, what broke and what held, how to load it and how to make it again.

All numbers come from results of coppice eval (--results, --baseline-results; both may be
given several times) or from a study (--ledger). They must be of these weights; those of
another model are refused. What was not measured is left out. With eval --baseline the
baseline's results lie below the others and are found there.

The name of the original model on the hub is --base-model, or known from --baseline where
that is owner/name, a snapshot in the Hugging Face cache, or a GGUF file that says it.
Licence and languages are taken from the README.md that the model has; it is replaced only
with --force.`,
		Example: `  coppice card smol60 --results results/smol60 --base-model HuggingFaceTB/SmolLM2-135M-Instruct --license apache-2.0 --language en
  coppice card pruned60 --ledger study/ledger.jsonl --base-model meta-llama/Llama-3.2-3B --force
  coppice card pruned60 --results r/pruned60 --baseline-results r/dense --baseline meta-llama/Llama-3.2-3B --stdout`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.src.Dir, f.src.Threads = args[0], a.threads
			if err := f.check(); err != nil {
				return err
			}
			return a.writeCard(cmd, &f)
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&f.src.Results, "results", nil, "results of coppice eval of this model")
	fl.StringArrayVar(&f.src.Baseline, "baseline-results", nil, "the same of the original model (default: the directory baseline of --results)")
	fl.StringVar(&f.src.Ledger, "ledger", "", "ledger of a study, in place of results")
	fl.StringVar(&f.src.Cell, "cell", "", "cell of the ledger (default: the one of these weights)")
	fl.StringVar(&f.src.Dense, "baseline", "", "the original model, to check that plan and results are of it")
	fl.StringVar(&f.says.Base, "base-model", "", "name of the original model on the hub: owner/name[@revision]")
	fl.StringVar(&f.says.Name, "name", "", "name of this model, NAME or owner/NAME (default: made of the original's and the ratio)")
	fl.StringVar(&f.says.Licence.ID, "license", "", "the hub's identifier of the original model's licence (default: that of README.md)")
	fl.StringVar(&f.says.Licence.Name, "license-name", "", "name of a licence other")
	fl.StringVar(&f.says.Licence.Link, "license-link", "", "where the text of a licence other is")
	fl.StringSliceVar(&f.says.Languages, "language", nil, "languages of the original model, codes such as en,fr (default: those of README.md)")
	fl.StringSliceVar(&f.says.Datasets, "dataset", nil, "data set of the hub that the calibration text is from")
	fl.StringVar(&f.says.Author, "author", "", "who made this model")
	fl.StringVarP(&f.out, "output", "o", "", "file to write (default: README.md of the model)")
	fl.BoolVar(&f.stdout, "stdout", false, "print the card instead of writing it")
	fl.BoolVar(&f.force, "force", false, "replace a file that exists")
	return cmd
}

// check validates the flags, and finds the output and the results of eval --baseline.
func (f *cardFlags) check() error {
	l := &f.says.Licence
	switch {
	case len(f.src.Results) == 0 && f.src.Ledger == "":
		return usagef("a card needs what was measured: --results DIR, which `coppice eval %s -o DIR` writes, or --ledger FILE of a study", f.src.Dir)
	case len(f.src.Results) > 0 && f.src.Ledger != "":
		return usagef("--results and --ledger exclude each other")
	case f.src.Ledger != "" && len(f.src.Baseline) > 0:
		return usagef("--baseline-results goes with --results; a ledger holds those of the original model")
	case f.src.Cell != "" && f.src.Ledger == "":
		return usagef("--cell needs --ledger")
	case f.stdout && (f.out != "" || f.force):
		return usagef("--stdout writes no file; leave out -o and --force")
	case l.ID == "" && (l.Name != "" || l.Link != ""):
		return usagef("--license-name and --license-link need --license")
	}
	if err := f.says.Check(); err != nil {
		return &usageError{err}
	}
	if len(f.src.Baseline) == 0 {
		for _, r := range f.src.Results {
			if dir := filepath.Join(r, "baseline"); hasResults(dir) {
				f.src.Baseline = append(f.src.Baseline, dir)
			}
		}
	}
	if f.stdout {
		return nil
	}
	if f.out == "" {
		f.out = filepath.Join(f.src.Dir, "README.md")
	}
	switch st, err := os.Lstat(f.out); {
	case err != nil:
		return nil // not there, or the model is not: said when it is opened
	case !st.Mode().IsRegular():
		return usagef("%s: is not a regular file", f.out)
	case !f.force:
		return usagef("%s: exists; --force replaces it, -o FILE and --stdout leave it (its licence and languages are taken over)", f.out)
	}
	return nil
}

// hasResults reports whether coppice eval wrote results into a directory.
func hasResults(dir string) bool {
	_, err := eval.Load(dir)
	return err == nil
}

func (a *app) writeCard(cmd *cobra.Command, f *cardFlags) error {
	c, err := card.Build(cmd.Context(), f.src, f.says)
	if errors.As(err, new(*card.SaysError)) {
		return &usageError{err}
	}
	if err != nil {
		return badInput(err)
	}
	a.notes(c.Notes)
	text, err := c.Markdown()
	if err != nil {
		return err
	}
	if f.stdout && !a.json {
		_, err = a.stdout.Write(text)
		return err
	}
	if f.stdout {
		return a.result(map[string]any{"name": c.Name, "base_model": c.Base.Name, "card": string(text), "notes": c.Notes})
	}
	if err := writeFile(f.out, text); err != nil {
		return err
	}
	a.printf("%s: the card of %s, made from %s\n", f.out, c.Name, c.Base.Name)
	return a.result(map[string]any{"name": c.Name, "base_model": c.Base.Name, "file": f.out, "notes": c.Notes})
}
