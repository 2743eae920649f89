package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/tensor"
)

func (a *app) inspect() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect MODEL",
		Short: "Say what a model is, and what pruning it would give",
		Long: `Read config and headers, no weights, and print what a user asks before pruning: family,
shapes, expansion ratio, parameters by role, bytes by element type, and what each ratio
from 10 % to 90 % would give. A config.json alone, or a directory with nothing else, is
enough for all but the bytes.`,
		Example: "  coppice inspect ./Llama-3.2-3B\n  coppice inspect ./Llama-3.2-3B/config.json --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			r, err := a.inspection(args[0])
			if err != nil {
				return err
			}
			if a.json || a.quiet {
				return a.result(r)
			}
			r.print(a)
			return nil
		},
	}
}

// inspection is what inspect finds.
type inspection struct {
	Model        string           `json:"model"`
	Family       string           `json:"family"`
	Architecture string           `json:"architecture"`
	Hidden       int              `json:"hidden_size"`
	Form         string           `json:"form"`              // how config.json says the widths
	Intermediate int              `json:"intermediate_size"` // the widest layer's, as config.json says
	Widths       []int            `json:"widths"`            // of the layers, as the tensors say
	AsConfigured bool             `json:"widths_as_configured"`
	Layers       int              `json:"num_hidden_layers"`
	Heads        int              `json:"num_attention_heads"`
	KVHeads      int              `json:"num_key_value_heads"`
	LayerHeads   []int            `json:"attention_heads,omitempty"` // query heads of the layers, where they differ
	LayerKVHeads []int            `json:"key_value_heads,omitempty"`
	HeadDim      int              `json:"head_dim"`
	Vocab        int              `json:"vocab_size"`
	MaxPositions int              `json:"max_position_embeddings"`
	Tied         bool             `json:"tie_word_embeddings"`
	Expansion    float64          `json:"expansion_ratio"` // the mean of the layers'
	Total        int64            `json:"total_parameters"`
	Parameters   map[string]int64 `json:"parameters"` // by role
	Bytes        int64            `json:"bytes"`      // as stored; 0 without weights
	ByType       map[string]int64 `json:"bytes_by_dtype"`
	Memory       map[string]int64 `json:"memory_by_dtype"` // of all weights, were they of that type
	Ratios       []ratioRow       `json:"ratios"`
}

// ratioRow is what pruning at a ratio would give. Bytes are at the stored bytes per
// parameter, or two without weights.
type ratioRow struct {
	Ratio        float64 `json:"ratio"`
	Width        int     `json:"width"` // of the widest layer
	AlignedWidth int     `json:"aligned_width"`
	Expansion    float64 `json:"expansion_ratio"`
	Parameters   int64   `json:"parameters"`
	Bytes        int64   `json:"bytes"`
	KVBytes      int64   `json:"kv_cache_bytes_per_1000_tokens"`
}

func (a *app) inspection(model string) (*inspection, error) {
	c, err := checkpoint.Open(model)
	if err == nil {
		defer c.Close()
		a.notes(c.Notes)
		r := inspect(model, &c.Spec, c.Tensors())
		r.AsConfigured = c.RequireWidths() == nil
		return r, nil
	}
	config := model
	var none *checkpoint.NoWeightsError
	switch st, statErr := os.Stat(model); {
	case errors.As(err, &none):
		config = filepath.Join(none.Dir, "config.json")
	case statErr != nil || st.IsDir() || filepath.Ext(model) != ".json":
		return nil, badInput(err)
	}
	_, spec, err := checkpoint.OpenConfig(config)
	if err != nil {
		return nil, badInput(err)
	}
	return inspect(model, &spec, nil), nil
}

// alignment is the multiple that kernels and block quantisation like at a width.
func alignment(width int) int {
	switch {
	case width >= 4096:
		return 256
	case width >= 1024:
		return 64
	}
	return 32
}

func inspect(model string, s *arch.Spec, infos []tensor.Info) *inspection {
	byRole, total := s.Parameters()
	r := &inspection{
		Model: model, Family: s.Family.ModelType, Architecture: s.Architecture(),
		Form: s.Form.String(), AsConfigured: true, Hidden: s.Hidden, Intermediate: s.Intermediate, Widths: s.Widths, Layers: s.Layers,
		Heads: s.Heads, KVHeads: s.KVHeads, HeadDim: s.HeadDim, Vocab: s.Vocab, MaxPositions: s.MaxPositions, Tied: s.Tied,
		Expansion: meanWidth(s) / float64(s.Hidden), Total: total,
		Parameters: map[string]int64{}, ByType: map[string]int64{}, Memory: map[string]int64{"f32": 4 * total, "f16": 2 * total, "bf16": 2 * total},
	}
	for _, h := range s.Attention {
		r.LayerHeads, r.LayerKVHeads = append(r.LayerHeads, h.Queries), append(r.LayerKVHeads, h.KV)
	}
	for role, n := range byRole {
		if n > 0 {
			r.Parameters[arch.Role(role).String()] = n
		}
	}
	for _, i := range infos {
		n, _ := i.Bytes() // checked when the header was read
		r.ByType[i.DType.String()] += n
		r.Bytes += n
	}
	perParameter := 2.0
	if r.Bytes > 0 {
		perParameter = float64(r.Bytes) / float64(total)
	}
	for percent := 10; percent <= 90; percent += 10 {
		ratio := float64(percent) / 100
		row := ratioRow{Ratio: ratio, KVBytes: kvBytes(s)}
		widths := make([]int, s.Layers)
		for l, w := range s.Widths {
			widths[l] = plan.WidthAt(ratio, w, 1)
		}
		pruned := s.WithWidths(widths)
		row.Width = pruned.Intermediate
		row.AlignedWidth = plan.WidthAt(ratio, slices.Max(s.Widths), alignment(s.Intermediate))
		row.Expansion = meanWidth(&pruned) / float64(s.Hidden)
		_, row.Parameters = pruned.Parameters()
		row.Bytes = int64(perParameter * float64(row.Parameters))
		r.Ratios = append(r.Ratios, row)
	}
	return r
}

func (r *inspection) print(a *app) {
	a.printf("%s\n", r.Model)
	a.printf("  family          %s (%s)\n", r.Family, r.Architecture)
	a.printf("  shape           %d layers, hidden size %d, MLP width %s, %d/%d heads of %d, vocabulary %s, context %s\n",
		r.Layers, r.Hidden, widthsText(r.Widths), r.Heads, r.KVHeads, r.HeadDim, countText(int64(r.Vocab)), countText(int64(r.MaxPositions)))
	a.printf("  expansion       %.3f (MLP width / hidden size)\n", r.Expansion)
	switch {
	case !r.AsConfigured:
		a.printf("  widths          %v: not what config.json says (%d); plain loaders refuse this checkpoint\n", r.Widths, r.Intermediate)
	case r.Form != arch.Plain.String():
		a.printf("  widths          %v (form %s)\n", r.Widths, r.Form)
	}
	if r.LayerHeads != nil {
		a.printf("  attention       %s heads, %s key-value heads (0: none)\n", fmt.Sprint(r.LayerHeads), fmt.Sprint(r.LayerKVHeads))
	}
	head := "own head"
	if r.Tied {
		head = "head tied to the embedding"
	}
	a.printf("  parameters      %s (%s)\n", countText(r.Total), head)
	for role := range arch.NumRoles {
		if n := r.Parameters[role.String()]; n > 0 {
			a.printf("    %-13s %15s  %5.1f %%\n", role, countText(n), 100*float64(n)/float64(r.Total))
		}
	}
	if r.Bytes > 0 {
		a.printf("  stored          %s", bytesText(r.Bytes))
		var types []string
		for t := range r.ByType {
			types = append(types, t)
		}
		slices.Sort(types)
		for i, t := range types {
			types[i] = fmt.Sprintf("%s %s", t, bytesText(r.ByType[t]))
		}
		a.printf(" (%s)\n", strings.Join(types, ", "))
	}
	a.printf("  memory          %s in f32, %s in f16 or bf16\n\n", bytesText(r.Memory["f32"]), bytesText(r.Memory["f16"]))
	t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "ratio\twidth\taligned to %d\texpansion\tparameters\tbytes\tKV cache, 1,000 tokens\t\n", alignment(r.Intermediate))
	for _, row := range r.Ratios {
		fmt.Fprintf(t, "%.0f %%\t%d\t%d\t%.3f\t%s\t%s\t%s\t\n", 100*row.Ratio, row.Width, row.AlignedWidth, row.Expansion, countText(row.Parameters), bytesText(row.Bytes), bytesText(row.KVBytes))
	}
	t.Flush()
}
