package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/plan"
)

// formFlag is the form of a checkpoint that is written.
type formFlag string

func (f *formFlag) register(cmd *cobra.Command) {
	cmd.Flags().StringVar((*string)(f), "form", "", "how layers of different widths are written: transformers (with a modelling file; the default for them), decilm (vLLM), padded (plain, with zero neurons, saves nothing on disk), or llama (plain, one width)")
	var words []string
	for _, form := range plan.Forms {
		words = append(words, string(form))
	}
	completeWords(cmd, "form", words...)
}

func (f formFlag) check() error {
	if f != "" && !slices.Contains(plan.Forms, plan.Form(f)) {
		return usagef("--form %q: forms are %v", string(f), plan.Forms)
	}
	return nil
}

// readWidths reads the value of --widths: numbers with commas or white space between them,
// or a file of such numbers, a JSON list too.
func readWidths(value string) ([]int, error) {
	text, where := value, "--widths"
	if _, err := strconv.Atoi(strings.TrimSpace(strings.Split(value, ",")[0])); err != nil {
		st, err := os.Stat(value)
		if err == nil && st.Size() > 1<<20 {
			err = fmt.Errorf("%s: %d bytes, more than a list of widths has", value, st.Size())
		}
		var b []byte
		if err == nil {
			b, err = os.ReadFile(value)
		}
		if err != nil {
			return nil, usagef("--widths: neither a list such as 384,512,512 nor a file of one: %w", err)
		}
		text, where = string(b), value
	}
	text = strings.TrimSpace(text)
	if inner, ok := strings.CutPrefix(text, "["); ok {
		text = strings.TrimSuffix(inner, "]")
	}
	var widths []int
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || unicode.IsSpace(r) }) {
		n, err := strconv.Atoi(word)
		if err != nil {
			return nil, usagef("%s: %q is not a whole number; expected one number for each layer", where, word)
		}
		widths = append(widths, n)
	}
	if len(widths) == 0 {
		return nil, usagef("%s: no numbers; expected one for each layer", where)
	}
	return widths, nil
}
