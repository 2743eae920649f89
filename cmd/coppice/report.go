package main

import (
	"errors"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/report"
	"github.com/coppice-lm/coppice/study"
)

// reportFlags say which forms of a report to write, and the budget of its recommendation.
type reportFlags struct {
	html, csv, markdown string
	maxBytes            string
	maxJoules           float64
	minAccuracy         []string
}

func (a *app) report() *cobra.Command {
	var f reportFlags
	cmd := &cobra.Command{
		Use:   "report LEDGER",
		Short: "Make a web page of what a study found",
		Long: `Make one self-contained web page of a study's ledger: what was found, which variant to
take, quality against size, speed and energy, what was removed, tests, and how each
number was made. It needs no network and no script. --csv has a row for each cell, task
and metric, --markdown the headline table, and --json prints all of it.

The recommendation is the variant of best quality that keeps to the limits given, or
says that none does and what is missing. Quality is the share of the dense model's
performance above guessing that is left, as the page explains.`,
		Example: `  coppice report glu.ledger.jsonl -o report.html
  coppice report glu.ledger.jsonl -o report.html --max-bytes 200MB --min-accuracy arc_easy=0.4
  coppice report glu.ledger.jsonl --csv report.csv --markdown report.md
  coppice report glu.ledger.jsonl --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if x := f.maxJoules; cmd.Flags().Changed("max-joules") && !(x > 0 && x <= math.MaxFloat64) {
				return usagef("--max-joules %v: expected a positive number of joules a token", x)
			}
			return a.runReport(args[0], &f)
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&f.html, "output", "o", "", "web page to write")
	fl.StringVar(&f.csv, "csv", "", "table to write, a row for each cell, task and metric")
	fl.StringVar(&f.markdown, "markdown", "", "Markdown to write: findings and headline table")
	fl.StringVar(&f.maxBytes, "max-bytes", "", "recommend weights of at most this size as stored, for example 200MB")
	fl.Float64Var(&f.maxJoules, "max-joules", 0, "recommend at most this energy a token of the evaluations, idle power included")
	fl.StringArrayVar(&f.minAccuracy, "min-accuracy", nil, "recommend at least this accuracy of a task or group, TASK=X with X between 0 and 1; repeatable")
	return cmd
}

// budget reads the limits.
func (f *reportFlags) budget() (report.Budget, error) {
	b := report.Budget{MaxJoules: f.maxJoules}
	if f.maxBytes != "" {
		n, err := parseBytes(f.maxBytes)
		if err != nil {
			return b, usagef("--max-bytes: %w", err)
		}
		b.MaxBytes = n
	}
	for _, s := range f.minAccuracy {
		i := strings.LastIndexByte(s, '=')
		x, err := strconv.ParseFloat(s[i+1:], 64)
		if i < 1 || err != nil || !(x > 0 && x <= 1) {
			return b, usagef("--min-accuracy %q: expected TASK=X with X above 0 and at most 1, such as arc_easy=0.4", s)
		}
		b.MinAccuracy = append(b.MinAccuracy, report.Floor{Task: s[:i], Accuracy: x})
	}
	return b, nil
}

func (a *app) runReport(path string, f *reportFlags) error {
	budget, err := f.budget()
	if err != nil {
		return err
	}
	if f.html == "" && f.csv == "" && f.markdown == "" && !a.json {
		return usagef("-o FILE.html is needed: the page to write (or --csv, --markdown, --json)")
	}
	if err := f.checkOutputs(path); err != nil {
		return err
	}
	ledger, err := study.ReadLedger(path)
	if err != nil {
		return badInput(err)
	}
	a.notes(ledger.Notes)
	r, err := report.New(ledger, budget)
	var unknown *report.UnknownTaskError
	switch {
	case errors.As(err, &unknown):
		return usagef("--min-accuracy: %w", err)
	case err != nil:
		return &inputError{errors.New(path + ": " + err.Error())}
	}
	return a.writeReport(r, f)
}

// checkOutputs refuses to write over the ledger, or two forms into one file.
func (f *reportFlags) checkOutputs(ledger string) error {
	outputs := []struct{ flag, path string }{{"-o", f.html}, {"--csv", f.csv}, {"--markdown", f.markdown}}
	for i, o := range outputs {
		if o.path == "" {
			continue
		}
		for _, other := range outputs[:i] {
			if other.path != "" && sameName(other.path, o.path) {
				return usagef("%s and %s name the same file, %s", other.flag, o.flag, o.path)
			}
		}
		st, err := os.Stat(o.path)
		if err != nil {
			continue // what is wrong with it, writing tells
		}
		if !st.Mode().IsRegular() {
			return usagef("%s %s: is not a regular file", o.flag, o.path)
		}
		if in, err := os.Stat(ledger); err == nil && os.SameFile(st, in) {
			return usagef("%s %s: is the ledger itself", o.flag, o.path)
		}
	}
	return nil
}

func (a *app) writeReport(r *report.Report, f *reportFlags) error {
	for _, form := range []struct {
		path string
		make func() ([]byte, error)
	}{{f.html, r.HTML}, {f.csv, r.CSV}, {f.markdown, func() ([]byte, error) { return r.Markdown(), nil }}} {
		if form.path == "" {
			continue
		}
		b, err := form.make()
		if err != nil {
			return err
		}
		if err := writeFile(form.path, b); err != nil {
			return err
		}
		a.printf("%s: %d bytes\n", form.path, len(b))
	}
	if a.json {
		b, err := r.JSON()
		if err != nil {
			return err
		}
		_, err = a.stdout.Write(b)
		return err
	}
	if len(r.Recommendation.Reasons) > 0 {
		a.printf("%s\n", r.Recommendation.Reasons[0])
	}
	return nil
}
