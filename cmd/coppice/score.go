package main

import (
	"github.com/spf13/cobra"
)

func (a *app) score() *cobra.Command {
	var f scoreFlags
	var out string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "score MODEL -o FILE",
		Short: "Score every neuron of every MLP",
		Long: `Score every neuron of every gated MLP from its weights, and write the scores as JSON.
A plan can be made from them with ` + "`coppice plan MODEL --scores FILE`" + `.`,
		Example: "  coppice score ./Llama-3.2-3B -o scores.json\n  coppice score ./Llama-3.2-3B --method variance -o variance.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if out == "" && !dryRun {
				return usagef("-o FILE is needed: the file to write")
			}
			c, err := a.openModel(args[0])
			if err != nil {
				return err
			}
			defer c.Close()
			if err := checkFileOutput(out, c.Path); err != nil {
				return err
			}
			s, err := a.compute(cmd.Context(), c, &f)
			if err != nil {
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
	f.register(cmd)
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to write")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "compute the scores and write nothing")
	return cmd
}
