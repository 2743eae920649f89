package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/calib"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
	"github.com/coppice-lm/coppice/lm"
)

func (a *app) writeTexts() *cobra.Command {
	var out, openings, dtype string
	opt := calib.TextOptions{}
	cmd := &cobra.Command{
		Use:   "write MODEL -o FILE.jsonl",
		Short: "Have a model write the text that it is calibrated on",
		Long: `Have a model write texts of its own, for --calib of the other verbs: calibration that needs
no text at all (arXiv 2410.17170). Texts begin with openings, one after another and round
and round, and go on with what the model says by itself, sampled. They are like the openings
that they are given; those that the program carries begin fiction and talk.

A text depends on the model, its number and the flags, never on --threads or on --tokens: more
tokens are the same texts and further ones. A run that was interrupted or killed goes on
where it was when the same command is given again, and loses no finished text.`,
		Example: `  coppice write smol -o own.jsonl --tokens 100000
  coppice write smol -o letters.jsonl --openings letters.txt --length 400 --seed 1
  coppice prune smol -o best60 --ratio 0.6 --method best --calib own.jsonl --calib builtin`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			precision, err := engine.ParsePrecision(dtype)
			if err != nil {
				return usagef("--dtype: %w", err)
			}
			if err := checkTexts(out, &opt); err != nil {
				return err
			}
			if err := kernel.LevelError(); err != nil {
				return &usageError{err}
			}
			return keptBeside(out, a.makeTexts(cmd.Context(), args[0], out, openings, precision, opt))
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&out, "output", "o", "", "file to write, JSON Lines")
	fl.IntVar(&opt.Tokens, "tokens", 200_000, "tokens of all texts together, at least")
	fl.StringVar(&openings, "openings", "", "file of openings, a line each (default: those that the program carries)")
	fl.IntVar(&opt.Length, "length", 220, "most new tokens of a text")
	fl.Uint64Var(&opt.Seed, "seed", 0, "seed of the sampling")
	fl.Float64Var(&opt.Temperature, "temperature", 0.8, "of the sampling, above 0")
	fl.Float64Var(&opt.TopP, "top-p", 0.95, "sample from the most probable tokens that reach this sum; 0: all")
	precisionFlag(cmd, &dtype, engine.Q8_0)
	fl.BoolVar(&opt.Replace, "force", false, "replace a file in the output's place, and give up unfinished texts of other flags")
	return cmd
}

// checkTexts refuses flags that mean nothing.
func checkTexts(out string, o *calib.TextOptions) error {
	switch {
	case out != "" && !slices.Contains([]string{".jsonl", ".ndjson"}, strings.ToLower(filepath.Ext(out))):
		return usagef("-o %s: name a file that ends in .jsonl, by which --calib knows JSON Lines", out)
	case o.Tokens < 1:
		return usagef("--tokens %d: expected at least 1", o.Tokens)
	case o.Length < 1:
		return usagef("--length %d: expected at least 1", o.Length)
	case o.Temperature == 0:
		return usagef("--temperature 0: without sampling the openings give the same texts round after round; expected a number above 0")
	}
	return checkSampling(&lm.GenerateOptions{MaxTokens: o.Length, Sampling: lm.Sampling{Temperature: o.Temperature, TopP: o.TopP}})
}

func (a *app) makeTexts(ctx context.Context, model, out, openings string, precision engine.Precision, opt calib.TextOptions) error {
	c, err := a.openToWrite(model, out, false, openings)
	if err != nil {
		return err
	}
	defer c.Close()
	opt.Openings = calib.BuiltInOpenings()
	if openings != "" {
		if opt.Openings, err = calib.ReadOpenings(openings); err != nil {
			return badInput(err)
		}
	}
	if opt.Model, err = c.Fingerprint(); err != nil {
		return badInput(err)
	}
	bar := a.tokenProgress("writing")
	opt.Threads, opt.Progress, opt.Warn = a.threads, bar.show, a.note
	t, err := calib.WriteTexts(ctx, func(ctx context.Context) (*lm.Model, error) {
		return lm.Open(ctx, model, lm.Options{Precision: precision, Threads: a.threads})
	}, out, opt)
	bar.finish()
	if err != nil {
		return badInput(err)
	}
	if a.json {
		return a.result(t)
	}
	a.printf("texts      %s: %s tokens, %d openings\n", countText(int64(t.Texts)), countText(int64(t.Tokens)), t.Openings)
	a.printf("           up to %d new tokens, temperature %v, top-p %v, seed %d, %s\n", t.Length, t.Temperature, t.TopP, t.Seed, t.DType)
	a.printf("           %s\nmodel      %s\n", t.Fingerprint, t.Model)
	next := ""
	if t.Tokens > calib.DefaultTokens { // of which calibration takes no more unless it is told
		next = fmt.Sprintf(" --tokens %d", t.Tokens)
	}
	a.printf("\nwritten to %s; next:\n  coppice prune %s -o DIR --ratio 0.6 --method best --calib %s%s\n", out, model, out, next)
	return nil
}
