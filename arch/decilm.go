package arch

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// The form DeciLM, field by field, as two readers take it: vLLM (nemotron_nas.py) and
// llama.cpp's converter (deci.py). docs/decisions/forms.md has the table.

// DeciMultiple is what every width of the form is a multiple of.
const DeciMultiple = 256

// deciWidth is the width that ffn_mult means: two thirds of that many times hidden_size,
// cut to a whole number and rounded up to the next multiple of DeciMultiple.
func deciWidth(mult float64, hidden int) int {
	return ceilTo(int(2*mult*float64(hidden)/3), DeciMultiple)
}

func ceilTo(n, multiple int) int { return (n + multiple - 1) / multiple * multiple }

// block is an entry of block_configs. What is not read here and would change what the
// layer computes is in refuse.
type block struct {
	Attention struct {
		NoOp         bool `json:"no_op"`
		Linear       bool `json:"replace_with_linear"`
		HeadsInGroup *int `json:"n_heads_in_group"` // query heads that share a key-value head
		Window       *int `json:"window_length"`
		Sinks        *int `json:"num_sink_tokens"`
		Unshifted    bool `json:"unshifted_sink"`
	} `json:"attention"`
	FFN struct {
		NoOp   bool            `json:"no_op"`
		Linear bool            `json:"replace_with_linear"`
		Mult   *float64        `json:"ffn_mult"`
		Width  *int            `json:"intermediate_size"` // newer spelling, counts without ffn_mult
		MoE    json.RawMessage `json:"moe"`
		Gated  *bool           `json:"gated"`
	} `json:"ffn"`
}

// unsupported says what of a block Coppice cannot carry out; empty if nothing.
func (b *block) unsupported() string {
	a, f := &b.Attention, &b.FFN
	switch {
	case a.Linear:
		return "has a matrix in the place of its attention (attention.replace_with_linear)"
	case a.Window != nil || a.Sinks != nil || a.Unshifted:
		return "attends within a window or to sink tokens (attention.window_length, num_sink_tokens)"
	case f.Linear:
		return "has a matrix in the place of its MLP (ffn.replace_with_linear)"
	case len(f.MoE) > 0 && string(f.MoE) != "null":
		return "is a mixture of experts (ffn.moe)"
	case f.Gated != nil && !*f.Gated:
		return "has an MLP without a gate (ffn.gated)"
	}
	return ""
}

// readBlocks fills widths and attention from block_configs. KVHeads is the most that a
// layer has.
func (s *Spec) readBlocks(c *Config) error {
	raw, ok := c.Raw(blocksKey)
	if !ok {
		return fmt.Errorf("key %q is missing; %s says its layers there, one entry each", blocksKey, deciClass)
	}
	var blocks []block
	if err := json.Unmarshal(raw, &blocks); err != nil {
		return fmt.Errorf("key %q: %w", blocksKey, err)
	}
	if len(blocks) != s.Layers {
		return fmt.Errorf("key %q has %d entries, but num_hidden_layers is %d", blocksKey, len(blocks), s.Layers)
	}
	s.Widths, s.Attention, s.KVHeads = make([]int, s.Layers), make([]HeadCount, s.Layers), 0
	for l := range blocks {
		b := &blocks[l]
		if what := b.unsupported(); what != "" {
			return fmt.Errorf("key %q: layer %d %s; only layers of attention and a gated MLP, or one of them, are supported", blocksKey, l, what)
		}
		if !b.Attention.NoOp {
			group := b.Attention.HeadsInGroup
			if group == nil || *group < 1 || s.Heads%*group != 0 {
				return fmt.Errorf("key %q: layer %d: attention.n_heads_in_group must divide the %d heads", blocksKey, l, s.Heads)
			}
			s.Attention[l] = HeadCount{s.Heads, s.Heads / *group}
			s.KVHeads = max(s.KVHeads, s.Attention[l].KV)
		}
		switch mult := b.FFN.Mult; {
		case b.FFN.NoOp:
		case mult != nil && *mult > 0 && *mult < maxExtent:
			s.Widths[l] = deciWidth(*mult, s.Hidden)
		case mult == nil && b.FFN.Width != nil && *b.FFN.Width > 0:
			s.Widths[l] = *b.FFN.Width
		default:
			return fmt.Errorf("key %q: layer %d: ffn.ffn_mult must be a positive number", blocksKey, l)
		}
	}
	return nil
}

// blocks is block_configs of the Spec. Widths must be multiples of DeciMultiple.
func (s *Spec) blocks() json.RawMessage {
	var b strings.Builder
	for l, w := range s.Widths {
		if l > 0 {
			b.WriteByte(',')
		}
		group, mult := "null", "null"
		if h := s.AttentionAt(l); h.Queries > 0 {
			group = strconv.Itoa(h.Queries / h.KV)
		}
		if w > 0 {
			// A whole number too is spelled with a point: llama.cpp's converter asks for a float.
			mult = strconv.FormatFloat(1.5*float64(w)/float64(s.Hidden), 'f', -1, 64)
			if !strings.Contains(mult, ".") {
				mult += ".0"
			}
		}
		fmt.Fprintf(&b, `{"attention":{"n_heads_in_group":%s,"no_op":%t,"replace_with_linear":false},"ffn":{"ffn_mult":%s,"no_op":%t,"replace_with_linear":false}}`,
			group, group == "null", mult, mult == "null")
	}
	return json.RawMessage("[" + b.String() + "]")
}
