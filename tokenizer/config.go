package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
)

// configJSON is what tokenizer_config.json says that tokenizer.json does not. All of it
// may be absent.
type configJSON struct {
	BOS          tokenName        `json:"bos_token"`
	EOS          tokenName        `json:"eos_token"`
	PAD          tokenName        `json:"pad_token"`
	UNK          tokenName        `json:"unk_token"`
	AddBOS       *bool            `json:"add_bos_token"`
	AddEOS       *bool            `json:"add_eos_token"`
	ChatTemplate chatTemplateJSON `json:"chat_template"`
}

// tokenName is a token's text, "" for none. Files spell it as a string, or as an object
// with the token's flags.
type tokenName string

func (t *tokenName) UnmarshalJSON(b []byte) error {
	var s *string
	if json.Unmarshal(b, &s) == nil {
		if s != nil {
			*t = tokenName(*s)
		}
		return nil
	}
	var object struct {
		Content string `json:"content"`
	}
	if json.Unmarshal(b, &object) != nil {
		return errors.New("a token is neither a string nor an object with content")
	}
	*t = tokenName(object.Content)
	return nil
}

// chatTemplateJSON is a template, or a list of named ones of which "default" is used.
type chatTemplateJSON string

func (c *chatTemplateJSON) UnmarshalJSON(b []byte) error {
	var s *string
	if json.Unmarshal(b, &s) == nil {
		if s != nil {
			*c = chatTemplateJSON(*s)
		}
		return nil
	}
	var named []struct {
		Name     string `json:"name"`
		Template string `json:"template"`
	}
	if json.Unmarshal(b, &named) != nil {
		return errors.New("chat_template is neither a string nor a list of named templates")
	}
	for _, t := range named {
		if t.Name == "default" {
			*c = chatTemplateJSON(t.Template)
		}
	}
	return nil
}

func parseConfig(b []byte) (*configJSON, error) {
	c := &configJSON{}
	if len(b) == 0 {
		return c, nil
	}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("%s: %w", configFile, err)
	}
	return c, nil
}

// affixes is the post-processor that the configuration asks for: as transformers 5 has
// it, a config with add_bos_token or add_eos_token replaces that of tokenizer.json.
func (c *configJSON) affixes(t *Tokenizer, fromFile affixes) affixes {
	if c.AddBOS == nil && c.AddEOS == nil {
		return fromFile
	}
	var a affixes
	if c.AddBOS != nil && *c.AddBOS && t.bos != none {
		a.before = []int32{t.bos}
	}
	if c.AddEOS != nil && *c.AddEOS && t.eos != none {
		a.behind = []int32{t.eos}
	}
	return a
}
