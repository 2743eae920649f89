package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/energy"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/speed"
	"github.com/coppice-lm/coppice/study"
)

// speedResult is what speed prints with --json; a study's record of a run has the same
// fields.
type speedResult struct {
	Model       string        `json:"model"`
	DType       string        `json:"dtype"`
	LoadSeconds float64       `json:"load_seconds"`
	PeakMemory  int64         `json:"peak_memory_bytes,omitempty"`
	Speed       []study.Speed `json:"speed"`
	Energy      study.Energy  `json:"energy"`
	Host        study.Host    `json:"host"`
}

// speedFlags are the flags of speed.
type speedFlags struct {
	opt       speed.Options
	meter     energy.Options
	grid      float64
	idle      time.Duration
	precision engine.Precision
}

func (a *app) speed() *cobra.Command {
	var f speedFlags
	cmd := &cobra.Command{
		Use:   "speed MODEL",
		Short: "Measure how fast a model runs, in how much memory, with how much energy",
		Long: `Measure the time that a model takes to load, the most memory that it holds, and the
tokens a second of prompts and of decoding, by the length of the prompt and the number
of sequences that run together, each the median of some repetitions.

Energy is read where there is a meter: RAPL's counters of the processor (on most
systems for root only), and nvidia-smi. The meters see the whole machine. Its power at
rest is measured first and subtracted; both figures are shown. --tdp gives an estimate
where there is no RAPL: these watts for as long as the work takes. --grid adds emissions.`,
		Example: `  coppice speed smol60 --dtype bf16
  coppice speed smol60 --prompt 128,512,2048 --decode 64 --batch 1,4 --json
  coppice speed smol60 --tdp 65 --grid 380`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd); err != nil {
				return err
			}
			r, err := a.measureSpeed(cmd.Context(), args[0], f)
			if errors.Is(err, context.Canceled) {
				return &interruptedError{err, "what was measured is lost"}
			}
			if err != nil {
				return badInput(err)
			}
			if f.meter.TDP > 0 && !r.Energy.Estimate {
				a.note("--tdp has no effect: the processor's energy is measured")
			}
			if err := a.printSpeed(r); err != nil {
				return &streamError{err}
			}
			return a.result(r)
		},
	}
	fl := cmd.Flags()
	fl.IntSliceVar(&f.opt.Contexts, "prompt", []int{128, 512}, "lengths of prompts in tokens")
	fl.IntVar(&f.opt.Decode, "decode", 32, "tokens to decode after each prompt; 0: none")
	fl.IntSliceVar(&f.opt.Batches, "batch", []int{1, 4}, "numbers of sequences that run together")
	fl.StringVar(&f.opt.DType, "dtype", "f32", "weights and products in f32, bf16, f16, q8_0, q4_0, q4_1, or stored: weights as in the file, multiplied as llama.cpp does")
	var names []string
	for _, p := range engine.Precisions() {
		names = append(names, p.String())
	}
	completeWords(cmd, "dtype", names...)
	fl.IntVar(&f.opt.Repeat, "repeat", 3, "times that all is measured, after once to warm up")
	fl.Float64Var(&f.meter.TDP, "tdp", 0, "the processor's power in watts, to estimate energy where it cannot be measured")
	fl.Float64Var(&f.grid, "grid", 0, "carbon intensity of the electricity in grams of CO2e a kWh")
	fl.DurationVar(&f.idle, "idle", 3*time.Second, "how long the power at rest is measured where there is a meter; 0: not")
	fl.StringVar(&f.meter.Powercap, "powercap", "", "directory of RAPL's zones (default /sys/class/powercap)")
	return cmd
}

// check refuses flags that mean nothing.
func (f *speedFlags) check(cmd *cobra.Command) (err error) {
	if f.precision, err = engine.ParsePrecision(f.opt.DType); err != nil {
		return usagef("--dtype: %w", err)
	}
	for _, list := range []struct {
		flag   string
		values []int
	}{{"prompt", f.opt.Contexts}, {"batch", f.opt.Batches}} {
		if len(list.values) == 0 {
			return usagef("--%s: expected at least one number", list.flag)
		}
		for i, v := range list.values {
			if v < 1 || v > speed.Most {
				return usagef("--%s %d: expected at least 1 and at most %d", list.flag, v, speed.Most)
			}
			if slices.Contains(list.values[:i], v) {
				return usagef("--%s %d: given twice", list.flag, v)
			}
		}
	}
	given := cmd.Flags().Changed
	switch {
	case f.opt.Decode < 0 || f.opt.Decode > speed.Most:
		return usagef("--decode %d: expected at least 0 and at most %d", f.opt.Decode, speed.Most)
	case f.opt.Repeat < 1 || f.opt.Repeat > speed.Most:
		return usagef("--repeat %d: expected at least 1 and at most %d", f.opt.Repeat, speed.Most)
	case given("tdp") && !(f.meter.TDP > 0 && f.meter.TDP <= 100_000):
		return usagef("--tdp %v: expected watts, more than 0", f.meter.TDP)
	case given("grid") && !(f.grid >= 0 && f.grid <= 10_000):
		return usagef("--grid %v: expected grams of CO2e a kWh, such as 380", f.grid)
	case f.idle < 0:
		return usagef("--idle %v: expected at least 0", f.idle)
	}
	if given("grid") {
		f.meter.Grid = &f.grid
	}
	if err := kernel.LevelError(); err != nil {
		return &usageError{err}
	}
	return nil
}

// measureSpeed measures one model.
func (a *app) measureSpeed(ctx context.Context, path string, f speedFlags) (*speedResult, error) {
	if err := lm.Check(path); err != nil {
		return nil, err
	}
	meter := energy.Open(ctx, f.meter)
	defer meter.Close()
	if f.idle > 0 {
		if err := meter.Idle(ctx, f.idle); err != nil {
			return nil, err
		}
	}
	resetPeakMemory()
	start := time.Now()
	m, err := lm.Open(ctx, path, lm.Options{Precision: f.precision, Threads: a.threads})
	if err != nil {
		return nil, err
	}
	r := &speedResult{Model: path, DType: f.opt.DType, LoadSeconds: time.Since(start).Seconds(), Host: study.ThisHost(a.threads)}
	a.notes(m.Notes())
	if longest, most := slices.Max(f.opt.Contexts)+f.opt.Decode, m.Info().MaxLength; longest > most {
		return nil, usagef("--prompt %d and --decode %d are %d tokens, the model takes %d", slices.Max(f.opt.Contexts), f.opt.Decode, longest, most)
	}
	need, err := speed.Memory(m.Engine(), f.opt)
	if err != nil {
		return nil, err
	}
	if free := freeMemory(); free > 0 && need > float64(free) {
		return nil, usagef("--batch %d: %d sequences of %d tokens need at least %.1f GB of memory beside the model, %s are free; measure smaller batches or shorter prompts",
			slices.Max(f.opt.Batches), slices.Max(f.opt.Batches), slices.Max(f.opt.Contexts)+f.opt.Decode, need/1e9, bytesText(free))
	}
	bar := a.progress("measuring", " turns", 1)
	f.opt.Meter = meter
	f.opt.Progress = func(done, total int) { bar.show(int64(done), int64(total)) }
	r.Speed, r.Energy, err = speed.Measure(ctx, m.Engine(), f.opt)
	bar.finish()
	if err != nil {
		return nil, err
	}
	r.PeakMemory = peakMemory()
	return r, nil
}

// printSpeed writes the result for people.
func (a *app) printSpeed(r *speedResult) error {
	if a.quiet || a.json {
		return nil
	}
	memory := "unknown"
	if r.PeakMemory > 0 {
		memory = bytesText(r.PeakMemory)
	}
	fmt.Fprintf(a.stdout, "%s in %s, %d threads of %s (%s)\nloaded in %.2f s, peak memory %s\n\n",
		r.Model, r.DType, r.Host.Threads, r.Host.CPU, r.Host.Level, r.LoadSeconds, memory)
	t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	joules := "J/token"
	if r.Energy.Estimate {
		joules += " (estimate)"
	}
	fmt.Fprintf(t, "\tcontext\tbatch\ttokens/s\tslowest\tfastest\t%s\tabove idle\t\n", joules)
	for _, s := range r.Speed {
		fmt.Fprintf(t, "%s\t%d\t%d\t%.1f\t%.1f\t%.1f\t%s\t%s\t\n", s.Kind, s.Context, s.Batch, s.TokensPS,
			slices.Min(s.Runs), slices.Max(s.Runs), orDash(s.JoulesPT), orDash(s.NetJoulesPT))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.stdout, "\n%s\n", energyText(r.Energy))
	return err
}

// orDash is a value that may not be known.
func orDash(v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.4g", *v)
}

// energyText says what a span drew, and what of it is not known.
func energyText(r energy.Reading) string {
	var b strings.Builder
	b.WriteString("energy: ")
	if r.Joules == nil {
		fmt.Fprintf(&b, "no meter (%s)", r.Absent)
		return b.String()
	}
	fmt.Fprintf(&b, "%.4g J in %.4g s by %s", *r.Joules, r.Seconds, r.Meter)
	if r.Estimate {
		b.WriteString(", an estimate")
	}
	if r.NetJoules != nil {
		fmt.Fprintf(&b, "; %.4g J above the idle power of %.4g W", *r.NetJoules, *r.IdleWatts)
	}
	if r.GramsCO2e != nil {
		fmt.Fprintf(&b, "; %.3g g CO2e at %v g/kWh", *r.GramsCO2e, *r.Grid)
	}
	for i, d := range r.Domains {
		fmt.Fprintf(&b, "%s%s %.4g J", []string{"\n  ", ", "}[min(i, 1)], d.Name, d.Joules)
		if !d.Counted {
			b.WriteString(" (not counted)")
		}
	}
	if r.Absent != "" {
		fmt.Fprintf(&b, "\n  absent: %s", r.Absent)
	}
	return b.String()
}
