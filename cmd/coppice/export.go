package main

import (
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/export"
)

func (a *app) export() *cobra.Command {
	var out, kind, split, stats, name string
	var modelfile, force, dryRun bool
	cmd := &cobra.Command{
		Use:   "export MODEL -o FILE.gguf",
		Short: "Write a model as a GGUF file, for llama.cpp and what is built on it",
		Long: `Write a model as a GGUF file: weights in the type that --type names, tokenizer, chat
template, licence and base model of its card. Layers of different widths, which plain
loaders refuse, are written as llama.cpp's architecture deci.

Types: f32, f16, bf16, q8_0, q6_k, q5_k_m, q5_k_s, q5_1, q5_0, q4_k_m, q4_k_s, q4_1, q4_0.
The mixes give each tensor the type that llama.cpp's llama-quantize gives it; rows that a
type does not divide take a larger one, which is said. --stats weighs the errors of
down_proj by what its inputs are on a text (coppice calib, of this model).`,
		Example: `  coppice export smol60 -o smol60.gguf --type f16
  coppice export smol60 -o smol60-q4.gguf --type q4_k_m --modelfile
  coppice export smol60 -o smol60-q4.gguf --type q4_k_m --stats smol60.stats
  coppice export big -o big.gguf --type q8_0 --split-max-size 4GB`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			start := time.Now()
			mix, err := export.ParseMix(kind)
			if err != nil {
				return usagef("--type: %w", err)
			}
			opt := export.Options{Mix: mix, Name: name}
			if split != "" {
				if opt.PartBytes, err = parseBytes(split); err != nil {
					return usagef("--split-max-size: %w", err)
				}
			}
			switch {
			case out == "" && !dryRun:
				return usagef("-o FILE.gguf is needed: the file to write")
			case out == "":
				out = "model.gguf"
			case !strings.HasSuffix(out, ".gguf"):
				return usagef("-o %s: the name of a GGUF file ends with .gguf", out)
			}
			c, err := a.openModel(args[0])
			if err != nil {
				return err
			}
			defer c.Close()
			if stats != "" {
				if opt.Stats, err = openStats(stats); err != nil {
					return err
				}
				defer opt.Stats.Close()
			}
			prog, err := export.Compile(c, opt)
			if err != nil {
				return badInput(err)
			}
			a.notes(prog.Notes)
			paths := prog.Paths(out)
			files := paths
			side := filepath.Join(filepath.Dir(out), "Modelfile")
			if modelfile {
				files = append(slices.Clone(paths), side)
			}
			if !dryRun {
				if err := a.exportFiles(cmd, c, prog, out, files, paths, modelfile, force); err != nil {
					return err
				}
			}
			_, n := prog.Parameters()
			seconds := time.Since(start).Seconds()
			a.printf("%s: %s parameters, %s (%s)", prog.Architecture, countText(n), bytesText(prog.Bytes()), prog.Types())
			if dryRun {
				a.printf("\ndry run: nothing was written\n")
			} else {
				a.printf(", written to %s in %.1f s\n", strings.Join(files, ", "), seconds)
			}
			return a.result(map[string]any{"architecture": prog.Architecture, "type": mix.Name, "types": prog.TypeCounts(), "parameters": n,
				"bytes": prog.Bytes(), "files": files, "notes": prog.Notes, "dry_run": dryRun, "seconds": seconds})
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&out, "output", "o", "", "file to write, NAME.gguf")
	fl.StringVar(&kind, "type", "f16", "element types: "+strings.Join(export.MixNames(), ", "))
	fl.StringVar(&split, "split-max-size", "", "most bytes of one file, for example 4GB; more become NAME-00001-of-0000N.gguf")
	fl.StringVar(&stats, "stats", "", "statistics of this model's activations, to weigh errors by (made by coppice calib)")
	fl.StringVar(&name, "name", "", "general.name (default: that of the directory)")
	fl.BoolVar(&modelfile, "modelfile", false, "write an ollama Modelfile beside the file")
	fl.BoolVar(&force, "force", false, "replace files that exist")
	fl.BoolVar(&dryRun, "dry-run", false, "say what would be written and write nothing")
	completeWords(cmd, "type", export.MixNames()...)
	return cmd
}

// exportFiles writes the parts, and the Modelfile with them.
func (a *app) exportFiles(cmd *cobra.Command, c *checkpoint.Checkpoint, prog *export.Program, out string, files, paths []string, modelfile, force bool) error {
	if modelfile && len(paths) > 1 {
		return usagef("--modelfile: its FROM names one file, and the model would be in %d; leave out --split-max-size", len(paths))
	}
	sink, err := checkpoint.CreateFiles(out, files, c.Path, force)
	if err != nil {
		return err
	}
	defer sink.Abort()
	if modelfile {
		text, notes := prog.Modelfile(filepath.Base(paths[0]))
		a.notes(notes)
		if err := sink.WriteAt(len(paths), []byte(text), 0); err != nil {
			return err
		}
	}
	bar := a.byteProgress("writing", prog.Bytes())
	err = prog.Run(cmd.Context(), sink, export.RunOptions{Threads: a.threads, Progress: bar.add})
	bar.finish()
	return badInput(err)
}
