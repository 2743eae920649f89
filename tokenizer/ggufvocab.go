package tokenizer

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/coppice-lm/coppice/gguf"
)

// ErrNoVocabulary is returned for a GGUF file without tokenizer.ggml.tokens, such as a
// file that holds an adapter or a projector.
var ErrNoVocabulary = errors.New("the file holds no vocabulary (tokenizer.ggml.tokens)")

// The token types of tokenizer.ggml.token_type.
const (
	typeNormal      = 1
	typeUnknown     = 2
	typeControl     = 3
	typeUserDefined = 4
	typeUnused      = 5
	typeByte        = 6
)

// ggufVocab is what a GGUF file says about its tokenizer. An id is -1 and a flag nil
// where the file says nothing.
type ggufVocab struct {
	model, pre         string
	tokens             []string
	types              []int64
	scores             []float64
	merges             []string
	bos, eos, unk, pad int32
	addBOS, addEOS     *bool
	addSpacePrefix     *bool
	removeExtraSpaces  bool
	chatTemplate       string
	namedTemplates     [][2]string // name, template
	contextLength      uint64      // 0 if unknown
}

// readGGUFVocab reads the keys tokenizer.ggml.* and checks that they agree.
func readGGUFVocab(f *gguf.File) (*ggufVocab, error) {
	const p = "tokenizer.ggml."
	if _, ok := f.Lookup(p + "tokens"); !ok {
		return nil, ErrNoVocabulary
	}
	v := &ggufVocab{}
	r := ggufReader{f: f}
	v.model = optional(&r, p+"model", f.String)
	v.pre = optional(&r, p+"pre", f.String)
	v.tokens = optional(&r, p+"tokens", f.Strings)
	v.types = optional(&r, p+"token_type", f.Ints)
	v.scores = optional(&r, p+"scores", f.Floats)
	v.merges = optional(&r, p+"merges", f.Strings)
	v.addBOS = optionalPtr(&r, p+"add_bos_token", f.Bool)
	v.addEOS = optionalPtr(&r, p+"add_eos_token", f.Bool)
	v.addSpacePrefix = optionalPtr(&r, p+"add_space_prefix", f.Bool)
	v.removeExtraSpaces = optional(&r, p+"remove_extra_whitespaces", f.Bool)
	v.bos = r.id(p+"bos_token_id", len(v.tokens))
	v.eos = r.id(p+"eos_token_id", len(v.tokens))
	v.unk = r.id(p+"unknown_token_id", len(v.tokens))
	v.pad = r.id(p+"padding_token_id", len(v.tokens))
	v.chatTemplate = optional(&r, "tokenizer.chat_template", f.String)
	for _, name := range optional(&r, "tokenizer.chat_templates", f.Strings) {
		v.namedTemplates = append(v.namedTemplates,
			[2]string{name, optional(&r, "tokenizer.chat_template."+name, f.String)})
	}
	if arch := optional(&r, "general.architecture", f.String); arch != "" {
		v.contextLength = optional(&r, arch+".context_length", f.Uint)
	}
	if r.err != nil {
		return nil, r.err
	}
	if v.types != nil && len(v.types) != len(v.tokens) {
		return nil, fmt.Errorf("key %q has %d elements for %d tokens", p+"token_type", len(v.types), len(v.tokens))
	}
	if v.scores != nil && len(v.scores) != len(v.tokens) {
		return nil, fmt.Errorf("key %q has %d elements for %d tokens", p+"scores", len(v.scores), len(v.tokens))
	}
	return v, nil
}

// typeOf is the type of token id; normal where the file gives no types.
func (v *ggufVocab) typeOf(id int) int64 {
	if v.types == nil {
		return typeNormal
	}
	return v.types[id]
}

// vocab maps tokens to ids. A token that stands twice is an error, because text could
// not reach the second; so is one that JSON cannot hold.
func (v *ggufVocab) vocab() (vocabJSON, error) {
	m := make(vocabJSON, len(v.tokens))
	for id, t := range v.tokens {
		if t == "" {
			return nil, fmt.Errorf("token %d of the vocabulary is empty", id)
		}
		if !utf8.ValidString(t) {
			return nil, fmt.Errorf("token %d of the vocabulary, %q, is not UTF-8", id, t)
		}
		if other, ok := m[t]; ok {
			return nil, fmt.Errorf("token %q of the vocabulary has two ids, %d and %d", t, other, id)
		}
		m[t] = int32(id)
	}
	return m, nil
}

// addedTokens lists the tokens that are cut out of the text whole: control tokens and
// the unknown token are special, user-defined ones are not.
func (v *ggufVocab) addedTokens() []addedTokenJSON {
	var list []addedTokenJSON
	for id, t := range v.tokens {
		switch v.typeOf(id) {
		case typeControl, typeUnknown:
			list = append(list, addedTokenJSON{ID: int32(id), Content: t, Special: true})
		case typeUserDefined:
			list = append(list, addedTokenJSON{ID: int32(id), Content: t})
		}
	}
	return list
}

// token is the text of an id, "" for -1.
func (v *ggufVocab) token(id int32) string {
	if id < 0 {
		return ""
	}
	return v.tokens[id]
}

// ggufReader keeps the first error of a series of reads.
type ggufReader struct {
	f   *gguf.File
	err error
}

// optional reads a key with one of the file's accessors. The zero value stands for a
// key that is absent; a key of another type is an error.
func optional[T any](r *ggufReader, key string, get func(string) (T, error)) T {
	if v := optionalPtr(r, key, get); v != nil {
		return *v
	}
	var zero T
	return zero
}

func optionalPtr[T any](r *ggufReader, key string, get func(string) (T, error)) *T {
	if _, ok := r.f.Lookup(key); !ok || r.err != nil {
		return nil
	}
	v, err := get(key)
	if err != nil {
		r.err = err
		return nil
	}
	return &v
}

// id reads a token id, -1 if absent. One outside the vocabulary is an error.
func (r *ggufReader) id(key string, tokens int) int32 {
	id := optionalPtr(r, key, r.f.Uint)
	if id == nil {
		return -1
	}
	if *id >= uint64(tokens) {
		r.err = fmt.Errorf("key %q is %d, and the vocabulary has %d tokens", key, *id, tokens)
		return -1
	}
	return int32(*id)
}
