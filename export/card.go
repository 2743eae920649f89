package export

import (
	"fmt"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/gguf"
	"github.com/coppice-lm/coppice/internal/frontmatter"
)

// Card is what the model card, README.md, says in its front matter.
type Card struct {
	frontmatter.Front
	Text string // the licence's own text, of the file LICENSE; empty if there is none
}

// readCard reads README.md and LICENSE of a model, where they are. What cannot be read of
// the front matter is a note, since the model is as good without it.
func (p *Program) readCard() error {
	for _, f := range p.from.Extra() {
		switch f.Name {
		case "LICENSE", "LICENSE.txt", "LICENSE.md":
			b, err := f.Read(maxExtra)
			if err != nil {
				return err
			}
			p.Card.Text = string(b)
		case "README.md":
			b, err := f.Read(maxExtra)
			if err != nil {
				return err
			}
			if p.Card.Front, err = frontmatter.Parse(b); err != nil {
				p.Notes = append(p.Notes, fmt.Sprintf("README.md: %v; what it says there of licence, base model, languages and tags is left out", err))
			}
		}
	}
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
