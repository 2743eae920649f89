package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/eval"
)

func (a *app) compare() *cobra.Command {
	var markdown bool
	cmd := &cobra.Command{
		Use:   "compare RESULT RESULT...",
		Short: "Set saved results beside each other",
		Long: `Make the table of eval again from saved results: directories that eval -o wrote, or
results files. The first is the baseline of the others.`,
		Example: "  coppice compare results/smol results/smol60\n  coppice compare results/smol results/smol20 results/smol60 --markdown",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if markdown && a.json {
				return usagef("--markdown and --json exclude each other")
			}
			var results []*eval.Result
			for _, path := range args {
				r, err := eval.Load(path)
				if err != nil {
					return badInput(err)
				}
				results = append(results, r)
			}
			format := ""
			if markdown {
				format = "markdown"
			}
			return a.printComparison(eval.Compare(results...), format)
		},
	}
	cmd.Flags().BoolVar(&markdown, "markdown", false, "print Markdown")
	return cmd
}

// printComparison prints a comparison in the asked form.
func (a *app) printComparison(c *eval.Comparison, format string) error {
	switch {
	case a.json:
		b, err := c.JSON()
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.stdout, "%s\n", strings.TrimRight(string(b), "\n"))
		return err
	case a.quiet:
		return nil
	case format == "markdown":
		_, err := fmt.Fprint(a.stdout, c.Markdown())
		return err
	}
	_, err := fmt.Fprint(a.stdout, c.Text())
	return err
}
