package checkpoint

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/tensor"
)

// maxRowBytes bounds what one row makes us allocate.
const maxRowBytes = 64 << 20

// check holds the tensors of the headers against the architecture of the config, and
// sets the Spec's widths to what the tensors have. Widths that differ from the config
// pass here (inspect shows them); RequireWidths refuses them.
func (c *Checkpoint) check() error {
	if err := c.refuseForeign(); err != nil {
		return err
	}
	if err := c.settleHead(); err != nil {
		return err
	}
	if err := c.readWidths(); err != nil {
		return err
	}
	known := make(map[string]bool)
	for _, t := range c.Spec.Tensors() {
		known[t.Name] = true
		s, ok := c.sources[t.Name]
		if !ok {
			return fmt.Errorf("%s: tensor %q is missing; a %s model of this config holds it; fetch what is missing, or correct config.json", c.Path, t.Name, c.Spec.Family.ModelType)
		}
		if !s.info.Shape.Equal(t.Shape) {
			return fmt.Errorf("%s: tensor %q has shape %v, but config.json says %v; correct config.json, or fetch files that belong together", s.file.path, t.Name, s.info.Shape, t.Shape)
		}
		if !s.info.DType.IsFloat() && !s.info.DType.IsBlock() {
			return fmt.Errorf("%s: tensor %q has element type %v, which is no weight type", s.file.path, t.Name, s.info.DType)
		}
	}
	for _, i := range c.infos {
		if i.DType.IsBlock() && len(i.Shape) < 2 {
			return fmt.Errorf("%s: tensor %q has one dimension and the block type %v, which no reader expects", c.Path, i.Name, i.DType)
		}
		if i.RowBytes() > maxRowBytes {
			return fmt.Errorf("%s: tensor %q has rows of %d bytes, more than the %d supported", c.Path, i.Name, i.RowBytes(), maxRowBytes)
		}
		if known[i.Name] {
			continue
		}
		layer, rest := arch.LayerOf(i.Name)
		if layer >= c.Spec.Layers {
			return fmt.Errorf("%s: tensor %q is of layer %d, but config.json says num_hidden_layers %d; correct config.json, or fetch files that belong together", c.Path, i.Name, layer, c.Spec.Layers)
		}
		if layer >= 0 && strings.HasPrefix(rest, "self_attn.") && c.Spec.AttentionAt(layer).Queries == 0 {
			return fmt.Errorf("%s: tensor %q is of an attention, and config.json says that layer %d has none; correct config.json, or fetch files that belong together", c.Path, i.Name, layer)
		}
		if layer >= 0 && strings.HasPrefix(rest, "mlp.") {
			return fmt.Errorf("%s: tensor %q is not part of a %s MLP with this config (mlp_bias %v); pruning would leave it uncut; correct config.json", c.Path, i.Name, c.Spec.Family.ModelType, c.Spec.MLPBias)
		}
	}
	return nil
}

// foreign are endings of tensor names that give away how a checkpoint was made.
var foreign = []struct{ ending, what string }{
	{".qweight", "GPTQ or AWQ"}, {".qzeros", "GPTQ or AWQ"}, {".g_idx", "GPTQ"}, {".scales", "GPTQ or AWQ"},
	{".absmax", "bitsandbytes"}, {".quant_map", "bitsandbytes"}, {".SCB", "bitsandbytes"},
	{".weight_scale_inv", "block-scaled F8"}, {".weight_scale", "scaled F8"}, {".scale", "scaled F8"}, {".input_scale", "scaled F8"},
}

// refuseForeign finds quantised and mixture-of-experts checkpoints by their tensors,
// whatever their config says: cut without their scales, such weights are wrong by
// orders of magnitude.
func (c *Checkpoint) refuseForeign() error {
	for _, i := range c.infos {
		for _, f := range foreign {
			if strings.HasSuffix(i.Name, f.ending) {
				return fmt.Errorf("%s: tensor %q shows a quantised checkpoint (%s), whose weights mean nothing without their scales; prune the unquantised original", c.Path, i.Name, f.what)
			}
		}
		if strings.Contains(i.Name, ".experts.") || strings.Contains(i.Name, "block_sparse_moe") {
			return fmt.Errorf("%s: tensor %q shows a mixture of experts; only dense gated MLPs are supported", c.Path, i.Name)
		}
	}
	return nil
}

// settleHead brings embedding and head into one of two states: tied with the
// embedding alone, or untied with both.
func (c *Checkpoint) settleHead() error {
	const embed, head = "model.embed_tokens.weight", "lm_head.weight"
	e, hasEmbed := c.sources[embed]
	h, hasHead := c.sources[head]
	switch {
	case !c.Spec.Tied && hasEmbed && !hasHead:
		return fmt.Errorf("%s: tensor %q is missing though config.json does not tie it to the embedding; set tie_word_embeddings to true if the model has no head of its own", c.Path, head)
	case !c.Spec.Tied || !hasHead:
		return nil
	case !hasEmbed:
		h.info.Name = embed
		c.replace(head, h)
		return nil
	}
	same, err := c.equal(e.info, h.info)
	if err != nil {
		return err
	}
	if same {
		c.remove(head)
		c.Notes = append(c.Notes, "lm_head.weight is a copy of the tied embedding and is left out")
		return nil
	}
	c.Notes = append(c.Notes, "config.json says the head is tied to the embedding, but the file holds another lm_head.weight; it is used and kept, and the output's config says tie_word_embeddings false")
	c.Spec.Tied = false
	return c.Config.Set("tie_word_embeddings", false)
}

// equal compares the bytes of two tensors.
func (c *Checkpoint) equal(a, b tensor.Info) (bool, error) {
	if a.DType != b.DType || !a.Shape.Equal(b.Shape) || a.RowBytes() > maxRowBytes {
		return false, nil
	}
	step := max(1, int(1<<20/max(1, a.RowBytes())))
	p, q := make([]byte, int64(step)*a.RowBytes()), make([]byte, int64(step)*a.RowBytes())
	for r := 0; r < a.Rows(); r += step {
		n := min(step, a.Rows()-r)
		size := int64(n) * a.RowBytes()
		if err := c.ReadRows(a.Name, p[:size], r, n); err != nil {
			return false, err
		}
		if err := c.ReadRows(b.Name, q[:size], r, n); err != nil {
			return false, err
		}
		if !bytes.Equal(p[:size], q[:size]) {
			return false, nil
		}
	}
	return true, nil
}

// replace puts s in the place of the tensor old, under its own name.
func (c *Checkpoint) replace(old string, s source) {
	for i := range c.infos {
		if c.infos[i].Name == old {
			c.infos[i] = s.info
		}
	}
	delete(c.sources, old)
	c.sources[s.info.Name] = s
}

func (c *Checkpoint) remove(name string) {
	for i := range c.infos {
		if c.infos[i].Name == name {
			c.infos = append(c.infos[:i], c.infos[i+1:]...)
			break
		}
	}
	delete(c.sources, name)
}

// readWidths takes each layer's width from the first of its MLP tensors; the check of
// all shapes that follows holds the others against it.
func (c *Checkpoint) readWidths() error {
	c.configured = slices.Clone(c.Spec.Widths)
	seen := make([]bool, c.Spec.Layers)
	for _, t := range c.Spec.Tensors() {
		if t.Role != arch.MLP || t.Unit == arch.Untouched || seen[t.Layer] {
			continue
		}
		info, ok := c.Lookup(t.Name)
		if !ok || len(info.Shape) != len(t.Shape) {
			continue // the check of all tensors says what is wrong with it
		}
		seen[t.Layer] = true
		w := info.Shape[0]
		if t.Unit == arch.FusedRows {
			if w%2 != 0 {
				return fmt.Errorf("%s: tensor %q has %d rows, expected an even number (gate half, then up half)", c.Path, t.Name, w)
			}
			w /= 2
		}
		if w == 0 {
			return fmt.Errorf("%s: tensor %q has no rows", c.Path, t.Name)
		}
		c.Spec.Widths[t.Layer] = w
	}
	return nil
}

// RequireWidths is an error if a layer's width is not what the config says. If the config
// can say one width only, such a checkpoint was pruned elsewhere, and no plain loader reads
// it.
func (c *Checkpoint) RequireWidths() error {
	for l, w := range c.Spec.Widths {
		switch {
		case w == c.configured[l]:
		case c.Spec.Form == arch.Plain:
			return fmt.Errorf("%s: layer %d is %d neurons wide, but config.json says intermediate_size %d; `coppice inspect` lists the widths; write one width for all layers into config.json, or pad the layers to it with zero neurons, before going on%s",
				c.Path, l, w, c.configured[l], c.perLayerAdvice())
		default:
			return fmt.Errorf("%s: layer %d is %d neurons wide, but config.json says %d (key %q); correct config.json, or fetch files that belong together",
				c.Path, l, w, c.configured[l], c.Spec.WidthsKey())
		}
	}
	return nil
}

// perLayerAdvice is how a plain config could say widths that differ, if the family can.
func (c *Checkpoint) perLayerAdvice() string {
	if c.Spec.CanBe(arch.PerLayer) != nil {
		return ""
	}
	return fmt.Sprintf("; or say them all: \"model_type\": \"coppice_%s\", \"intermediate_sizes\": [%d, ...]", c.Spec.Family.ModelType, c.Spec.Widths[0])
}
