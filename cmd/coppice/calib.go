package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/calib"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/score"
)

// textFlags say which text a model is run over, and how.
type textFlags struct {
	sources     []string
	tokens, ctx int
	rows, dtype string
	memory      string
	precision   engine.Precision
	bytes       int64
}

func (f *textFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringArrayVar(&f.sources, "calib", nil, "calibration text: a file or a directory (JSON Lines, Parquet, UTF-8 text), or builtin: a small text that the program carries; may be given several times (default: builtin)")
	fl.IntVar(&f.tokens, "tokens", calib.DefaultTokens, "calibration tokens")
	fl.IntVar(&f.ctx, "ctx", calib.DefaultContext, "tokens of a row of calibration text")
	fl.StringVar(&f.rows, "rows", string(calib.Packed), "how documents fill rows: packed (one after another) or padded (each in rows of its own)")
	fl.StringVar(&f.dtype, "calib-dtype", "f32", "precision in which the model runs over the text: f32 or bf16")
	fl.StringVar(&f.memory, "calib-memory", "2GB", "memory for a layer's weights and sums and the residual streams of the text; where these need more, the streams are kept in files beside the output")
	completeWords(cmd, "rows", string(calib.Packed), string(calib.Padded))
	completeWords(cmd, "calib-dtype", "f32", "bf16")
}

// names are the flags of register, --calib first.
func (f *textFlags) names() []string {
	return []string{"calib", "tokens", "ctx", "rows", "calib-dtype", "calib-memory"}
}

func (f *textFlags) check() (err error) {
	if f.precision, err = engine.ParsePrecision(f.dtype); err != nil || f.precision == engine.Stored {
		return usagef("--calib-dtype %s: expected f32 or bf16", f.dtype)
	}
	if f.bytes, err = parseBytes(f.memory); err != nil {
		return &usageError{fmt.Errorf("--calib-memory: %w", err)}
	}
	switch {
	case f.tokens < 1:
		return usagef("--tokens %d: expected at least 1", f.tokens)
	case f.ctx < 2:
		return usagef("--ctx %d: expected at least 2", f.ctx)
	case f.rows != string(calib.Packed) && f.rows != string(calib.Padded):
		return usagef("--rows %s: expected packed or padded", f.rows)
	}
	return nil
}

// again names the text to a later command, as it was named to this one.
func (f *textFlags) again(cmd *cobra.Command) string {
	s := ""
	for _, source := range f.sources {
		s += " --calib " + source
	}
	if s == "" {
		s = " --calib " + calib.BuiltInName
	}
	for _, name := range append(f.names()[1:], "seed") {
		if flag := cmd.Flags().Lookup(name); flag.Changed {
			s += " --" + name + " " + flag.Value.String()
		}
	}
	return s
}

// collect runs a model over the text.
func (a *app) collect(ctx context.Context, c *checkpoint.Checkpoint, f *textFlags, seed uint64, out string, replace bool) (*score.Stats, error) {
	fingerprint, err := c.Fingerprint()
	if err != nil {
		return nil, badInput(err)
	}
	m, err := a.openText(ctx, c, f)
	if err != nil {
		return nil, err
	}
	bar := a.tokenProgress("calibrating")
	st, err := calib.Collect(ctx, m, f.sources, out, calib.Options{
		Model: fingerprint, Tokens: f.tokens, Context: f.ctx, Seed: seed, Rows: calib.RowMode(f.rows), Memory: f.bytes,
		Threads: a.threads, Replace: replace, Progress: bar.show, Warn: a.note,
	})
	bar.finish()
	return st, badInput(err)
}

// openText makes the model that runs over the text, and says which text that is.
func (a *app) openText(ctx context.Context, c *checkpoint.Checkpoint, f *textFlags) (*lm.Layerwise, error) {
	for _, s := range f.sources {
		if s == calib.BuiltInName {
			continue
		}
		if _, err := os.Stat(s); err != nil {
			return nil, badInput(fmt.Errorf("--calib %w", err))
		}
	}
	if len(f.sources) == 0 {
		a.note("without --calib the text is the built-in one, excerpts in English of works in the public domain; calibrate on text like that on which the model will be used")
	}
	m, err := lm.NewLayerwise(ctx, c, lm.Options{Precision: f.precision, Threads: a.threads})
	return m, badInput(err)
}

func (a *app) calib() *cobra.Command {
	var f textFlags
	var out string
	var seed uint64
	var force bool
	cmd := &cobra.Command{
		Use:   "calib MODEL [--calib PATH...] -o FILE",
		Short: "Run a model over text and add up what its neurons do",
		Long: `Run a model over calibration text and write statistics of its MLPs: sums, from which
activation-aware scores and refits are made. Documents are shuffled by --seed and used
once; a tenth of them is held back to judge choices on. Calibrate on text like that on
which the model will be used, and never on text that it is evaluated on. Without --calib
a small text is used that the program carries: excerpts of works in the public domain;
--calib builtin adds it to other text.

A run that was interrupted or killed goes on where it was when the same command is given
again, and ends with the same bytes. Statistics of different texts can be added up.`,
		Example: `  coppice calib ./Llama-3.2-3B --calib wiki.txt --calib c4.jsonl -o stats.safetensors
  coppice calib smol --calib ./text --tokens 131072 --ctx 512 --seed 1 -o stats.safetensors
  coppice calib smol --calib wiki.txt --calib builtin --tokens 200000 -o stats.safetensors
  coppice calib show stats.safetensors
  coppice calib merge a.safetensors b.safetensors -o both.safetensors`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			c, err := a.openToWrite(args[0], out, false, f.sources...)
			if err != nil {
				return err
			}
			defer c.Close()
			st, err := a.collect(cmd.Context(), c, &f, seed, out, force)
			if err != nil {
				return keptBeside(out, err)
			}
			defer st.Close()
			if a.json {
				return a.result(st.StatsHead)
			}
			a.showStats(st)
			a.printf("\nwritten to %s; next:\n  coppice prune %s -o DIR --ratio 0.6 --method best --stats %s%s\n", out, args[0], out, f.again(cmd))
			return nil
		},
	}
	f.register(cmd)
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to write")
	cmd.Flags().Uint64Var(&seed, "seed", 0, "seed of the order of the documents")
	cmd.Flags().BoolVar(&force, "force", false, "replace other statistics in the output's place")
	cmd.AddCommand(a.calibShow(), a.calibMerge())
	return cmd
}

// keptBeside says of an interruption what becomes of the sums so far.
func keptBeside(out string, err error) error {
	if errors.Is(err, context.Canceled) {
		return &interruptedError{err, fmt.Sprintf("what was finished is kept beside %s; the same command goes on from there", out)}
	}
	return err
}

// showStats prints the head of statistics for people.
func (a *app) showStats(st *score.Stats) {
	a.printf("text       %s\n           %d documents, rows of up to %d tokens, %s, seed %d, %s\n", st.Text, st.Documents, st.Context, st.Rows, st.Seed, st.DType)
	a.printf("tokens     %s: %s body, %s first, %s held back\n", countText(st.Tokens()), countText(st.Body), countText(st.First), countText(st.Held))
	a.printf("model      %d layers\n           %s\n", len(st.Widths), st.Model)
}

func (a *app) calibShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show FILE",
		Short:   "Show what statistics are of, and what they say of each layer",
		Example: "  coppice calib show stats.safetensors\n  coppice calib show stats.safetensors --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := openStats(args[0])
			if err != nil {
				return err
			}
			defer st.Close()
			type layer struct {
				Layer      int     `json:"layer"`
				Width      int     `json:"width"`
				Dead       int     `json:"dead"`
				RMS        float64 `json:"rms"`               // of the body's activations
				FirstShare float64 `json:"first_token_share"` // of the trace, uncapped
				Stream     float64 `json:"stream_energy"`     // mean |r|^2 of the residual stream at the output, over the body
			}
			fingerprint, err := st.Fingerprint()
			if err != nil {
				return badInput(err)
			}
			result := struct {
				score.StatsHead
				Fingerprint string  `json:"fingerprint"`
				Layers      []layer `json:"layers"`
			}{StatsHead: st.StatsHead, Fingerprint: fingerprint}
			for l := range st.Widths {
				if err := cmd.Context().Err(); err != nil {
					return err
				}
				s, err := st.Layer(l)
				if err != nil {
					return badInput(err)
				}
				result.Layers = append(result.Layers, layer{l, s.Width, len(s.Dead()), s.BodyRMS(), s.FirstShare(), s.Body.Stream.Energy / float64(s.Body.N)})
			}
			if a.json || a.quiet {
				return a.result(result)
			}
			a.showStats(st)
			a.printf("statistics %s\n\n", fingerprint)
			t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
			fmt.Fprintln(t, "layer\twidth\tdead\trms\tfirst tokens' share\tstream energy\t")
			for _, l := range result.Layers {
				fmt.Fprintf(t, "%d\t%d\t%d\t%.4g\t%.1f %%\t%.4g\t\n", l.Layer, l.Width, l.Dead, l.RMS, 100*l.FirstShare, l.Stream)
			}
			return t.Flush()
		},
	}
}

func (a *app) calibMerge() *cobra.Command {
	var out string
	var force bool
	cmd := &cobra.Command{
		Use:     "merge A B -o FILE",
		Short:   "Add up statistics of two texts",
		Example: "  coppice calib merge a.safetensors b.safetensors -o both.safetensors",
		Args:    cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if out == "" {
				return usagef("-o FILE is needed: the file to write")
			}
			for _, path := range args {
				if err := checkFileOutput("-o", out, path); err != nil {
					return err
				}
			}
			if _, err := os.Lstat(out); err == nil && !force {
				return usagef("-o %s: exists; use --force to replace it", out)
			}
			var st [2]*score.Stats
			for i, path := range args {
				var err error
				if st[i], err = openStats(path); err != nil {
					return err
				}
				defer st[i].Close()
			}
			dir, err := os.MkdirTemp(filepath.Dir(out), "."+filepath.Base(out)+".coppice-*")
			if err != nil {
				return &checkpoint.WriteError{Err: err}
			}
			defer os.RemoveAll(dir)
			made := filepath.Join(dir, "stats")
			if err := score.MergeStats(made, st[0], st[1]); err != nil {
				return badInput(err)
			}
			if err := os.Rename(made, out); err != nil {
				return &checkpoint.WriteError{Err: err}
			}
			merged, err := openStats(out)
			if err != nil {
				return err
			}
			defer merged.Close()
			if a.json {
				return a.result(merged.StatsHead)
			}
			a.showStats(merged)
			return nil
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to write")
	cmd.Flags().BoolVar(&force, "force", false, "replace a file in the output's place")
	return cmd
}

// openStats opens a file of statistics.
func openStats(path string) (*score.Stats, error) {
	st, err := score.OpenStats(path)
	return st, badInput(err)
}
