package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/calib"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/surgery"
)

func (a *app) prune() *cobra.Command {
	var f planFlags
	var o outFlags
	cmd := &cobra.Command{
		Use:   "prune MODEL -o DIR (--ratio R | --width N | --expansion X)",
		Short: "Score, plan and apply in one go",
		Long: `Remove neurons from every gated MLP and write a checkpoint that loads wherever the
original loads. It is the same as score, plan and apply one after the other, and the plan
is kept in the output as ` + checkpoint.PlanName + `. The default is the published recipe:
scores by maximum absolute weight (maxabs), the same width in all layers.

With --method best, neurons are scored by what they do on a text (` + string(bestMethod) + `), and what stays
is refitted to make up for what goes (` + string(bestRefit) + `). Then all layers are refitted together, in
steps, so that the model predicts what the dense one does (--steps), if what that takes
fits into --calib-memory. The output has the same size and is far better. With --steps 0 it
is made in a fraction of the time.

The text is that of --calib, or a small one that the program carries. Statistics that
` + "`coppice calib`" + ` made of it may be given too (--stats); without the text there are no steps.
--weights FILE keeps what the steps made, and --calib with --stats FILE the statistics: verify
needs the former, or the latter where there were no steps.

--allocation global gives each layer a width of its own, as many parameters in all: wide
where an error would be large beside the residual stream. Layers of different widths
(--allocation, --widths, --layers) are written in a form that can say them:
--form transformers, with a small modelling file that transformers loads with
trust_remote_code=True; --form decilm for vLLM, widths rounded up to multiples of 256 by
zero neurons; --form padded, a plain checkpoint as large as if all layers were as wide as
the widest.`,
		Example: `  coppice prune ./Llama-3.2-3B -o pruned60 --ratio 0.6
  coppice prune ./Llama-3.2-3B -o pruned40 --ratio 0.4 --align 256 --dtype f16
  coppice prune SmolLM2-135M-Instruct.Q4_1.gguf -o smol60 --ratio 0.6
  coppice prune ./Llama-3.2-1B -o best60 --ratio 0.6 --method best --calib wiki.txt --calib c4.jsonl --calib-memory 8GB --weights weights.safetensors
  coppice prune ./Llama-3.2-3B -o best60 --ratio 0.6 --method best --steps 0 --calib wiki.txt --calib c4.jsonl --stats stats.safetensors
  coppice prune ./Llama-3.2-3B -o best60 --ratio 0.6 --method best --allocation global --stats stats.safetensors
  coppice prune ./Llama-3.2-3B -o uneven --widths widths.json --form decilm
  coppice prune ./Llama-3.2-3B --width 4096 --dry-run`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			start := time.Now()
			if err := cmp.Or(f.check(cmd), checkText(cmd, &f), o.check(args[0], append(f.text.sources, f.stats)...)); err != nil {
				return err
			}
			c, err := a.openModel(args[0])
			if err != nil {
				return err
			}
			defer c.Close()
			if err := f.fit(cmd, &c.Spec); err != nil {
				return err
			}
			if err := checkpoint.CheckOutput(orDot(o.out), c.Path, o.force); o.out != "" && err != nil {
				return err
			}
			st, discard, err := a.statistics(cmd.Context(), c, &f, o.out)
			if err != nil {
				return err
			}
			defer st.Close()
			defer func() {
				if !errors.Is(err, context.Canceled) {
					discard()
				}
			}()
			p, err := f.decide(cmd.Context(), a, c, nil, st)
			if err != nil {
				return err
			}
			if f.best && !cmd.Flags().Changed("steps") && !o.dryRun {
				if f.steps, err = f.bestSteps(a, c, p, st); err != nil {
					return err
				}
			}
			from := refitSource{stats: st, passing: f.stats == ""}
			if f.steps > 0 && !o.dryRun {
				w, discard, err := a.takeSteps(cmd.Context(), c, p, st, &f, o.out)
				if err != nil {
					return err
				}
				defer discard()
				defer w.Close()
				from = refitSource{weights: w, passing: f.weights == ""}
			}
			return a.carryOut(cmd, args[0], c, p, from, &o, f.allowNonFinite, start)
		},
	}
	f.register(cmd)
	cmd.Flags().IntVar(&f.steps, "steps", 0, fmt.Sprintf("after the refit, refit all layers together towards what the dense model predicts, in so many steps (see coppice refit); they take several times as long as the rest (default %d with --method best where --calib-memory has room for them, else 0)", calib.DefaultSteps))
	cmd.Flags().StringVar(&f.weights, "weights", "", "with --steps: file to keep the refitted weights in, which verify needs then")
	o.register(cmd, "same", "same, f16, bf16 or f32 (same is f16 for a quantised GGUF)")
	return cmd
}

func orDot(path string) string {
	if path == "" {
		return "."
	}
	return path
}

func (a *app) apply() *cobra.Command {
	var o outFlags
	var planFile, stats string
	var form formFlag
	var allowNonFinite bool
	cmd := &cobra.Command{
		Use:   "apply MODEL --plan FILE -o DIR",
		Short: "Carry a plan out",
		Long: `Write the checkpoint that a plan describes. The plan must have been made for this model.
One that refits weights needs the statistics that it was made with; the same plan and
statistics give the same bytes.`,
		Example: `  coppice apply ./Llama-3.2-3B --plan plan.json -o pruned60
  coppice apply ./Llama-3.2-3B --plan plan.json --stats stats.safetensors -o pruned60
  coppice apply ./Llama-3.2-3B --plan plan.json -o pruned60 --dtype f16
  coppice apply ./Llama-3.2-3B --plan uneven.json -o uneven --form padded`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			start := time.Now()
			if err := o.check(args[0], stats); err != nil {
				return err
			}
			if err := form.check(); err != nil {
				return err
			}
			if planFile == "" {
				return usagef("--plan FILE is needed: a plan made by `coppice plan`")
			}
			p, err := readFile(planFile, plan.Decode)
			if err != nil {
				return err
			}
			if stats != "" && p.Refit == nil {
				return usagef("--stats: the plan refits nothing; leave it out")
			}
			c, err := a.openModel(args[0])
			if err != nil {
				return err
			}
			defer c.Close()
			if err := c.RequireWidths(); err != nil {
				return badInput(err)
			}
			if form != "" {
				if p, err = p.InForm(plan.Form(form), &c.Spec); err != nil {
					return err
				}
			}
			from, err := openRefitSource(stats, p)
			if err != nil {
				return err
			}
			defer from.close()
			return a.carryOut(cmd, args[0], c, p, from, &o, allowNonFinite, start)
		},
	}
	o.register(cmd, "same", "same, f16, bf16 or f32 (same is f16 for a quantised GGUF)")
	cmd.Flags().StringVar(&planFile, "plan", "", "the plan to carry out")
	cmd.Flags().StringVar(&stats, "stats", "", "the statistics that the plan refits from")
	form.register(cmd)
	cmd.Flags().BoolVar(&allowNonFinite, "allow-nonfinite", false, "go on where a weight is NaN or infinite")
	return cmd
}

// carryOut writes a planned checkpoint with its plan beside it, and says what changed.
func (a *app) carryOut(cmd *cobra.Command, model string, c *checkpoint.Checkpoint, p *plan.Plan, from refitSource, o *outFlags, allowNonFinite bool, start time.Time) error {
	if p.Refit == nil {
		from = refitSource{} // it had a part in the scores alone
	}
	b, err := p.Encode()
	if err != nil {
		return err
	}
	prog, err := a.write(cmd.Context(), c, p, from, o, map[string][]byte{checkpoint.PlanName: b}, allowNonFinite)
	if err != nil {
		return err
	}
	sum := summarise(c, prog)
	sum.Output, sum.DryRun, sum.Seconds = o.out, o.dryRun, time.Since(start).Seconds()
	if a.json || a.quiet {
		return a.result(sum)
	}
	sum.table(a)
	if o.dryRun {
		a.printf("\ndry run: nothing was written\n")
		return nil
	}
	a.printf("\nwritten to %s in %.1f s; next:\n", o.out, sum.Seconds)
	switch path := from.path(); {
	case path == "":
		a.printf("  coppice verify %s --against %s\n", o.out, model)
	case !from.passing: // without it the weights cannot be made again
		a.printf("  coppice verify %s --against %s --stats %s\n", o.out, model, path)
	}
	a.printf("  coppice inspect %s\n", o.out)
	if prog.Spec.Form != arch.Plain {
		a.printf("in Python: AutoModelForCausalLM.from_pretrained(%q, trust_remote_code=True)\n", o.out)
	}
	return nil
}

// side is one side of a comparison.
type side struct {
	Layers       int     `json:"num_hidden_layers"`
	Form         string  `json:"form"`
	Width        int     `json:"intermediate_size"` // the widest layer's
	Widths       []int   `json:"widths"`
	Expansion    float64 `json:"expansion_ratio"` // the mean of the layers'
	Parameters   int64   `json:"parameters"`
	Bytes        int64   `json:"bytes"`
	MemoryOf1000 int64   `json:"memory_with_1000_tokens"` // weights and the KV cache of 1,000 tokens
}

// summary is what pruning changed.
type summary struct {
	Output  string  `json:"output,omitempty"`
	DryRun  bool    `json:"dry_run"`
	Before  side    `json:"before"`
	After   side    `json:"after"`
	Seconds float64 `json:"seconds"`
}

func summarise(c *checkpoint.Checkpoint, prog *surgery.Program) summary {
	make := func(spec arch.Spec, bytes int64) side {
		_, n := spec.Parameters()
		return side{spec.Layers, spec.Form.String(), spec.Intermediate, spec.Widths, meanWidth(&spec) / float64(spec.Hidden), n, bytes, bytes + kvBytes(&spec)}
	}
	return summary{Before: make(c.Spec, c.Bytes()), After: make(prog.Spec, prog.Bytes())}
}

// meanWidth is the mean width of the layers.
func meanWidth(spec *arch.Spec) float64 {
	sum := 0
	for _, w := range spec.Widths {
		sum += w
	}
	return float64(sum) / float64(spec.Layers)
}

// widthsText is the width of the layers, or the narrowest and the widest.
func widthsText(widths []int) string {
	if least, most := slices.Min(widths), slices.Max(widths); least < most {
		return fmt.Sprintf("%d to %d", least, most)
	}
	return strconv.Itoa(widths[0])
}

// kvBytes is the size of the keys and values of 1,000 tokens at two bytes each.
func kvBytes(spec *arch.Spec) int64 { return 1000 * 2 * spec.KVElements() }

func (s *summary) table(a *app) {
	t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(name string, format func(side) string, value func(side) float64) {
		change := "-"
		if b := value(s.Before); b != 0 {
			change = fmt.Sprintf("%+.1f %%", 100*(value(s.After)/b-1))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t\n", name, format(s.Before), format(s.After), change)
	}
	fmt.Fprintln(t, "\tbefore\tafter\tchange\t")
	if s.Before.Layers != s.After.Layers {
		row("layers", func(s side) string { return fmt.Sprint(s.Layers) }, func(s side) float64 { return float64(s.Layers) })
	}
	row("MLP width", func(s side) string { return widthsText(s.Widths) }, func(s side) float64 { return s.Expansion })
	row("expansion ratio", func(s side) string { return fmt.Sprintf("%.3f", s.Expansion) }, func(s side) float64 { return s.Expansion })
	row("parameters", func(s side) string { return countText(s.Parameters) }, func(s side) float64 { return float64(s.Parameters) })
	row("weights", func(s side) string { return bytesText(s.Bytes) }, func(s side) float64 { return float64(s.Bytes) })
	row("memory, 1,000 tokens", func(s side) string { return bytesText(s.MemoryOf1000) }, func(s side) float64 { return float64(s.MemoryOf1000) })
	t.Flush()
}
