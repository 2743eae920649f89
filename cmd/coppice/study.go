package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/energy"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
	"github.com/coppice-lm/coppice/study"
)

// studyFlags are the flags of the verbs that measure a study, or look at it.
type studyFlags struct {
	ledger, scratch string
	keep            bool
}

func (f *studyFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.ledger, "ledger", "", "ledger of finished cells (default: NAME.ledger.jsonl beside NAME.yaml)")
	fl.StringVar(&f.scratch, "scratch", "", "directory where pruned models live until they are measured (default: the file's key scratch)")
	fl.BoolVar(&f.keep, "keep", false, "leave the pruned models in the scratch directory")
}

// load reads a study file. Threads are those of the flag, or else of the file.
func (f *studyFlags) load(a *app, cmd *cobra.Command, path string) (*study.Study, error) {
	s, err := study.Load(path)
	if err != nil {
		return nil, badInput(err)
	}
	if f.scratch != "" {
		if err := s.SetScratch(f.scratch); err != nil {
			return nil, err
		}
	}
	if s.Threads > 0 && !cmd.Flags().Changed("threads") {
		a.threads = s.Threads
	}
	return s, nil
}

// options are those of study.Measure but for the meter.
func (f *studyFlags) options(a *app) study.Options {
	o := study.Options{
		Runner: runChild, Ledger: f.ledger, Keep: f.keep, Threads: a.threads, Program: "coppice " + release,
		Host: study.ThisHost(a.threads), Note: a.note,
	}
	if !a.quiet {
		o.Log = a.stderr
	}
	return o
}

func (a *app) study() *cobra.Command {
	var f studyFlags
	cmd := &cobra.Command{
		Use:   "study FILE.yaml",
		Short: "Measure a grid of pruned models: which ratio, by which method, is worth it",
		Long: `Measure every cell of a study: models x ratios (or widths, or expansion ratios) x methods x
seeds x precisions. Each cell is made and measured by the other verbs, and its result is a
line of the ledger beside the file, from which ` + "`coppice report`" + ` and ` + "`coppice card`" + ` are made.

Interrupted or killed, the same command goes on where it was: no finished cell and no
finished request is computed again. Pruned models are deleted once they are measured.
A cell that fails is recorded, the others go on, and the exit code is 1.

A study file, as ` + "`coppice study init`" + ` writes it:

` + indented(string(study.Example)),
		Example: `  coppice study init -o glu.yaml
  coppice study plan glu.yaml
  coppice study glu.yaml`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.measureStudy(cmd, args[0], "", &f)
		},
	}
	f.register(cmd)
	cmd.AddCommand(a.studyInit(), a.studyPlan(), a.studyCells(), a.studyRun(), a.studyMerge(), a.studySchema())
	return cmd
}

func indented(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n  ")
}

// idleSeconds is for how long the machine's power at rest is measured, where there is a
// meter.
const idleSeconds = 5

// measureStudy measures one cell of a study, or all of them.
func (a *app) measureStudy(cmd *cobra.Command, path, id string, f *studyFlags) error {
	ctx := cmd.Context()
	if err := kernel.LevelError(); err != nil {
		return &usageError{err}
	}
	s, err := f.load(a, cmd, path)
	if err != nil {
		return err
	}
	o := f.options(a)
	o.Meter = func(ctx context.Context) (*energy.Meter, error) { return openMeter(ctx, s) }
	var sum *study.Summary
	if id == "" {
		sum, err = study.Measure(ctx, s, o)
	} else {
		sum, err = study.MeasureCell(ctx, s, id, o)
	}
	if errors.Is(err, context.Canceled) {
		return &interruptedError{err, fmt.Sprintf("finished cells are kept in %s, finished requests beside it; the same command goes on from there", ledgerOf(s, f))}
	}
	if err != nil {
		return studyError(err)
	}
	a.printf("%d cells: %d measured, %d finished before, %d failed; in %s\n", sum.Cells, sum.Measured, sum.Finished, len(sum.Failed), sum.Ledger)
	if err := a.result(sum); err != nil {
		return err
	}
	if len(sum.Failed) == 0 {
		return nil
	}
	var names []string
	for _, c := range sum.Failed {
		names = append(names, fmt.Sprintf("%s (%s)", c.ID, c.Cell))
	}
	return fmt.Errorf("%d of %d cells failed: %s; their errors are in %s, and the same command tries them again", len(sum.Failed), sum.Cells, strings.Join(names, ", "), sum.Ledger)
}

// openMeter opens the machine's meters and measures its power at rest.
func openMeter(ctx context.Context, s *study.Study) (*energy.Meter, error) {
	opt := energy.Options{}
	if e := s.Energy; e != nil {
		opt.TDP, opt.Grid = e.TDP, e.Grid
	}
	m := energy.Open(ctx, opt)
	if err := m.Idle(ctx, idleSeconds*time.Second); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func ledgerOf(s *study.Study, f *studyFlags) string {
	if f.ledger != "" {
		return f.ledger
	}
	return s.LedgerPath()
}

// studyError sorts what ended a study: what it could not write failed, and a cell that is
// not there is wrong use; the rest is the input's fault.
func studyError(err error) error {
	if errors.As(err, new(*study.UnknownCellError)) {
		return &usageError{err}
	}
	return badInput(err)
}

func (a *app) studyInit() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:     "init [-o FILE]",
		Short:   "Write a study file with comments, to begin with",
		Example: "  coppice study init -o glu.yaml\n  coppice study init > glu.yaml",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if out == "" {
				_, err := a.stdout.Write(study.Example)
				return err
			}
			if _, err := os.Lstat(out); err == nil {
				return usagef("-o %s: is there already", out)
			}
			if err := writeFile(out, study.Example); err != nil {
				return err
			}
			a.printf("written to %s; next:\n  coppice study plan %s\n", out, out)
			return nil
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to write (default: standard output)")
	return cmd
}

func (a *app) studySchema() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON schema of study files, for editors",
		Long: `Print the JSON schema of study files. An editor that knows YAML schemas then completes and
checks keys: name the file in a first line such as

  # yaml-language-server: $schema=study.schema.json`,
		Example: "  coppice study schema > study.schema.json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := a.stdout.Write(study.Schema())
			return err
		},
	}
}

func (a *app) studyRun() *cobra.Command {
	var f studyFlags
	var id string
	cmd := &cobra.Command{
		Use:   "run FILE.yaml --cell ID",
		Short: "Measure one cell of a study",
		Long: `Measure one cell, as a scheduler of many machines does. It may be started again, or twice
at once: a finished cell takes no time, and of two the second waits for the first. Machines
that share no disk, or many that do, take a ledger each (--ledger), which
` + "`coppice study merge`" + ` joins.`,
		Example: "  coppice study run glu.yaml --cell 4f0c2a9be1d7730a --ledger part-3.jsonl",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if id == "" {
				return usagef("--cell ID is needed; `coppice study cells %s` lists them", args[0])
			}
			return a.measureStudy(cmd, args[0], id, &f)
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&id, "cell", "", "ID of the cell")
	return cmd
}

func (a *app) studyCells() *cobra.Command {
	var f studyFlags
	cmd := &cobra.Command{
		Use:   "cells FILE.yaml",
		Short: "List the cells of a study",
		Long: `List the cells of a study in the order in which they are measured, one a line: ID, state
in the ledger (done, failed, or - where it has none), and name.`,
		Example: "  coppice study cells glu.yaml\n  coppice study cells glu.yaml --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.estimate(cmd, args[0], &f)
			if err != nil {
				return err
			}
			type cell struct {
				study.Cell
				Status study.Status `json:"status,omitempty"`
			}
			cells := []cell{}
			for _, c := range e.Cells {
				cells = append(cells, cell{c.Cell, c.Status})
				status := string(c.Status)
				if status == "" {
					status = "-"
				}
				a.printf("%s\t%s\t%v\n", c.Cell.ID, status, &c.Cell)
			}
			return a.result(cells)
		},
	}
	cmd.Flags().StringVar(&f.ledger, "ledger", "", "ledger of finished cells (default: NAME.ledger.jsonl beside NAME.yaml)")
	return cmd
}

func (a *app) estimate(cmd *cobra.Command, path string, f *studyFlags) (*study.Estimate, error) {
	s, err := f.load(a, cmd, path)
	if err != nil {
		return nil, err
	}
	e, err := study.NewEstimate(s, f.options(a))
	return e, studyError(err)
}

func (a *app) studyPlan() *cobra.Command {
	var f studyFlags
	cmd := &cobra.Command{
		Use:   "plan FILE.yaml",
		Short: "Say what a study will need: time, disk and memory",
		Long: `List the cells of a study with the time, disk and memory that each will need, and say if
the disks are too small for it (exit code 3). Time goes by finished cells of the ledger that
did the same work; where there are none it is rough, and marked by ~.`,
		Example: "  coppice study plan glu.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.estimate(cmd, args[0], &f)
			if err != nil {
				return err
			}
			if a.json {
				if err := a.result(e); err != nil {
					return err
				}
			} else if !a.quiet {
				if err := a.printEstimate(e); err != nil {
					return err
				}
			}
			for _, d := range e.Disks {
				if d.Short() {
					return badInput(&study.SpaceError{Disk: d})
				}
			}
			return nil
		},
	}
	f.register(cmd)
	return cmd
}

func (a *app) printEstimate(e *study.Estimate) error {
	t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "id\tcell\ttime\tdisk\tmemory\t")
	left, rough := 0, ""
	for _, c := range e.Cells {
		when := duration(c.Seconds)
		if !c.Measured {
			when = "~ " + when
		}
		switch c.Status {
		case study.Done:
			when = "done"
		case study.Failed:
			when += " (failed before)"
			fallthrough
		default:
			left++
			if !c.Measured {
				rough = "~ "
			}
		}
		fmt.Fprintf(t, "%s\t%v\t%s\t%s\t~ %s\t\n", c.Cell.ID, &c.Cell, when, bytesText(c.Disk), bytesText(c.Memory))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	a.printf("\n%d of %d cells are to be measured, in %s%s\n", left, len(e.Cells), rough, duration(e.Seconds))
	for _, d := range e.Disks {
		free := "an unknown number of bytes"
		if d.Free >= 0 {
			free = bytesText(d.Free)
		}
		a.printf("disk    %s in %s, where %s are free\n", bytesText(d.Need), d.Dir, free)
	}
	a.printf("memory  ~ %s", bytesText(e.Memory))
	switch {
	case e.Host == 0:
		a.printf("\n")
	case e.Memory > e.Host:
		a.printf(", MORE than the %s that this machine has\n", bytesText(e.Host))
	default:
		a.printf(" of %s\n", bytesText(e.Host))
	}
	return nil
}

// duration is a time to two or three digits.
func duration(seconds float64) string {
	if century := 100 * 365.25 * 24 * 3600; seconds > century { // more than time.Duration holds, soon
		return "over 100 years"
	}
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d >= time.Hour:
		return d.Round(time.Minute).String()[:len(d.Round(time.Minute).String())-2]
	case d >= 10*time.Second:
		return d.Round(time.Second).String()
	}
	return d.Round(100 * time.Millisecond).String()
}

func (a *app) studyMerge() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "merge -o LEDGER LEDGER...",
		Short: "Join the ledgers of several machines",
		Long: `Join ledgers into one, in an order that does not depend on that of their lines, with the
paired tests of all cells against the dense model and against the same size by maxabs. What
a ledger in the output's place holds is kept.`,
		Example: "  coppice study merge -o glu.ledger.jsonl parts/*.jsonl",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if out == "" {
				return usagef("-o LEDGER is needed: the file to write")
			}
			l, err := study.Merge(out, args)
			if err != nil {
				return studyError(err)
			}
			a.notes(l.Notes)
			failed := 0
			for _, r := range l.Records {
				if r.Status == study.Failed {
					failed++
				}
			}
			a.printf("%d cells, %d of them failed, and %d comparisons; in %s\n", len(l.Records), failed, len(l.Comparisons), out)
			return a.result(map[string]any{"ledger": out, "cells": len(l.Records), "failed": failed, "comparisons": len(l.Comparisons)})
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "ledger to write")
	return cmd
}
