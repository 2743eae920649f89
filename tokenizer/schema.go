package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
)

// The types of this file are the JSON schema of tokenizer.json, for reading and for
// writing. A component (normalizer, pre-tokenizer, ...) is one struct that holds the
// fields of all its kinds, told apart by Type; pointers tell "absent" from "false".

type fileJSON struct {
	Version       string             `json:"version"`
	Truncation    *struct{}          `json:"truncation"`
	Padding       *struct{}          `json:"padding"`
	AddedTokens   []addedTokenJSON   `json:"added_tokens"`
	Normalizer    *normalizerJSON    `json:"normalizer"`
	PreTokenizer  *preTokenizerJSON  `json:"pre_tokenizer"`
	PostProcessor *postProcessorJSON `json:"post_processor"`
	Decoder       *decoderJSON       `json:"decoder"`
	Model         modelJSON          `json:"model"`
}

type addedTokenJSON struct {
	ID         int32  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

// patternJSON is a literal string or a regular expression; exactly one is set.
type patternJSON struct {
	String *string `json:"String,omitempty"`
	Regex  *string `json:"Regex,omitempty"`
}

type normalizerJSON struct {
	Type        string           `json:"type"`
	Normalizers []normalizerJSON `json:"normalizers,omitempty"`
	Pattern     *patternJSON     `json:"pattern,omitempty"`
	Content     *string          `json:"content,omitempty"`
	Prepend     *string          `json:"prepend,omitempty"`
	StripLeft   *bool            `json:"strip_left,omitempty"`
	StripRight  *bool            `json:"strip_right,omitempty"`
}

type preTokenizerJSON struct {
	Type             string             `json:"type"`
	PreTokenizers    []preTokenizerJSON `json:"pretokenizers,omitempty"`
	Pattern          *patternJSON       `json:"pattern,omitempty"`
	Behavior         string             `json:"behavior,omitempty"`
	Invert           *bool              `json:"invert,omitempty"`
	AddPrefixSpace   *bool              `json:"add_prefix_space,omitempty"`
	TrimOffsets      *bool              `json:"trim_offsets,omitempty"`
	UseRegex         *bool              `json:"use_regex,omitempty"`
	IndividualDigits *bool              `json:"individual_digits,omitempty"`
	Replacement      string             `json:"replacement,omitempty"`
	PrependScheme    string             `json:"prepend_scheme,omitempty"`
	Split            *bool              `json:"split,omitempty"`
}

type postProcessorJSON struct {
	Type           string                         `json:"type"`
	Processors     []postProcessorJSON            `json:"processors,omitempty"`
	Single         []templatePieceJSON            `json:"single,omitempty"`
	Pair           []templatePieceJSON            `json:"pair,omitempty"`
	SpecialTokens  map[string]templateSpecialJSON `json:"special_tokens,omitempty"`
	AddPrefixSpace *bool                          `json:"add_prefix_space,omitempty"`
	TrimOffsets    *bool                          `json:"trim_offsets,omitempty"`
	UseRegex       *bool                          `json:"use_regex,omitempty"`
	Cls            *clsJSON                       `json:"cls,omitempty"`
	Sep            *clsJSON                       `json:"sep,omitempty"`
}

type templatePieceJSON struct {
	SpecialToken *templateRefJSON `json:"SpecialToken,omitempty"`
	Sequence     *templateRefJSON `json:"Sequence,omitempty"`
}

type templateRefJSON struct {
	ID     string `json:"id"`
	TypeID int    `json:"type_id"`
}

type templateSpecialJSON struct {
	ID     string   `json:"id"`
	IDs    []int32  `json:"ids"`
	Tokens []string `json:"tokens"`
}

// clsJSON is the pair ["<s>", 0] of Roberta's and Bert's post-processors.
type clsJSON struct {
	Token string
	ID    int32
}

func (c *clsJSON) UnmarshalJSON(b []byte) error {
	pair := []any{&c.Token, &c.ID}
	if err := json.Unmarshal(b, &pair); err != nil {
		return err
	}
	if len(pair) != 2 {
		return fmt.Errorf("want a pair of token and id, have %s", b)
	}
	return nil
}

func (c clsJSON) MarshalJSON() ([]byte, error) { return json.Marshal([]any{c.Token, c.ID}) }

type decoderJSON struct {
	Type           string        `json:"type"`
	Decoders       []decoderJSON `json:"decoders,omitempty"`
	Pattern        *patternJSON  `json:"pattern,omitempty"`
	Content        *string       `json:"content,omitempty"`
	Start          *int          `json:"start,omitempty"`
	Stop           *int          `json:"stop,omitempty"`
	Replacement    string        `json:"replacement,omitempty"`
	PrependScheme  string        `json:"prepend_scheme,omitempty"`
	AddPrefixSpace *bool         `json:"add_prefix_space,omitempty"`
	TrimOffsets    *bool         `json:"trim_offsets,omitempty"`
	UseRegex       *bool         `json:"use_regex,omitempty"`
	Split          *bool         `json:"split,omitempty"`
}

type modelJSON struct {
	Type                    string    `json:"type"`
	Dropout                 *float64  `json:"dropout"`
	UnkToken                *string   `json:"unk_token"`
	ContinuingSubwordPrefix *string   `json:"continuing_subword_prefix"`
	EndOfWordSuffix         *string   `json:"end_of_word_suffix"`
	FuseUnk                 bool      `json:"fuse_unk"`
	ByteFallback            bool      `json:"byte_fallback"`
	IgnoreMerges            bool      `json:"ignore_merges"`
	Vocab                   vocabJSON `json:"vocab"`
	Merges                  mergeList `json:"merges"`
}

// vocabJSON maps a token to its id. It is written in the order of the ids.
type vocabJSON map[string]int32

func (v vocabJSON) MarshalJSON() ([]byte, error) {
	tokens := make([]string, 0, len(v))
	for t := range v {
		tokens = append(tokens, t)
	}
	slices.SortFunc(tokens, func(a, b string) int { return int(v[a]) - int(v[b]) })
	var out bytes.Buffer
	out.WriteByte('{')
	for i, t := range tokens {
		if i > 0 {
			out.WriteByte(',')
		}
		key, err := marshal(t)
		if err != nil {
			return nil, err
		}
		out.Write(key)
		fmt.Fprintf(&out, ":%d", v[t])
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

// mergeList is the list of merges, lowest rank first. It is read in both spellings,
// "a b" and ["a", "b"], and written in the second, which alone can hold a token with a
// space.
type mergeList [][2]string

// cutMerge splits "a b" at its only space.
func cutMerge(line string) (left, right string, ok bool) {
	b := []byte(line)
	i := bytes.IndexByte(b, ' ')
	if i <= 0 || i == len(line)-1 || bytes.IndexByte(b[i+1:], ' ') >= 0 {
		return "", "", false
	}
	return line[:i], line[i+1:], true
}

// marshal is json.Marshal without the escaping of <, > and &, which would make every
// special token of a written file unreadable.
func marshal(v any) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

func ptr[T any](v T) *T { return &v }
