package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/gguf"
	"github.com/coppice-lm/coppice/tensor"
	"github.com/coppice-lm/coppice/tokenizer"
)

// openGGUF opens a GGUF file, or all parts of a split one, as the Hugging Face
// checkpoint that it was made from.
func openGGUF(path string) (*Checkpoint, error) {
	c := &Checkpoint{Path: path, sources: map[string]source{}, gguf: true}
	if err := c.readGGUF(path); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// part is one file of a GGUF model.
type part struct {
	*gguf.File
	data *dataFile
}

func (c *Checkpoint) readGGUF(path string) error {
	paths, err := gguf.SplitPaths(path)
	if err != nil {
		return err
	}
	var parts []part
	for _, p := range paths {
		f, err := openData(p)
		if err != nil {
			return fmt.Errorf("%w; fetch the missing part", err)
		}
		c.files = append(c.files, f)
		g, err := gguf.Read(f, f.size)
		if err != nil {
			return fmt.Errorf("%s: %w; fetch the file again, or convert the model anew", p, err)
		}
		parts = append(parts, part{g, f})
	}
	first := parts[0]
	if n, err := first.Uint("split.count"); err == nil && n > 1 && int(n) != len(parts) {
		return fmt.Errorf("%s: key \"split.count\" is %d, but the file's name says %d parts; name the first part, NAME-00001-of-%05d.gguf", path, n, len(parts), n)
	}
	if err := c.nameTensors(parts); err != nil {
		return err
	}
	extra, err := tokenizer.FilesFromGGUF(first.File)
	switch {
	case errors.Is(err, tokenizer.ErrNoVocabulary):
		c.Notes = append(c.Notes, "the file has no vocabulary, so no tokenizer files come of it")
		extra = map[string][]byte{}
	case err != nil:
		return fmt.Errorf("%s: %w", path, err)
	}
	extra["generation_config.json"] = generationConfig(first.File)
	for _, name := range slices.Sorted(maps.Keys(extra)) {
		b := extra[name]
		c.extra = append(c.extra, ExtraFile{name, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }})
	}
	return nil
}

// nameTensors makes config.json out of the metadata, and gives every tensor the name
// and the order that the family's Hugging Face checkpoints have.
func (c *Checkpoint) nameTensors(parts []part) error {
	first := parts[0]
	fam, prefix, err := ggufFamily(first.File)
	if err != nil {
		return fmt.Errorf("%s: %w", first.data.path, err)
	}
	type stored struct {
		gguf.Entry
		data *dataFile
	}
	byName := map[string]stored{}
	for _, p := range parts {
		for _, e := range p.Tensors {
			if _, twice := byName[e.Name]; twice {
				return fmt.Errorf("%s: tensor %q is in an earlier part too", p.data.path, e.Name)
			}
			byName[e.Name] = stored{e, p.data}
		}
	}
	var freqs []float32
	if t, ok := byName[ropeFreqs]; ok {
		b := make([]byte, min(t.End-t.Begin, 1<<16))
		if err := t.data.readFull(b, t.Begin); err != nil {
			return err
		}
		freqs = make([]float32, len(b)/4)
		if t.DType != tensor.F32 || tensor.Decode(freqs, b, tensor.F32) != nil {
			return fmt.Errorf("%s: tensor %q: expected a short vector of F32, found %v %v", t.data.path, t.Name, t.DType, t.Shape)
		}
		delete(byName, ropeFreqs)
	}
	embed, ok := byName["token_embd.weight"]
	if !ok || len(embed.Shape) != 2 {
		return fmt.Errorf("%s: tensor \"token_embd.weight\" is missing or no matrix; a file that holds a vocabulary alone cannot be imported", first.data.path)
	}
	_, untied := byName["output.weight"]
	raw, err := configFromGGUF(first.File, fam, prefix, embed.Shape[0], !untied, freqs)
	if err != nil {
		return fmt.Errorf("%s: %w", first.data.path, err)
	}
	if c.Config, err = arch.ParseConfig(raw); err != nil {
		return err
	}
	if c.Spec, err = arch.FromConfig(c.Config); err != nil {
		return fmt.Errorf("%s: %w", first.data.path, err)
	}
	if prefix == arch.GGUFPerLayer+"." {
		if err := c.layersFromGGUF(first.File, prefix); err != nil {
			return fmt.Errorf("%s: %w", first.data.path, err)
		}
	}
	hasBias := func(name string) bool { // in the first layer that has the matrix
		for l := range c.Spec.Layers {
			if prefix := fmt.Sprintf("blk.%d.%s.", l, name); hasKey(byName, prefix+"weight") {
				return hasKey(byName, prefix+"bias")
			}
		}
		return false
	}
	c.Spec.AttentionBias = fam.AttentionBiasInConfig() && hasBias("attn_q")
	c.Spec.MLPBias = hasBias("ffn_gate")
	for _, b := range []struct {
		key string
		on  bool
	}{{"attention_bias", c.Spec.AttentionBias}, {"mlp_bias", c.Spec.MLPBias}} {
		if !b.on {
			continue
		}
		if err := c.Config.Set(b.key, true); err != nil {
			return err
		}
	}
	for _, t := range c.Spec.Tensors() {
		s, ok := byName[t.GGUF]
		if !ok {
			continue // check names what is missing
		}
		delete(byName, t.GGUF)
		src := source{info: s.Info, file: s.data, begin: s.Begin}
		src.info.Name = t.Name
		if fam.GGUFPermuted && (strings.Contains(t.GGUF, ".attn_q.") || strings.Contains(t.GGUF, ".attn_k.")) {
			src.headDim = c.Spec.HeadDim
			if src.headDim%2 != 0 || s.Rows()%src.headDim != 0 {
				return fmt.Errorf("%s: tensor %q has %d rows, expected heads of an even number of rows (head_dim %d)", s.data.path, t.GGUF, s.Rows(), src.headDim)
			}
		}
		src.minusOne = fam.GGUFNormPlus && t.Role == arch.Norm
		c.infos = append(c.infos, src.info)
		c.sources[t.Name] = src
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		return fmt.Errorf("%s: tensor %q is not part of a %s model; only plain %s files can be imported", byName[name].data.path, name, fam.GGUF, fam.GGUF)
	}
	return nil
}

// layersFromGGUF gives the config the form that says width and attention of each layer,
// where they differ.
func (c *Checkpoint) layersFromGGUF(f *gguf.File, prefix string) error {
	m := &metadata{File: f, prefix: prefix}
	layers := c.Spec.Layers
	widths, heads := m.perLayer("feed_forward_length", layers), m.perLayer("attention.head_count", layers)
	kvHeads := heads
	if m.has("attention.head_count_kv") {
		kvHeads = m.perLayer("attention.head_count_kv", layers)
	}
	if m.err != nil {
		return m.err
	}
	attention := make([]arch.HeadCount, layers)
	for l := range attention {
		attention[l] = arch.HeadCount{Queries: heads[l], KV: kvHeads[l]}
		if heads[l] > 0 && kvHeads[l] == 0 {
			return fmt.Errorf("layer %d has a matrix in the place of its attention (%sattention.head_count_kv is 0 there, and head_count is not); only layers of attention and a gated MLP, or one of them, are supported", l, prefix)
		}
	}
	to := c.Spec.WithLayers(widths, attention)
	if to.Uniform() {
		return nil
	}
	to.Form = arch.PerLayer
	err := arch.SetForm(c.Config, &c.Spec, &to)
	if err == nil {
		c.Spec, err = arch.FromConfig(c.Config)
	}
	return err
}

func hasKey[T any](byName map[string]T, name string) bool {
	_, ok := byName[name]
	return ok
}

// ggufFamily finds the family of general.architecture, and what its keys begin with. An
// architecture of several families is that of the first.
func ggufFamily(f *gguf.File) (fam *arch.Family, prefix string, err error) {
	name, err := f.String("general.architecture")
	if err != nil {
		return nil, "", err
	}
	known := []string{arch.GGUFPerLayer}
	for i := range arch.Families {
		fam := &arch.Families[i]
		if fam.GGUF == "" || slices.Contains(known, fam.GGUF) {
			continue
		}
		if fam.GGUF == name || fam.ModelType == "llama" && name == arch.GGUFPerLayer {
			if n, err := f.Uint(name + ".expert_count"); err == nil && n > 1 {
				return nil, "", fmt.Errorf("key %q is %d: a mixture of experts; only dense gated MLPs are supported", name+".expert_count", n)
			}
			return fam, name + ".", nil
		}
		known = append(known, fam.GGUF)
	}
	slices.Sort(known)
	return nil, "", fmt.Errorf("general.architecture is %q; import covers %s", name, strings.Join(known, ", "))
}
