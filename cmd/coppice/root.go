package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// app is what every verb shares: where words go, and the global flags.
type app struct {
	stdout, stderr io.Writer
	json, quiet    bool
	threads        int
	started        bool      // a verb's own code has begun
	bar            *progress // that of a terminal; nil where there was none yet
}

const rootHelp = `Coppice makes language models smaller: it removes neurons from the gated MLPs (GLU)
of Llama-family checkpoints, streams the result to disk, and verifies it.

MODEL is a Hugging Face directory, a .gguf file, or owner/name[@revision] in the local
Hugging Face cache (HF_HOME, HF_HUB_CACHE); nothing is downloaded.

Exit codes:
  0  done
  1  failed (a full disk, a missing permission)
  2  wrong use (flags, arguments, an output that is in the way)
  3  bad input (a damaged, foreign or unsupported model or file)
  4  interrupted`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "coppice",
		Short:         "Make language models smaller, and say what it cost",
		Long:          rootHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if a.threads < 1 {
				return fmt.Errorf("--threads %d: expected at least 1", a.threads)
			}
			a.started = true
			return nil
		},
	}
	f := root.PersistentFlags()
	f.BoolVar(&a.json, "json", false, "print the result as JSON on standard output")
	f.BoolVar(&a.quiet, "quiet", false, "print errors only")
	f.IntVar(&a.threads, "threads", runtime.NumCPU(), "number of threads")
	root.AddCommand(a.demo(), a.inspect(), a.prune(), a.calib(), a.score(), a.plan(), a.refit(), a.apply(), a.importGGUF(), a.export(), a.verify(), a.eval(), a.compare(), a.report(), a.card(), a.generate(), a.writeTexts(), a.speed(), a.study(), a.version())
	// Without this, cobra answers a shell it does not know with help and success.
	root.InitDefaultCompletionCmd()
	if c, _, err := root.Find([]string{"completion"}); err == nil {
		c.RunE = func(*cobra.Command, []string) error {
			return usagef("name a shell: bash, zsh, fish or powershell")
		}
	}
	return root
}

// completeWords lets shells complete a flag's value.
func completeWords(cmd *cobra.Command, flag string, words ...string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // the command has no such flag, or it was registered twice
	}
}

// printf writes for people: nothing under --quiet or --json.
func (a *app) printf(format string, args ...any) {
	if !a.quiet && !a.json {
		fmt.Fprintf(a.stdout, format, args...)
	}
}

// notes tells the user what a model's reader or a program noticed.
func (a *app) notes(notes []string) {
	if a.quiet {
		return
	}
	if a.bar != nil {
		a.bar.finish()
	}
	for _, n := range notes {
		fmt.Fprintf(a.stderr, "note: %s\n", n)
	}
}

func (a *app) note(n string) { a.notes([]string{n}) }

// result prints a value as JSON where --json asks for it.
func (a *app) result(v any) error {
	if !a.json {
		return nil
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "%s\n", b)
	return err
}

// release is the version that this source tree becomes.
const release = "0.1.0"

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  coppice version\n  coppice version --json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := map[string]string{"version": release, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						v["revision"] = s.Value
					}
				}
			}
			a.printf("coppice %s (%s, %s)\n", v["version"], v["go"], v["platform"])
			return a.result(v)
		},
	}
}
