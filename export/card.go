package export

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/gguf"
)

// Card is what the model card, README.md, says of itself in its front matter.
type Card struct {
	License     string // identifier, "llama3.2"
	LicenseName string
	LicenseLink string
	BaseModels  []string // owner/name
	Languages   []string
	Tags        []string
	Text        string // the licence's own text, of the file LICENSE; empty if there is none
}

// oneOrMany is a YAML value that is a string or a list of strings.
type oneOrMany []string

func (o *oneOrMany) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		if n.Value != "" && n.Tag != "!!null" {
			*o = []string{n.Value}
		}
		return nil
	}
	return n.Decode((*[]string)(o))
}

// readCard reads README.md and LICENSE of a model, where they are. A card without front
// matter says nothing; one whose front matter is no YAML is an error.
func readCard(c *checkpoint.Checkpoint) (Card, error) {
	var card Card
	for _, f := range c.Extra() {
		switch f.Name {
		case "LICENSE", "LICENSE.txt", "LICENSE.md":
			b, err := readExtra(f)
			if err != nil {
				return card, err
			}
			card.Text = string(b)
		case "README.md":
			b, err := readExtra(f)
			if err == nil {
				err = card.read(b)
			}
			if err != nil {
				return card, fmt.Errorf("README.md: %w", err)
			}
		}
	}
	return card, nil
}

func (card *Card) read(readme []byte) error {
	readme = bytes.ReplaceAll(readme, []byte("\r\n"), []byte("\n"))
	rest, ok := bytes.CutPrefix(readme, []byte("---\n"))
	if !ok {
		return nil
	}
	front, _, ok := bytes.Cut(rest, []byte("\n---"))
	if !ok {
		return errors.New("its front matter has no end (a line ---)")
	}
	var v struct {
		License     oneOrMany `yaml:"license"`
		LicenseName string    `yaml:"license_name"`
		LicenseLink string    `yaml:"license_link"`
		BaseModel   oneOrMany `yaml:"base_model"`
		Language    oneOrMany `yaml:"language"`
		Tags        oneOrMany `yaml:"tags"`
	}
	if err := yaml.Unmarshal(front, &v); err != nil {
		return fmt.Errorf("its front matter: %w", err)
	}
	if len(v.License) > 0 {
		card.License = v.License[0]
	}
	card.LicenseName, card.LicenseLink = v.LicenseName, v.LicenseLink
	card.BaseModels, card.Languages, card.Tags = v.BaseModel, v.Language, v.Tags
	return nil
}

// addTo adds the keys of general.* that a card answers.
func (card *Card) addTo(k *keys) {
	text := func(key, v string) {
		if v != "" {
			k.general(key, gguf.StringValue(v))
		}
	}
	text("license", card.License)
	text("license.name", card.LicenseName)
	text("license.link", card.LicenseLink)
	if n := len(card.BaseModels); n > 0 {
		k.general("base_model.count", gguf.Uint32Value(uint32(n)))
	}
	for i, base := range card.BaseModels {
		owner, name, ok := strings.Cut(base, "/")
		if !ok {
			owner, name = "", base
		}
		key := fmt.Sprintf("base_model.%d.", i)
		text(key+"name", name)
		text(key+"organization", owner)
		if ok {
			text(key+"repo_url", "https://huggingface.co/"+base)
		}
	}
	if tags := slices.DeleteFunc(slices.Clone(card.Tags), func(s string) bool { return s == "" }); len(tags) > 0 {
		k.general("tags", gguf.StringsValue(tags...))
	}
	if len(card.Languages) > 0 {
		k.general("languages", gguf.StringsValue(card.Languages...))
	}
}
