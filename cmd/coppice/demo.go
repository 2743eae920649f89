package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/eval/tasks"
	"github.com/coppice-lm/coppice/internal/synth"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/tensor"
)

// demoText is what perplexity is measured on: the beginning of Alice's Adventures in
// Wonderland (Lewis Carroll, 1865), which is in the public domain.
//
//go:embed demo.txt
var demoText []byte

func (a *app) demo() *cobra.Command {
	var model, keep string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Prune a small model by 60 % and verify it, with nothing but this program",
		Long: `Make a small Llama checkpoint from a fixed seed in a temporary directory, prune 60 % of
its neurons, verify the result, run both, and show what happened. With --model the same is
done with a real model, whose pruned copy needs room in the temporary directory (or
--keep).`,
		Example: "  coppice demo\n  coppice demo --model SmolLM2-135M-Instruct.Q4_1.gguf --keep smol60",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := os.MkdirTemp("", "coppice-demo-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			random := model == ""
			if random {
				model = filepath.Join(dir, "tiny-llama")
				a.printf("1. a Llama of 4 layers with random weights, seed 1, made in %s\n\n", model)
				if err := synth.Write(model, synth.Config(256, 1024, 4, 8, 2, 2048, true), tensor.BF16, 1, checkpoint.DefaultShardBytes); err != nil {
					return err
				}
				if err := synth.WriteTokenizer(model); err != nil {
					return err
				}
			} else {
				a.printf("1. the model %s\n\n", model)
			}
			out := keep
			if out == "" {
				out = filepath.Join(dir, "pruned60")
			}
			steps := []struct {
				title string
				args  []string
			}{
				{"", []string{"inspect", model}},
				{"2. prune: remove the 60 % of each MLP's neurons with the smallest weights", []string{"prune", model, "-o", out, "--ratio", "0.6"}},
				{"3. verify: read it back and make it again", []string{"verify", out, "--against", model}},
			}
			for _, s := range steps {
				if s.title != "" {
					a.printf("\n%s\n", s.title)
				}
				a.printf("$ coppice %s\n", strings.Join(s.args, " "))
				if err := a.sub(cmd, s.args); err != nil {
					return err
				}
			}
			if err := a.demoPerplexity(cmd.Context(), dir, model, out, random); err != nil {
				return err
			}
			if keep != "" {
				a.printf("\nkept in %s\n", keep)
			} else {
				a.printf("\nboth are deleted now; try it on your own model: coppice prune MODEL -o DIR --ratio 0.6\n")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&model, "model", "", "a model directory or .gguf file to use instead of the small one")
	cmd.Flags().StringVar(&keep, "keep", "", "write the pruned model here and keep it")
	return cmd
}

// demoPerplexity runs a model and its pruned copy on the demo's text.
func (a *app) demoPerplexity(ctx context.Context, dir, before, after string, random bool) error {
	text := filepath.Join(dir, "demo.txt")
	if err := os.WriteFile(text, demoText, 0o666); err != nil {
		return err
	}
	task, err := tasks.TextTask(text, 128)
	if err != nil {
		return err
	}
	a.printf("\n4. run both on %d bytes of Alice's Adventures in Wonderland\n", len(demoText))
	for _, m := range []struct{ when, path string }{{"before", before}, {"after", after}} {
		model, err := lm.Open(ctx, m.path, lm.Options{Threads: a.threads})
		if errors.Is(err, fs.ErrNotExist) {
			a.printf("   not done: %v\n", err) // the weights are there, verified: it is the tokenizer
			return nil
		}
		if err != nil {
			return badInput(err)
		}
		r, err := eval.Run(ctx, model, []*eval.Task{task}, eval.Options{})
		if err != nil {
			return badInput(err)
		}
		t := r.Task(task.Name)
		a.printf("   perplexity %-6s  %10.2f a token, %8.2f a byte\n", m.when, t.Metric(eval.TokenPerplexity).Value, t.Metric(eval.BytePerplexity).Value)
	}
	if random {
		a.printf("   (the weights are random, so it can do no better than guess among its tokens; --model shows a real one)\n")
	}
	return nil
}

// sub runs another verb with this one's output and global flags. Under --json only the
// pruning's result is printed, so that the output is one value.
func (a *app) sub(cmd *cobra.Command, args []string) error {
	inner := &app{stdout: a.stdout, stderr: a.stderr}
	if a.json && args[0] != "prune" {
		inner.stdout = io.Discard
	}
	root := inner.root()
	args = append(args, "--threads", fmt.Sprint(a.threads))
	if a.json {
		args = append(args, "--json")
	}
	if a.quiet {
		args = append(args, "--quiet")
	}
	root.SetArgs(args)
	return root.ExecuteContext(cmd.Context())
}
