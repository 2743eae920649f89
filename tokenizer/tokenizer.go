package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"unicode/utf8"

	"github.com/ardanlabs/jinja"
)

// A Tokenizer turns text into ids and ids into text. It does not change after it is
// loaded and may be used by many goroutines at once.
type Tokenizer struct {
	model      *bpe
	raw        addedSet // added tokens found in the text as it is
	normalized addedSet // those found in the normalized text
	normalizer normalizer
	steps      []step
	affixes    affixes
	decoder    decoder

	tokens        []string // by id
	special       []bool   // by id
	bos, eos, pad int32
	names         map[string]string // of the special tokens, for the chat template
	template      string
	chat          func() (*jinja.Template, error)
	fingerprint   func() string

	encoders sync.Pool // of *encoder
}

// Load compiles a tokenizer from the contents of tokenizer.json and, if not empty, of
// tokenizer_config.json, which names BOS, EOS and PAD and holds the chat template.
//
// An error names the component, token or merge at fault: what Load accepts, it encodes
// as Python's tokenizers does.
func Load(tokenizerJSON, config []byte) (*Tokenizer, error) {
	t, _, err := load(tokenizerJSON, config)
	return t, err
}

// load is Load, and the file as it was read.
func load(tokenizerJSON, config []byte) (*Tokenizer, *fileJSON, error) {
	file := &fileJSON{}
	if err := json.Unmarshal(tokenizerJSON, file); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", tokenizerFile, err)
	}
	c, err := parseConfig(config)
	if err != nil {
		return nil, nil, err
	}
	t, err := compile(file, c)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", tokenizerFile, err)
	}
	return t, file, nil
}

// LoadFS loads the tokenizer of a model directory: tokenizer.json and, where they are,
// tokenizer_config.json and chat_template.jinja (which goes before the template in the
// configuration, as in transformers).
func LoadFS(dir fs.FS) (*Tokenizer, error) {
	file, err := fs.ReadFile(dir, tokenizerFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no %s: convert the tokenizer with transformers "+
			"(AutoTokenizer.from_pretrained(...).save_pretrained(...)): %w", tokenizerFile, err)
	}
	if err != nil {
		return nil, err
	}
	config, err := fs.ReadFile(dir, configFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	t, err := Load(file, config)
	if err != nil {
		return nil, err
	}
	switch template, err := fs.ReadFile(dir, templateFile); {
	case err == nil:
		t.setTemplate(string(template))
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	return t, nil
}

func compile(f *fileJSON, c *configJSON) (*Tokenizer, error) {
	t := &Tokenizer{names: map[string]string{}}
	var err error
	var byteLevel bool
	if t.normalizer, err = newNormalizer(f.Normalizer); err != nil {
		return nil, err
	}
	if t.steps, byteLevel, err = newPreTokenizer(f.PreTokenizer); err != nil {
		return nil, err
	}
	if t.model, err = newBPE(&f.Model, byteLevel); err != nil {
		return nil, err
	}
	if t.decoder, err = newDecoder(f.Decoder); err != nil {
		return nil, err
	}
	fromFile, err := newAffixes(f.PostProcessor)
	if err != nil {
		return nil, err
	}
	if err := t.addTokens(f.AddedTokens); err != nil {
		return nil, err
	}
	for _, named := range []struct {
		role string
		name tokenName
		id   *int32
	}{{"bos_token", c.BOS, &t.bos}, {"eos_token", c.EOS, &t.eos}, {"pad_token", c.PAD, &t.pad}, {"unk_token", c.UNK, new(int32)}} {
		*named.id = none
		if id, ok := t.ID(string(named.name)); ok && named.name != "" {
			*named.id = id
			t.names[named.role] = string(named.name)
		}
	}
	t.affixes = c.affixes(t, fromFile)
	for _, id := range append(append([]int32{}, t.affixes.before...), t.affixes.behind...) {
		if _, ok := t.Token(id); !ok {
			return nil, fmt.Errorf("the post-processor adds id %d, which no token has", id)
		}
	}
	t.setTemplate(string(c.ChatTemplate))
	t.fingerprint = sync.OnceValue(func() string { return fingerprint(f, t) })
	t.encoders.New = func() any { return newEncoder(t) }
	return t, nil
}

// addTokens fills the tables by id and the sets of added tokens.
func (t *Tokenizer) addTokens(added []addedTokenJSON) error {
	size := int64(0)
	for _, id := range t.model.vocab {
		size = max(size, int64(id)+1)
	}
	for _, a := range added {
		if a.ID < 0 {
			return fmt.Errorf("added token %q has the id %d", a.Content, a.ID)
		}
		size = max(size, int64(a.ID)+1)
	}
	// The tables have a place for every id, so a stray one must not make them huge.
	if count := int64(len(t.model.vocab) + len(added)); size > 4*count+1<<16 {
		return fmt.Errorf("there are %d tokens, and one has the id %d", count, size-1)
	}
	t.tokens, t.special = make([]string, size), make([]bool, size)
	for token, id := range t.model.vocab {
		if other := t.tokens[id]; other != "" {
			return fmt.Errorf("tokens %q and %q have the same id %d", min(token, other), max(token, other), id)
		}
		t.tokens[id] = token
	}
	for i := range added {
		a := &added[i]
		if a.Content == "" {
			continue
		}
		if id, ok := t.model.vocab[a.Content]; ok && id != a.ID {
			return fmt.Errorf("added token %q has the id %d, and %d in the vocabulary", a.Content, a.ID, id)
		}
		if other := t.tokens[a.ID]; other != "" && other != a.Content {
			return fmt.Errorf("added token %q has the id %d, as token %q", a.Content, a.ID, other)
		}
		t.tokens[a.ID] = a.Content
		t.special[a.ID] = a.Special
		switch {
		case !a.Normalized:
			t.raw.add(a.Content, a)
		case t.normalizer != nil:
			t.normalized.add(t.normalizer(a.Content), a)
		default:
			t.normalized.add(a.Content, a)
		}
	}
	return nil
}

// ID is the id of a token, spelled as in the vocabulary (of byte-level BPE: in its
// alphabet, with Ġ for a space).
func (t *Tokenizer) ID(token string) (int32, bool) {
	if id, ok := t.model.vocab[token]; ok {
		return id, true
	}
	for _, set := range []*addedSet{&t.raw, &t.normalized} {
		if a := set.exact(token); a != nil {
			return a.ID, true
		}
	}
	return none, false
}

// Token is the token of an id, spelled as in the vocabulary; ok is false if no token has
// the id.
func (t *Tokenizer) Token(id int32) (token string, ok bool) {
	if id < 0 || int(id) >= len(t.tokens) || t.tokens[id] == "" {
		return "", false
	}
	return t.tokens[id], true
}

// VocabSize is one more than the largest id. The embedding of a model may have more rows.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// BOS, EOS and PAD are the ids that the configuration names; -1 for none.
func (t *Tokenizer) BOS() int32 { return t.bos }

// EOS is the end-of-sequence id; see BOS.
func (t *Tokenizer) EOS() int32 { return t.eos }

// PAD is the padding id; see BOS.
func (t *Tokenizer) PAD() int32 { return t.pad }

// Encode returns the ids of a text; with addSpecial also those that the post-processor
// adds, such as BOS. Added tokens in the text, special ones too, become their ids.
//
// Bytes that are not UTF-8 are encoded as U+FFFD, one for each maximal part of a
// character, as text that Python decoded with errors="replace".
func (t *Tokenizer) Encode(text string, addSpecial bool) []int32 {
	if !utf8.ValidString(text) {
		valid, _ := appendValid(nil, []byte(text), true)
		text = string(valid)
	}
	e := t.encoders.Get().(*encoder)
	defer t.encoders.Put(e)
	out := make([]int32, 0, len(text)/3+4)
	if addSpecial {
		out = append(out, t.affixes.before...)
	}
	out = e.encode(text, out)
	if addSpecial {
		out = append(out, t.affixes.behind...)
	}
	return out
}

// Decode returns the text of ids. With skipSpecial the special tokens are left out. Ids
// that no token has are skipped, and bytes that do not make up a character become
// U+FFFD, one for each maximal part of a character.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	s := t.Stream(skipSpecial)
	var out []byte
	for _, id := range ids {
		out = s.add(out, id)
	}
	return string(s.end(out))
}

// Fingerprint is the SHA-256, in hexadecimal, of all that decides the ids of a text and
// the BOS, EOS and PAD ids: two tokenizers of one fingerprint give the same ids. How a
// file spells its merges or orders its vocabulary does not matter; chat template and
// decoder are not part of it.
func (t *Tokenizer) Fingerprint() string { return t.fingerprint() }
