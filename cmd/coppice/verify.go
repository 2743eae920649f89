package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/surgery"
)

func (a *app) verify() *cobra.Command {
	var against, planFile, stats string
	var allowNonFinite bool
	cmd := &cobra.Command{
		Use:   "verify DIR [--against MODEL [--plan FILE] [--stats FILE]]",
		Short: "Check that a checkpoint is whole, loadable, and what its plan says",
		Long: `Check a checkpoint: every file is there and whole, config and tensors agree, all layers
have the widths that the config says, every weight is a number. With --against, also make
the checkpoint again from the original and its plan (--plan, or the plan kept in DIR) and
compare byte for byte.`,
		Example: `  coppice verify pruned60
  coppice verify pruned60 --against ./Llama-3.2-3B
  coppice verify pruned60 --against ./Llama-3.2-3B --plan plan.json
  coppice verify best60 --against ./Llama-3.2-3B --stats stats.safetensors`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if planFile != "" && against == "" {
				return usagef("--plan needs --against MODEL: the model that the plan is for")
			}
			if stats != "" && against == "" {
				return usagef("--stats needs --against MODEL: the model that the statistics are of")
			}
			c, err := a.openModel(args[0])
			if err != nil {
				return err
			}
			defer c.Close()
			opt := surgery.Options{Threads: a.threads, AllowNonFinite: allowNonFinite}
			if err := a.verifyWhole(cmd.Context(), c, opt); err != nil {
				return badInput(err)
			}
			if against != "" {
				if err := a.verifyAgainst(cmd.Context(), c, against, planFile, stats, opt); err != nil {
					return badInput(err)
				}
			}
			_, n := c.Spec.Parameters()
			a.printf("%s: whole: %d tensors, %s parameters, %s, width %s", args[0], len(c.Tensors()), countText(n), bytesText(c.Bytes()), widthsText(c.Spec.Widths))
			if !allowNonFinite {
				a.printf(", every weight finite")
			}
			a.printf("\n")
			if against != "" {
				a.printf("%s: every byte is what the plan makes of %s\n", args[0], against)
			}
			return a.result(map[string]any{"ok": true, "tensors": len(c.Tensors()), "parameters": n, "bytes": c.Bytes(), "form": c.Spec.Form.String(), "intermediate_size": c.Spec.Intermediate, "widths": c.Spec.Widths, "against": against})
		},
	}
	cmd.Flags().StringVar(&against, "against", "", "the model that DIR was made from")
	cmd.Flags().StringVar(&planFile, "plan", "", "the plan that DIR was made by (default: the one kept in DIR)")
	cmd.Flags().StringVar(&stats, "stats", "", "the statistics that the plan refits from")
	cmd.Flags().BoolVar(&allowNonFinite, "allow-nonfinite", false, "accept weights that are NaN or infinite")
	return cmd
}

// verifyWhole checks what Open cannot know from headers.
func (a *app) verifyWhole(ctx context.Context, c *checkpoint.Checkpoint, opt surgery.Options) error {
	if err := c.RequireWidths(); err != nil {
		return err
	}
	if err := checkModeling(c); err != nil {
		return err
	}
	if err := arch.CheckLayerLists(c.Config, c.Spec.Layers); err != nil {
		return fmt.Errorf("%s: config.json: %w", c.Path, err)
	}
	bar := a.byteProgress("reading", c.Bytes())
	defer bar.finish()
	opt.Progress = bar.add
	return surgery.CheckWeights(ctx, c, opt)
}

// checkModeling is an error if a form that transformers loads through a modelling file
// comes without it.
func checkModeling(c *checkpoint.Checkpoint) error {
	if c.Spec.Form != arch.PerLayer || slices.ContainsFunc(c.Extra(), func(f checkpoint.ExtraFile) bool { return f.Name == arch.ModelingName }) {
		return nil
	}
	return fmt.Errorf("%s: %s is missing, through which transformers loads layers of different widths; copy it from another output of --form transformers", c.Path, arch.ModelingName)
}

// verifyAgainst makes the checkpoint again and compares.
func (a *app) verifyAgainst(ctx context.Context, c *checkpoint.Checkpoint, against, planFile, stats string, opt surgery.Options) error {
	if planFile == "" {
		planFile = filepath.Join(c.Path, checkpoint.PlanName)
		if _, err := os.Stat(planFile); err != nil {
			return usagef("%s holds no %s; name the plan with --plan", c.Path, checkpoint.PlanName)
		}
	}
	p, err := readFile(planFile, plan.Decode)
	if err != nil {
		return err
	}
	original, err := a.openModel(against)
	if err != nil {
		return err
	}
	defer original.Close()
	prog, err := surgery.Compile(p, original, c.UniformType())
	if err != nil {
		return err
	}
	from, err := openRefitSource(stats, p)
	if err != nil {
		return err
	}
	defer from.close()
	if err := from.attach(prog, a.threads); err != nil {
		return err
	}
	bar := a.byteProgress("comparing", prog.Bytes())
	defer bar.finish()
	opt.Progress = bar.add
	return prog.Verify(ctx, original, c, opt)
}
