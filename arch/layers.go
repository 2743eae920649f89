package arch

import (
	"encoding/json"
	"fmt"
	"strings"
)

// CutLayers changes a config for a model that keeps only the given layers (ascending
// numbers of the full model that spec describes): num_hidden_layers and every list with
// one entry a layer. Where a family derives such a list from the layer's number and the
// config leaves it out, it is written out first, since the numbers change.
func CutLayers(c *Config, spec Spec, kept []int) error {
	if err := c.writeOutLayerLists(spec); err != nil {
		return err
	}
	for _, list := range c.layerLists() {
		if len(list.values) != spec.Layers {
			return fmt.Errorf("key %q has %d entries for %d layers; which layers they mean after some are dropped is not known", list.key, len(list.values), spec.Layers)
		}
		var cut []json.RawMessage
		for _, l := range kept {
			cut = append(cut, list.values[l])
		}
		if err := c.Set(list.key, cut); err != nil {
			return err
		}
	}
	return c.Set("num_hidden_layers", len(kept))
}

// CheckLayerLists is an error if a list with one entry a layer has another length than
// the config has layers, as when layers were dropped and the lists forgotten.
func CheckLayerLists(c *Config, layers int) error {
	for _, list := range c.layerLists() {
		if len(list.values) != layers {
			return fmt.Errorf("key %q has %d entries, but num_hidden_layers is %d; loaders refuse that: cut the list to the layers that are left", list.key, len(list.values), layers)
		}
	}
	return nil
}

type layerList struct {
	key    string
	values []json.RawMessage
}

// layerLists finds the lists with one entry a layer: layer_types, no_rope_layers and
// their likes are named so by every family. Empty lists mean that nothing is special. The
// lists of the form PerLayer are SetForm's.
func (c *Config) layerLists() []layerList {
	var lists []layerList
	for _, f := range c.fields {
		if !strings.Contains(f.key, "layer") || f.key == headsKey || f.key == kvHeadsKey {
			continue
		}
		var values []json.RawMessage
		if json.Unmarshal(c.raw[f.begin:f.end], &values) == nil && len(values) > 0 {
			lists = append(lists, layerList{f.key, values})
		}
	}
	return lists
}

// writeOutLayerLists adds the list that the family computes from layer numbers. The
// rules are those of transformers' configuration classes.
func (c *Config) writeOutLayerLists(spec Spec) error {
	pattern := func(key string, def int) (int, error) {
		n, err := c.Int(key, def)
		if err == nil && n < 1 {
			err = fmt.Errorf("key %q is %d, expected at least 1", key, n)
		}
		return n, err
	}
	every := 0 // full attention at each layer whose number from 1 is a multiple
	var err error
	switch spec.Family.ModelType {
	case "gemma2":
		every = 2
	case "gemma3_text":
		every, err = pattern("sliding_window_pattern", 6)
	case "smollm3":
		if _, ok := c.Raw("no_rope_layers"); ok {
			return nil
		}
		n, err := pattern("no_rope_layer_interval", 4)
		if err != nil {
			return err
		}
		var rope []int
		for l := range spec.Layers {
			uses := 1
			if (l+1)%n == 0 {
				uses = 0
			}
			rope = append(rope, uses)
		}
		return c.Set("no_rope_layers", rope)
	default:
		sliding, err := c.Bool("use_sliding_window", false)
		if err != nil {
			return err
		}
		if _, ok := c.Raw("layer_types"); sliding && !ok {
			return fmt.Errorf("key \"use_sliding_window\" is true without \"layer_types\"; layers cannot be dropped, since which of them slide depends on their numbers")
		}
		return nil
	}
	if err != nil {
		return err
	}
	if _, ok := c.Raw("layer_types"); ok {
		return nil
	}
	var types []string
	for l := range spec.Layers {
		t := "sliding_attention"
		if (l+1)%every == 0 {
			t = "full_attention"
		}
		types = append(types, t)
	}
	return c.Set("layer_types", types)
}
