package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
)

func (a *app) score() *cobra.Command {
	var f statsFlags
	var out string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "score MODEL -o FILE",
		Short: "Score every neuron of every MLP",
		Long: `Score every neuron of every gated MLP, from its weights or, with --stats, from what it
does on a text, and write the scores as JSON. With --stats, whatever the method, the
file also says for each layer what its output loses with each number of neurons that
stay, best first, with down_proj refitted and without: error curves, by which
` + "`coppice plan MODEL --scores FILE --allocation global`" + ` shares widths out.`,
		Example: `  coppice score ./Llama-3.2-3B -o scores.json
  coppice score ./Llama-3.2-3B --method variance -o variance.json
  coppice score ./Llama-3.2-3B --method obs --stats stats.safetensors -o obs.json
  coppice score ./Llama-3.2-3B --method maxabs --stats stats.safetensors -o curves.json
  coppice score compare scores.json obs.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd, false); err != nil {
				return err
			}
			if f.stats == "" {
				collectGarbage(400) // a small heap, mostly the output's text; at the process's rate collecting takes a tenth of the time
			}
			c, err := a.openToWrite(args[0], out, dryRun, f.stats)
			if err != nil {
				return err
			}
			defer c.Close()
			st, err := f.open(c)
			if err != nil {
				return err
			}
			defer st.Close()
			s, err := f.compute(cmd.Context(), a, c, st)
			if err != nil {
				return err
			}
			if err := f.addCurves(cmd.Context(), a, c, s, st); err != nil {
				return err
			}
			b, err := s.Encode()
			if err != nil {
				return err
			}
			if !dryRun {
				if err := writeFile(out, b); err != nil {
					return err
				}
			}
			neurons := 0
			for _, l := range s.Layers {
				neurons += len(l)
			}
			a.printf("%s scores of %s neurons in %d layers", f.method, countText(int64(neurons)), len(s.Layers))
			if !dryRun {
				a.printf(" written to %s\nnext: coppice plan %s --scores %s --ratio 0.6 -o plan.json", out, args[0], out)
			}
			a.printf("\n")
			return a.result(map[string]any{"method": s.Method, "seed": s.Seed, "model": s.Model, "layers": len(s.Layers), "neurons": neurons, "output": out})
		},
	}
	f.register(cmd, false)
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to write")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "compute the scores and write nothing")
	cmd.AddCommand(a.scoreCompare())
	return cmd
}

// comparedRatios are the ratios at which two files of scores are compared.
var comparedRatios = []float64{0.2, 0.4, 0.6}

func (a *app) scoreCompare() *cobra.Command {
	return &cobra.Command{
		Use:   "compare A B",
		Short: "Show how far two files of scores agree on what stays",
		Long: `For each layer, the share of the neurons that stay by A which also stay by B, at ratios of
20, 40 and 60 %. Two orders by chance agree on 80, 60 and 40 %.`,
		Example: "  coppice score compare maxabs.json obs.json",
		Args:    cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			var s [2]*score.Scores
			for i, path := range args {
				var err error
				if s[i], err = readFile(path, score.Decode); err != nil {
					return err
				}
			}
			overlap, err := plan.Overlap(s[0], s[1], comparedRatios)
			if err != nil {
				return badInput(err)
			}
			if a.json || a.quiet {
				return a.result(map[string]any{"methods": []score.Method{s[0].Method, s[1].Method}, "ratios": comparedRatios, "overlap": overlap})
			}
			if s[0].Model != s[1].Model {
				fmt.Fprintf(a.stdout, "the scores are of different models\n")
			}
			fmt.Fprintf(a.stdout, "share of the neurons kept by %s that %s keeps too\n", s[0].Method, s[1].Method)
			t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
			fmt.Fprint(t, "layer\t")
			mean := make([]float64, len(comparedRatios))
			for _, r := range comparedRatios {
				fmt.Fprintf(t, "ratio %.0f %%\t", 100*r)
			}
			fmt.Fprintln(t)
			for l, row := range overlap {
				fmt.Fprintf(t, "%d\t", l)
				for i, x := range row {
					fmt.Fprintf(t, "%.1f %%\t", 100*x)
					mean[i] += x / float64(len(overlap))
				}
				fmt.Fprintln(t)
			}
			fmt.Fprint(t, "mean\t")
			for _, x := range mean {
				fmt.Fprintf(t, "%.1f %%\t", 100*x)
			}
			fmt.Fprintln(t)
			return t.Flush()
		},
	}
}
