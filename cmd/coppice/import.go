package main

import (
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/plan"
)

func (a *app) importGGUF() *cobra.Command {
	var o outFlags
	var allowNonFinite bool
	cmd := &cobra.Command{
		Use:   "import FILE.gguf -o DIR",
		Short: "Turn a GGUF file into a Hugging Face directory",
		Long: `Write a GGUF file (architectures llama, qwen2, qwen3, gemma2, gemma3, phi3) as a Hugging
Face directory:
weights dequantised, tokenizer, chat template, config. Name the first part of a split file.`,
		Example: `  coppice import SmolLM2-135M-Instruct.Q4_1.gguf -o smol
  coppice import SmolLM2-135M-Instruct.Q4_1.gguf -o smol --dtype f32`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			start := time.Now()
			if !slices.Contains([]string{"f16", "bf16", "f32"}, o.dtype) {
				return usagef("--dtype: unknown element type %q; types are f16, bf16, f32", o.dtype)
			}
			if err := o.check(args[0]); err != nil {
				return err
			}
			c, err := a.openModel(args[0])
			if err != nil {
				return err
			}
			defer c.Close()
			if !c.GGUF() {
				return usagef("%s: is no GGUF file; a Hugging Face directory needs no import", args[0])
			}
			fingerprint, err := c.Fingerprint()
			if err != nil {
				return badInput(err)
			}
			prog, err := a.write(cmd.Context(), c, plan.KeepAll(fingerprint, &c.Spec), refitSource{}, &o, nil, allowNonFinite)
			if err != nil {
				return err
			}
			_, n := prog.Spec.Parameters()
			seconds := time.Since(start).Seconds()
			a.printf("%s: %d layers, %s parameters, %s as %s", prog.Spec.Family.ModelType, prog.Spec.Layers, countText(n), bytesText(prog.Bytes()), o.dtype)
			if o.dryRun {
				a.printf("\ndry run: nothing was written\n")
			} else {
				a.printf(", written to %s in %.1f s; next:\n  coppice inspect %s\n  coppice prune %s -o DIR --ratio 0.6\n", o.out, seconds, o.out, o.out)
			}
			return a.result(map[string]any{"family": prog.Spec.Family.ModelType, "num_hidden_layers": prog.Spec.Layers, "parameters": n, "bytes": prog.Bytes(), "output": o.out, "dry_run": o.dryRun, "seconds": seconds})
		},
	}
	o.register(cmd, "f16", "f16, bf16 or f32")
	cmd.Flags().BoolVar(&allowNonFinite, "allow-nonfinite", false, "go on where a weight is NaN or infinite")
	return cmd
}
