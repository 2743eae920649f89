package main

import (
	"cmp"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/calib"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/surgery"
)

// refitFlags say how a plan's layers are refitted one after another.
type refitFlags struct {
	planFile, out, weights string
	target                 string
	rounds, steps          int
	labels                 float64
	from                   string
	weigh, attention       bool
	cap, damping           float64
	seed                   uint64
	force                  bool
}

func (f *refitFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.planFile, "plan", "", "the plan to refit")
	fl.StringVarP(&f.out, "output", "o", "", "file to write: the plan with its refit")
	fl.StringVar(&f.weights, "stats", "", "file to write: the refitted weights, which apply and verify need")
	fl.StringVar(&f.target, "target", string(plan.StreamTarget), "what the pruned model is to match: predictions (what the dense model predicts; all layers together), stream (the dense model's residual stream) or mlp (the outputs of its MLPs)")
	fl.StringVar(&f.from, "from", "", "with --target predictions: the statistics that the plan refits from, where it does")
	fl.IntVar(&f.steps, "steps", calib.DefaultSteps, "with --target predictions: Gauss-Newton steps on all layers together")
	fl.Float64Var(&f.labels, "labels", 0, "with --target predictions: share of the text's own next tokens in the target, 0 to 1, where no model wrote the text")
	fl.IntVar(&f.rounds, "rounds", 0, "Gauss-Newton steps on gate and up in each layer")
	fl.BoolVar(&f.attention, "attention", false, "refit the output projections of attention too, to repair the layers before")
	fl.BoolVar(&f.weigh, "weigh", true, "weigh tokens so that all residual streams count alike; if false, first tokens are capped")
	fl.Float64Var(&f.cap, "first-token-cap", score.DefaultCap, "most of the trace of H that first tokens have, with --weigh=false")
	fl.Float64Var(&f.damping, "refit-damping", 0, "ridge of the refit (default: chosen on held-back text)")
	fl.Uint64Var(&f.seed, "seed", 0, "seed of the order of the documents")
	fl.BoolVar(&f.force, "force", false, "replace other weights in the place of --stats")
	completeWords(cmd, "target", string(plan.PredictionsTarget), string(plan.StreamTarget), string(plan.MLPTarget))
}

func (f *refitFlags) check(cmd *cobra.Command) error {
	changed := cmd.Flags().Changed
	switch {
	case f.planFile == "":
		return usagef("--plan FILE is needed: a plan made by `coppice plan`")
	case f.weights == "":
		return usagef("--stats FILE is needed: where the refitted weights go")
	case sameName(f.out, f.weights):
		return usagef("-o and --stats name one file, %s; the plan would replace the weights", f.out)
	case !slices.Contains(plan.Targets, plan.Target(f.target)):
		return usagef("--target %s: expected predictions, stream or mlp", f.target)
	case f.steps < 1 || f.steps > calib.MaxSteps:
		return usagef("--steps %d: expected 1 to %d", f.steps, calib.MaxSteps)
	case !(f.labels >= 0 && f.labels <= 1):
		return usagef("--labels %v: expected a share between 0 and 1", f.labels)
	case f.rounds < 0:
		return usagef("--rounds %d: expected 0 or more", f.rounds)
	case f.weigh && changed("first-token-cap"):
		return usagef("--first-token-cap: tokens are weighed by their streams; add --weigh=false")
	case !(f.cap >= 0 && f.cap <= 1):
		return usagef("--first-token-cap %v: expected a share between 0 and 1", f.cap)
	case changed("refit-damping") && !(f.damping > 0 && f.damping <= plan.MaxDamping):
		return usagef("--refit-damping %v: expected a number above 0 and at most %v", f.damping, plan.MaxDamping)
	}
	others := []string{"steps", "labels", "from"}
	if f.target == string(plan.PredictionsTarget) {
		others = []string{"rounds", "attention", "weigh", "first-token-cap", "refit-damping"}
	}
	for _, name := range others {
		if changed(name) {
			return usagef("--%s: is not for --target %s", name, f.target)
		}
	}
	return nil
}

// sameName reports whether two names are of one file, there or not.
func sameName(a, b string) bool {
	x, err1 := filepath.Abs(a)
	y, err2 := filepath.Abs(b)
	return err1 == nil && err2 == nil && (x == y || filepath.Base(x) == filepath.Base(y) && sameFile(filepath.Dir(x), filepath.Dir(y))) || sameFile(a, b)
}

// refitRow is a layer's fit in the output.
type refitRow struct {
	Layer   int     `json:"layer"`
	Heads   float64 `json:"attention_damping"` // 0: the attention repairs nothing
	Damping float64 `json:"damping"`
	Repair  float64 `json:"repair_damping"` // 0: nothing is repaired
	Rounds  int     `json:"rounds"`
	Before  float64 `json:"held_error_before"`
	After   float64 `json:"held_error_after"`
}

func (a *app) refit() *cobra.Command {
	var f refitFlags
	var text textFlags
	cmd := &cobra.Command{
		Use:   "refit MODEL --plan FILE [--calib PATH...] -o FILE --stats FILE",
		Short: "Refit what a plan keeps on a text",
		Long: `With --target predictions, refit the MLPs that the plan prunes, all together, so that the
pruned model predicts what the dense model does: some Gauss-Newton steps against the
Kullback-Leibler divergence of its next token, each in four moves over a share of the text. Moves
get shorter to the end, and a step that leads away by more than noise does, on the part of
the text that is held back, is undone. It begins at the plan's own refit, which needs
the statistics of --from and the text that they are of, and takes several times as long
as they did. Layers and sums are in memory one at a time, with the output head, and what the text
looks like between layers in a hidden file beside --stats where --calib-memory has no room for it.
On SmolLM2-135M it is what brings a pruned model nearest to the dense one (docs/methods.md). With --labels the text itself
has a share in what is to be predicted: that model does better on such text, is further from
the dense one, and its card says that it saw labels.

Otherwise run the model and its pruned twin over the text side by side, layer after layer.
In each layer that the plan prunes, down_proj is fitted on what reaches it in the pruned
model: to what the dense MLP would put out for it, and, with a ridge of its own, to repair
what the layers before lost. With --rounds, gate_proj and up_proj are fitted too, with
--attention o_proj. The columns of the output are the ridges chosen (0: no repair). The
sizes do not change. The weights go to the file of --stats, and the plan with the
fingerprint of that file to -o.

That is an experiment: on SmolLM2-135M with widths by error curves the result was worse on
held-out text than --refit least-squares of plan and prune, although errors on the
calibration text's held-back part fell (docs/methods.md).

A run that was interrupted or killed goes on after the last layer that it saved when the
same command is given again, and ends with the same bytes.`,
		Example: `  coppice refit ./Llama-3.2-1B --plan plan.json --from stats.safetensors --target predictions --calib wiki.txt -o refitted.json --stats weights.safetensors
  coppice refit ./Llama-3.2-3B --plan plan.json --calib wiki.txt -o refitted.json --stats weights.safetensors
  coppice apply ./Llama-3.2-3B --plan refitted.json --stats weights.safetensors -o pruned60`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := cmp.Or(f.check(cmd), text.check()); err != nil {
				return err
			}
			p, err := readFile(f.planFile, plan.Decode)
			if err != nil {
				return err
			}
			c, err := a.openToWrite(args[0], f.out, false, append(text.sources, f.planFile)...)
			if err != nil {
				return err
			}
			defer c.Close()
			if err := checkFileOutput("--stats", f.weights, c.Path); err != nil {
				return err
			}
			m, err := a.openText(cmd.Context(), c, &text)
			if err != nil {
				return err
			}
			if f.target == string(plan.PredictionsTarget) {
				return a.refitPredictions(cmd.Context(), c, m, p, &f, &text)
			}
			if f.weigh {
				f.cap = 1
			}
			rows := []refitRow{}
			bar := a.tokenProgress("refitting")
			w, err := calib.Refit(cmd.Context(), m, c, p, text.sources, f.weights, calib.RefitOptions{
				Options: calib.Options{Tokens: text.tokens, Context: text.ctx, Seed: f.seed, Rows: calib.RowMode(text.rows), Memory: text.bytes,
					Threads: a.threads, Replace: f.force, Progress: bar.show, Warn: a.note},
				Target: plan.Target(f.target), Weigh: f.weigh, Cap: f.cap, Rounds: f.rounds, Attention: f.attention, Damping: f.damping,
				Report: func(l calib.LayerFit) {
					rows = append(rows, refitRow{l.Layer, l.Heads, l.Damping, l.Repair, l.Rounds, l.Before, l.After})
				},
			})
			bar.finish()
			if err != nil {
				return keptBeside(f.weights, badInput(err))
			}
			defer w.Close()
			return a.wroteRefit(args[0], &f, p, struct {
				surgery.WeightsHead
				Fingerprint string     `json:"fingerprint"`
				Layers      []refitRow `json:"layers"` // those that this run fitted
			}{w.WeightsHead, p.Refit.Stats, rows}, func(t io.Writer) {
				fmt.Fprintln(t, "layer\tattention\tdamping\trepair\trounds\theld-back error before\tafter\t")
				for _, r := range rows {
					fmt.Fprintf(t, "%d\t%g\t%g\t%g\t%d\t%.4f\t%.4f\t\n", r.Layer, r.Heads, r.Damping, r.Repair, r.Rounds, r.Before, r.After)
				}
			})
		},
	}
	f.register(cmd)
	text.register(cmd)
	return cmd
}

// wroteRefit writes the plan of a refit whose weights are written, and says what was done.
func (a *app) wroteRefit(model string, f *refitFlags, p *plan.Plan, result any, table func(io.Writer)) error {
	b, err := p.Encode()
	if err != nil {
		return err
	}
	if err := writeFile(f.out, b); err != nil {
		return err
	}
	if a.json || a.quiet {
		return a.result(result)
	}
	t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	table(t)
	if err := t.Flush(); err != nil {
		return err
	}
	a.printf("\nnext: coppice apply %s --plan %s --stats %s -o DIR\n", model, f.out, f.weights)
	return nil
}

// refitSource is what a program refits from: statistics, or weights that were refitted
// before. It holds nothing where a plan refits nothing.
type refitSource struct {
	stats   *score.Stats
	weights *surgery.Weights
	passing bool // removed when the command ends
}

// openRefitSource opens what the plan's refit takes, where a path is given.
func openRefitSource(path string, p *plan.Plan) (r refitSource, err error) {
	switch {
	case path == "":
	case p.Refit != nil && p.Refit.Method == plan.Propagated:
		if r.weights, err = surgery.OpenWeights(path); err != nil {
			err = fmt.Errorf("%w; what the plan keeps was refitted on a text, which takes the file of `coppice prune --weights` or `coppice refit --stats`", err)
		}
	default:
		r.stats, err = score.OpenStats(path)
	}
	return r, badInput(err)
}

// path is empty where there is nothing.
func (r refitSource) path() string {
	switch {
	case r.weights != nil:
		return r.weights.Path()
	case r.stats != nil:
		return r.stats.Path()
	}
	return ""
}

func (r refitSource) close() {
	r.weights.Close()
	r.stats.Close()
}

// attach gives a program what it needs. What it has no use for is refused.
func (r refitSource) attach(prog *surgery.Program, threads int) error {
	switch {
	case r.weights != nil:
		return badInput(prog.AttachWeights(r.weights))
	case r.stats != nil:
		return badInput(prog.Attach(r.stats, threads))
	case prog.NeedsStats():
		return usagef("the plan refits down_proj; name the statistics that it was made with: --stats FILE")
	}
	return nil
}
