package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/surgery"
)

// openModel opens a model and passes on what is to be said about it.
func (a *app) openModel(path string) (*checkpoint.Checkpoint, error) {
	c, err := checkpoint.Open(path)
	if err != nil {
		return nil, badInput(err)
	}
	a.notes(c.Notes)
	return c, nil
}

// openToWrite opens the model from which a verb makes the file out of -o, which may be
// empty in a dry run alone, and is refused where it is one of the files that the verb reads
// besides.
func (a *app) openToWrite(model, out string, dryRun bool, reads ...string) (*checkpoint.Checkpoint, error) {
	if out == "" && !dryRun {
		return nil, usagef("-o FILE is needed: the file to write")
	}
	for _, path := range reads {
		if sameFile(out, path) {
			return nil, usagef("-o %s: is read by this command; name another output", out)
		}
	}
	c, err := a.openModel(model)
	if err != nil {
		return nil, err
	}
	if err := checkFileOutput("-o", out, c.Path); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// readFile reads a file of scores or a plan.
func readFile[T any](path string, decode func([]byte) (T, error)) (T, error) {
	b, err := os.ReadFile(path)
	var v T
	if err == nil {
		if v, err = decode(b); err != nil {
			err = fmt.Errorf("%s: %w", path, err)
		}
	}
	return v, badInput(err)
}

// writeFile writes a small file whole or not at all.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".coppice-*")
	if err != nil {
		return &checkpoint.WriteError{Err: err}
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Chmod(0o666&^umask()), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return &checkpoint.WriteError{Err: err}
	}
	return nil
}

// sameFile reports whether two names are of one file that is there.
func sameFile(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// checkFileOutput refuses to write the file that a flag names over anything but a file, or
// over or into the model that was opened.
func checkFileOutput(flag, path, model string) error {
	if path == "" {
		return nil // a dry run
	}
	if err := checkpoint.CheckOutside(path, model); err != nil {
		return err
	}
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		dir := filepath.Dir(path)
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			return usagef("%s %s: there is no directory %s; make it first", flag, path, dir)
		}
		return nil
	}
	if err == nil && !st.Mode().IsRegular() {
		err = usagef("%s %s: is not a regular file", flag, path)
	}
	return err
}

// scoreFlags are the flags that choose scores.
type scoreFlags struct {
	method         string
	seed           uint64
	allowNonFinite bool
	best           bool // --method best was given, which method and other flags now spell out
}

func (f *scoreFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.method, "method", string(score.MaxAbs), "how neurons are scored: from weights by maxabs, variance, product, l2 or random; from what they do on a text by activation, fluctuation, leverage or obs")
	cmd.Flags().Uint64Var(&f.seed, "seed", 0, "seed of --method random and of the order of calibration text")
	cmd.Flags().BoolVar(&f.allowNonFinite, "allow-nonfinite", false, "go on where a weight is NaN or infinite (such a neuron scores lowest)")
	var methods []string
	for _, m := range slices.Concat(score.Methods, score.CalibratedMethods) {
		methods = append(methods, string(m))
	}
	completeWords(cmd, "method", methods...)
}

// check validates the flags without opening anything.
func (f *scoreFlags) check() error {
	if _, err := score.ParseMethod(f.method); err != nil {
		return &usageError{fmt.Errorf("--method: %w", err)}
	}
	return nil
}

// ruleFlags are the flags that say how much goes.
type ruleFlags struct {
	ratio, expansion float64
	width, align     int
	mode             string
	layers, drop     string
	dropAttention    string
	dropMLP          string
	dropHeads        string
	widths           string
	form             formFlag
}

func (f *ruleFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.Float64Var(&f.ratio, "ratio", 0, "share of each layer's neurons to remove, between 0 and 1")
	fl.IntVar(&f.width, "width", 0, "neurons to keep in each layer")
	fl.Float64Var(&f.expansion, "expansion", 0, "neurons to keep, as a multiple of hidden_size")
	fl.StringVar(&f.layers, "layers", "", "prune these layers only, for example 2-20,24")
	fl.StringVar(&f.drop, "drop-layers", "", "drop these layers whole")
	fl.StringVar(&f.dropAttention, "drop-attention", "", "drop the attention of these layers, for example 10-12,20")
	fl.StringVar(&f.dropMLP, "drop-mlp", "", "drop the MLP of these layers")
	fl.StringVar(&f.dropHeads, "drop-heads", "", "drop these key-value heads and the query heads that share them, as layer:head, for example 3:0,7:1")
	fl.IntVar(&f.align, "align", 1, "round the width to a multiple of this (activation-aware methods: 32, 64 or 256 by the width)")
	fl.StringVar(&f.mode, "align-mode", string(plan.Nearest), "how to round: nearest, down, or pad (with zero neurons)")
	fl.StringVar(&f.widths, "widths", "", "neurons to keep, one number for each layer: a list such as 384,512,512, or a file of numbers")
	f.form.register(cmd)
	completeWords(cmd, "align-mode", string(plan.Nearest), string(plan.Down), string(plan.Pad))
}

// parse reads the flags.
func (f *ruleFlags) parse(cmd *cobra.Command) (plan.Rule, error) {
	r := plan.Rule{Align: f.align, AlignMode: plan.AlignMode(f.mode)}
	changed := cmd.Flags().Changed
	if changed("ratio") {
		r.Ratio = &f.ratio
	}
	if changed("width") {
		r.Width = &f.width
	}
	if changed("expansion") {
		r.Expansion = &f.expansion
	}
	if changed("widths") {
		var err error
		if r.Widths, err = readWidths(f.widths); err != nil {
			return r, err
		}
	}
	for _, l := range []struct {
		flag, text string
		to         *[]int
	}{{"layers", f.layers, &r.Layers}, {"drop-layers", f.drop, &r.Drop}, {"drop-attention", f.dropAttention, &r.DropAttention}, {"drop-mlp", f.dropMLP, &r.DropMLP}} {
		if !changed(l.flag) {
			continue
		}
		var err error
		if *l.to, err = plan.ParseLayers(l.text); err != nil {
			return r, &usageError{fmt.Errorf("--%s: %w", l.flag, err)}
		}
	}
	if changed("drop-heads") {
		var err error
		if r.DropHeads, err = plan.ParseHeads(f.dropHeads); err != nil {
			return r, &usageError{fmt.Errorf("--drop-heads: %w", err)}
		}
	}
	if err := f.form.check(); err != nil {
		return r, err
	}
	return r, r.Check()
}

// outFlags are the flags of verbs that write a checkpoint.
type outFlags struct {
	out, dtype, shard string
	force, dryRun     bool
}

func (f *outFlags) register(cmd *cobra.Command, dtype, dtypes string) {
	fl := cmd.Flags()
	fl.StringVarP(&f.out, "output", "o", "", "directory to write")
	fl.StringVar(&f.dtype, "dtype", dtype, "element type of the weights: "+dtypes)
	fl.StringVar(&f.shard, "max-shard-size", "5GB", "most bytes of one weight file, for example 2GB or 500MB")
	fl.BoolVar(&f.force, "force", false, "replace what the output directory holds")
	fl.BoolVar(&f.dryRun, "dry-run", false, "say what would be done and write nothing")
	types := []string{"f16", "bf16", "f32"}
	if dtype == "same" {
		types = append(types, dtype)
	}
	completeWords(cmd, "dtype", types...)
}

// check validates the flags for an input, before anything long begins. With --force the
// output must not take files with it that the verb reads besides.
func (f *outFlags) check(input string, reads ...string) error {
	if _, err := surgery.DType(f.dtype); err != nil {
		return &usageError{fmt.Errorf("--dtype: %w", err)}
	}
	if _, err := parseBytes(f.shard); err != nil {
		return &usageError{fmt.Errorf("--max-shard-size: %w", err)}
	}
	if f.out == "" {
		if f.dryRun {
			return nil
		}
		return usagef("-o DIR is needed: the directory to write")
	}
	for _, path := range reads {
		if path == "" {
			continue
		}
		if err := checkpoint.CheckOutside(f.out, path); err != nil {
			return err
		}
	}
	return checkpoint.CheckOutput(f.out, input, f.force)
}

// write compiles a plan and, unless this is a dry run, writes the checkpoint.
// from is what the plan refits from.
func (a *app) write(ctx context.Context, c *checkpoint.Checkpoint, p *plan.Plan, from refitSource, f *outFlags, files map[string][]byte, allowNonFinite bool) (*surgery.Program, error) {
	to, err := surgery.DType(f.dtype)
	if err != nil {
		return nil, &usageError{err}
	}
	prog, err := surgery.Compile(p, c, to)
	if err != nil {
		return nil, badInput(err)
	}
	a.notes(prog.Notes[len(c.Notes):])
	if err := from.attach(prog, a.threads); err != nil {
		return nil, err
	}
	if f.dryRun {
		return prog, nil
	}
	shard, err := parseBytes(f.shard)
	if err != nil {
		return nil, &usageError{err}
	}
	sink, err := checkpoint.Create(f.out, c.Path, f.force)
	if err != nil {
		return nil, err
	}
	defer sink.Abort()
	bar := a.byteProgress("writing", prog.Bytes())
	err = prog.Run(ctx, c, sink, files, surgery.Options{Threads: a.threads, ShardBytes: shard, AllowNonFinite: allowNonFinite, Progress: bar.add})
	bar.finish()
	return prog, badInput(err)
}
