package arch

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Form is the way in which a config says what each layer has: how wide an MLP, and how
// many heads; none of one or the other where the form can say so.
type Form uint8

const (
	// Plain is the family's own: intermediate_size and numbers of heads for all layers.
	Plain Form = iota
	// PerLayer is Coppice's: the list intermediate_sizes, one width a layer, beside the
	// widest as intermediate_size; where attention differs too, the lists
	// num_attention_heads_per_layer and num_key_value_heads_per_layer. 0 is a layer without
	// MLP or attention. transformers loads it through ModelingFile.
	PerLayer
	// DeciLM is that of NVIDIA's DeciLMForCausalLM: block_configs, one entry a layer, whose
	// ffn_mult means a width, n_heads_in_group the key-value heads, and no_op a layer without
	// one or the other (decilm.go). vLLM and llama.cpp's converter read it.
	DeciLM
)

// String is the form's name as the flag --form gives it.
func (f Form) String() string { return [...]string{"llama", "transformers", "decilm"}[f] }

// ModelingName is the name of the file through which transformers loads the forms PerLayer
// and DeciLM, beside the weights.
const ModelingName = "modeling_coppice.py"

// ModelingFile is the content of that file.
//
//go:embed modeling_coppice.py
var ModelingFile []byte

// IsModelingFile reports whether a file is ModelingFile as this or another version of
// Coppice writes it: by its second paragraph, which no version changes.
func IsModelingFile(b []byte) bool {
	return strings.Contains(string(b[:min(len(b), 1000)]), "\nWritten by Coppice (https://github.com/coppice-lm/coppice)")
}

const (
	perLayerPrefix = "coppice_" // of model_type
	perLayerKey    = "intermediate_sizes"
	headsKey       = "num_attention_heads_per_layer"
	kvHeadsKey     = "num_key_value_heads_per_layer"
	deciType       = "nemotron-nas"
	deciClass      = "DeciLMForCausalLM"
	blocksKey      = "block_configs"
	autoMapKey     = "auto_map"
)

// CanBe is an error if a model of this Spec, with the attention that its layers have,
// cannot be said in a form, whatever its widths.
func (s *Spec) CanBe(f Form) error {
	const next = "--form padded writes a plain checkpoint that loads everywhere, at the size of its widest layer"
	switch {
	case f == PerLayer && !s.Family.perLayer:
		var known []string
		for _, fam := range Families {
			if fam.perLayer {
				known = append(known, fam.ModelType)
			}
		}
		return fmt.Errorf("--form transformers covers %s, not %s; %s", strings.Join(known, ", "), s.Family.ModelType, next)
	case f == DeciLM && s.Family.ModelType != "llama":
		return fmt.Errorf("--form decilm covers llama, not %s; %s", s.Family.ModelType, next)
	case f == DeciLM && s.HeadDim*s.Heads != s.Hidden:
		return fmt.Errorf("--form decilm has no head_dim, and this model's is %d, not hidden_size / num_attention_heads; %s", s.HeadDim, next)
	case f == Plain && s.Attention != nil:
		return fmt.Errorf("the attention of its layers differs, which a plain checkpoint cannot say; choose --form transformers")
	}
	for l := range s.Layers {
		if n := s.AttentionAt(l).Queries; f == DeciLM && n != 0 && n != s.Heads {
			return fmt.Errorf("layer %d has %d query heads of %d, and --form decilm can say all or none; choose --form transformers", l, n, s.Heads)
		}
	}
	return nil
}

// splitForm takes apart what model_type and architectures say: the form, and the model_type
// of the family that the layers are of.
func splitForm(modelType string, classes []string) (Form, string) {
	if family, ok := strings.CutPrefix(modelType, perLayerPrefix); ok {
		return PerLayer, family
	}
	if modelType == deciType || slices.Contains(classes, deciClass) {
		return DeciLM, "llama"
	}
	return Plain, modelType
}

// readLayers fills widths and attention as the config says them in its form.
func (s *Spec) readLayers(c *Config) error {
	var err error
	switch s.Form {
	case PerLayer:
		err = s.readLists(c)
	case DeciLM:
		err = s.readBlocks(c)
	default:
		s.Widths = slices.Repeat([]int{s.Intermediate}, s.Layers)
		return nil
	}
	if err != nil {
		return err
	}
	key := s.Form.key()
	for l, w := range s.Widths {
		if w < 0 || w > maxExtent {
			return fmt.Errorf("layer %d would be %d neurons wide, expected 0 to %d (key %q)", l, w, maxExtent, key)
		}
	}
	if s.Intermediate = slices.Max(s.Widths); s.Intermediate == 0 {
		return fmt.Errorf("key %q: no layer has an MLP", key)
	}
	return s.checkHeads()
}

// readLists fills them from the lists of the form PerLayer.
func (s *Spec) readLists(c *Config) error {
	if !c.Has(perLayerKey) {
		return fmt.Errorf("key %q is missing; model_type %s needs one width a layer", perLayerKey, perLayerPrefix+s.Family.ModelType)
	}
	var heads, kvs []int
	for _, list := range []struct {
		key string
		to  *[]int
	}{{perLayerKey, &s.Widths}, {headsKey, &heads}, {kvHeadsKey, &kvs}} {
		raw, ok := c.Raw(list.key)
		if !ok {
			continue
		}
		if err := json.Unmarshal(raw, list.to); err != nil {
			return fmt.Errorf("key %q is %s, not a list of numbers", list.key, short(raw))
		}
		if len(*list.to) != s.Layers {
			return fmt.Errorf("key %q has %d entries, but num_hidden_layers is %d", list.key, len(*list.to), s.Layers)
		}
	}
	if (heads == nil) != (kvs == nil) {
		return fmt.Errorf("keys %q and %q belong together, and one of them is missing", headsKey, kvHeadsKey)
	}
	for l := range heads {
		s.Attention = append(s.Attention, HeadCount{heads[l], kvs[l]})
	}
	return nil
}

// checkHeads is an error if a layer cannot have the attention that the config says; it
// brings it into the form in which a Spec has it.
func (s *Spec) checkHeads() error {
	some := s.Attention == nil
	for l, h := range s.Attention {
		if h == (HeadCount{}) {
			continue
		}
		some = true
		if h.KV < 1 || h.KV > s.KVHeads || h.Queries < 1 || h.Queries > s.Heads || h.Queries%h.KV != 0 {
			return fmt.Errorf("layer %d would have %d heads and %d key-value heads; expected at most the model's %d and %d, the first a multiple of the second, or 0 of both", l, h.Queries, h.KV, s.Heads, s.KVHeads)
		}
	}
	if !some {
		return fmt.Errorf("no layer has attention")
	}
	s.Attention = s.ownAttention(s.Attention)
	return nil
}

// key is the config's key that says the widths.
func (f Form) key() string { return [...]string{"intermediate_size", perLayerKey, blocksKey}[f] }

// WidthsKey is the key of the config that says how wide the layers are.
func (s *Spec) WidthsKey() string { return s.Form.key() }

// names are the model_type of the Spec's form, and the classes of transformers, or of
// ModelingFile, that load config and model.
func (s *Spec) names() (modelType, config, model string) {
	class := strings.TrimSuffix(s.Family.Architecture, "ForCausalLM")
	switch s.Form {
	case PerLayer:
		return perLayerPrefix + s.Family.ModelType, "Coppice" + class + "Config", "Coppice" + s.Family.Architecture
	case DeciLM:
		return deciType, "DeciLMConfig", deciClass
	}
	return s.Family.ModelType, class + "Config", s.Family.Architecture
}

// Architecture is the class that loads the model, as config.json's architectures name it.
func (s *Spec) Architecture() string {
	_, _, model := s.names()
	return model
}

// SetForm changes a config of the model from into one of the model to, as far as form and
// widths go; every other key keeps its bytes.
func SetForm(c *Config, from, to *Spec) error {
	if from.Form != Plain && from.Form != to.Form {
		for _, key := range []string{from.Form.key(), headsKey, kvHeadsKey} {
			if err := c.Delete(key); err != nil {
				return err
			}
		}
		if err := c.setAutoMap(nil); err != nil {
			return err
		}
	}
	now, err := FromConfig(c)
	said := err == nil && now.Form == to.Form && slices.Equal(now.Widths, to.Widths) && slices.Equal(now.Attention, to.Attention) // keeps its spelling
	err = nil
	switch {
	case said:
	case to.Form == PerLayer:
		err = to.setLists(c)
	case to.Form == DeciLM:
		err = c.Set(blocksKey, to.blocks())
	}
	if err != nil {
		return err
	}
	modelType, config, model := to.names()
	if from.Form != to.Form {
		if err := c.Set("model_type", modelType); err != nil {
			return err
		}
		if err := c.Set("architectures", []string{model}); err != nil {
			return err
		}
	}
	cut := from.Heads != to.Heads || from.KVHeads != to.KVHeads // which readers that derive head_dim are to be told
	for _, v := range []struct {
		key  string
		is   int
		only bool
	}{
		{"intermediate_size", to.Intermediate, true},
		{"num_attention_heads", to.Heads, cut},
		{"num_key_value_heads", to.KVHeads, cut || from.Form == DeciLM}, // whose configs may leave it to their blocks
		{"head_dim", to.HeadDim, cut},
	} {
		if n, err := c.Int(v.key, 0); v.only && (err != nil || n != v.is) {
			if err := c.Set(v.key, v.is); err != nil {
				return err
			}
		}
	}
	if to.Form == Plain {
		return nil
	}
	module := strings.TrimSuffix(ModelingName, ".py") + "."
	return c.setAutoMap(map[string]string{"AutoConfig": module + config, "AutoModelForCausalLM": module + model})
}

// setLists sets the lists of the form PerLayer.
func (s *Spec) setLists(c *Config) error {
	if err := c.Set(perLayerKey, s.Widths); err != nil {
		return err
	}
	var heads, kvs []int
	for _, h := range s.Attention {
		heads, kvs = append(heads, h.Queries), append(kvs, h.KV)
	}
	for _, v := range []struct {
		key  string
		list []int
	}{{headsKey, heads}, {kvHeadsKey, kvs}} {
		err := c.Delete(v.key)
		if v.list != nil {
			err = c.Set(v.key, v.list)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// setAutoMap gives the classes through which transformers loads config and model; nil
// leaves that to transformers. Other entries of the map stay.
func (c *Config) setAutoMap(classes map[string]string) error {
	entries := &Config{raw: []byte("{}")}
	if raw, ok := c.Raw(autoMapKey); ok {
		var err error
		if entries, err = ParseConfig(raw); err != nil {
			return fmt.Errorf("key %q: %w", autoMapKey, err)
		}
	}
	changed := false
	for _, key := range []string{"AutoConfig", "AutoModelForCausalLM"} {
		class := classes[key]
		if now, err := entries.Text(key, ""); err == nil && now == class {
			continue
		}
		changed = true
		err := entries.Delete(key)
		if class != "" {
			err = entries.Set(key, class)
		}
		if err != nil {
			return fmt.Errorf("key %q: %w", autoMapKey, err)
		}
	}
	switch {
	case !changed:
		return nil
	case len(entries.fields) == 0:
		return c.Delete(autoMapKey)
	}
	return c.Set(autoMapKey, json.RawMessage(entries.raw))
}
