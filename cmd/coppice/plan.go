package main

import (
	"cmp"
	"fmt"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
)

func (a *app) plan() *cobra.Command {
	var f planFlags
	var out, scores string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "plan MODEL -o FILE (--ratio R | --width N | --expansion X)",
		Short: "Decide which neurons stay, and write the decision down",
		Long: `Decide which neurons of which layer stay, and write the decision as a plan: JSON that
names the model by fingerprint, the rule, and every neuron that stays. The same inputs
give the same bytes. ` + "`coppice apply`" + ` carries a plan out.`,
		Example: `  coppice plan ./Llama-3.2-3B --ratio 0.6 -o plan.json
  coppice plan ./Llama-3.2-3B --expansion 1.4 --align 256 --scores scores.json -o plan.json
  coppice plan ./Llama-3.2-3B --ratio 0.6 --method obs --refit least-squares --stats stats.safetensors -o plan.json
  coppice plan ./Llama-3.2-3B --ratio 0.6 --method obs --refit least-squares --allocation global --stats stats.safetensors -o plan.json
  coppice plan show plan.json
  coppice plan diff plan.json other.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			changed := cmd.Flags().Changed
			if err := cmp.Or(f.check(cmd), f.allocation.checkText(&f.text)); err != nil {
				return err
			}
			if scores != "" && (changed("method") || changed("seed")) {
				return usagef("--scores already says the method and the seed")
			}
			if i := slices.IndexFunc(f.text.names(), changed); i >= 0 && f.allocation.allocation != measured {
				return usagef("--%s: a plan is made from --stats; text is run for --allocation measured alone", f.text.names()[i])
			}
			c, err := a.openToWrite(args[0], out, dryRun, append(f.text.sources, scores, f.stats)...)
			if err != nil {
				return err
			}
			defer c.Close()
			var sc *score.Scores
			if scores != "" {
				if sc, err = a.readScores(scores, c); err != nil {
					return err
				}
				f.method = string(sc.Method)
			}
			if err := f.fit(cmd, &c.Spec); err != nil {
				return err
			}
			var st *score.Stats
			if sc == nil || f.refit != "none" || f.curves && (sc.Curves == nil || f.stats != "") || f.allocation.allocation == measured {
				if st, err = f.open(c); err != nil {
					return err
				}
				defer st.Close()
			}
			if f.curves && st != nil && sc != nil && sc.Curves != nil {
				if err := sc.Curves.CheckStats(st); err != nil {
					return badInput(fmt.Errorf("--scores %s: %w", scores, err))
				}
			}
			p, err := f.decide(cmd.Context(), a, c, sc, st)
			if err != nil {
				return err
			}
			b, err := p.Encode()
			if err != nil {
				return err
			}
			if !dryRun {
				if err := writeFile(out, b); err != nil {
					return err
				}
			}
			if a.json || a.quiet {
				return a.result(p)
			}
			if err := p.Show(a.stdout); err != nil {
				return err
			}
			if !dryRun {
				a.printf("\nnext: coppice apply %s --plan %s%s -o DIR\n", args[0], out, f.again(p))
			}
			return nil
		},
	}
	f.register(cmd)
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to write")
	cmd.Flags().StringVar(&scores, "scores", "", "use the scores of this file instead of computing them")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show the plan and write nothing")
	cmd.AddCommand(a.planShow(), a.planDiff())
	return cmd
}

// readScores reads a file of scores and checks that they are of this model.
func (a *app) readScores(path string, c *checkpoint.Checkpoint) (*score.Scores, error) {
	s, err := readFile(path, score.Decode)
	if err != nil {
		return nil, err
	}
	fingerprint, err := c.Fingerprint()
	if err != nil {
		return nil, badInput(err)
	}
	if s.Model != fingerprint {
		return nil, badInput(fmt.Errorf("%s: the scores are of another model (scores: %s, model: %s); make them for this one with `coppice score`", path, s.Model, fingerprint))
	}
	return s, badInput(c.RequireWidths())
}

func (a *app) planShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show FILE",
		Short:   "Show a plan: its rule, and how many neurons of each layer stay",
		Example: "  coppice plan show plan.json\n  coppice plan show plan.json --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := readFile(args[0], plan.Decode)
			if err != nil {
				return err
			}
			if a.json || a.quiet {
				return a.result(p)
			}
			return p.Show(a.stdout)
		},
	}
}

func (a *app) planDiff() *cobra.Command {
	return &cobra.Command{
		Use:     "diff A B",
		Short:   "Compare two plans layer by layer",
		Example: "  coppice plan diff maxabs.json variance.json",
		Args:    cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			x, err := readFile(args[0], plan.Decode)
			if err != nil {
				return err
			}
			y, err := readFile(args[1], plan.Decode)
			if err != nil {
				return err
			}
			diffs, err := plan.Diff(x, y)
			if err != nil {
				return badInput(err)
			}
			if a.json || a.quiet {
				return a.result(diffs)
			}
			if x.Model != y.Model {
				fmt.Fprintf(a.stdout, "the plans are for different models\n")
			}
			fmt.Fprintf(a.stdout, "A  %s, %s\nB  %s, %s\n", x.Method, x.Rule.String(), y.Method, y.Rule.String())
			t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
			fmt.Fprintln(t, "layer\tkept A\tkept B\tboth\tonly A\tonly B\twidth A\twidth B\t")
			same, heads := 0, 0
			for _, d := range diffs {
				if d.AttentionA != d.AttentionB {
					heads++
				}
				if d.Same() {
					same++
					continue
				}
				fmt.Fprintf(t, "%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", d.Layer, d.KeepA, d.KeepB, d.Both, d.KeepA-d.Both, d.KeepB-d.Both, d.WidthA, d.WidthB)
			}
			if same < len(diffs) {
				if err := t.Flush(); err != nil {
					return err
				}
			}
			fmt.Fprintf(a.stdout, "%d of %d layers are the same\n", same, len(diffs))
			if heads > 0 {
				fmt.Fprintf(a.stdout, "%d differ in their attention (--json says how)\n", heads)
			}
			return nil
		},
	}
}
