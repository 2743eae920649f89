package tokenizer

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/gguf"
)

// GGUFSource is a tokenizer as a Hugging Face directory holds it.
type GGUFSource struct {
	Tokenizer, Config []byte // tokenizer.json; tokenizer_config.json, may be empty
	Template          string // chat_template.jinja, which goes before that of the configuration
	Vocab             int    // rows of the embedding, for each of which a GGUF needs a token

	// BOS, EOS and PAD are the ids that the model's config names, -1 for none; those of
	// the tokenizer's configuration go before them.
	BOS, EOS, PAD int
}

// GGUFKeys are the metadata of a GGUF file for a tokenizer, and the tokenizer itself, whose
// chat template is the one in the metadata: FilesFromGGUF makes a tokenizer of the same ids
// of them, and llama.cpp reads them. Notes say what a GGUF cannot say and text does not show
// in general.
//
// A tokenizer that a GGUF cannot hold is an error that names the component: a split
// pattern, a normalizer or a post-processor that no pre-tokenizer of llama.cpp stands for,
// merges that no scores give, more tokens than the embedding has rows.
func GGUFKeys(src GGUFSource) (t *Tokenizer, keys []gguf.KeyValue, notes []string, err error) {
	t, file, err := load(src.Tokenizer, src.Config)
	if err != nil {
		return nil, nil, nil, err
	}
	if src.Template != "" {
		t.setTemplate(src.Template)
	}
	w := &ggufWriter{file: file, t: t}
	if err := w.write(src); err != nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", tokenizerFile, err)
	}
	return t, w.keys, w.notes, nil
}

// ggufWriter collects the keys of a vocabulary.
type ggufWriter struct {
	file  *fileJSON
	t     *Tokenizer
	keys  []gguf.KeyValue
	notes []string
}

func (w *ggufWriter) add(key string, v gguf.Value) {
	w.keys = append(w.keys, gguf.KeyValue{Key: key, Value: v})
}

const ggmlPrefix = "tokenizer.ggml."

func (w *ggufWriter) write(src GGUFSource) error {
	if n := w.t.VocabSize(); n > src.Vocab {
		return fmt.Errorf("there are tokens up to id %d, and the embedding has %d rows; files that do not belong together?", n-1, src.Vocab)
	}
	if m := &w.file.Model; notEmpty(m.ContinuingSubwordPrefix) || notEmpty(m.EndOfWordSuffix) {
		return fmt.Errorf("the model has a continuing_subword_prefix or an end_of_word_suffix, which GGUF cannot say")
	}
	addBOS, addEOS, err := w.affixes()
	if err != nil {
		return err
	}
	tokens, types := w.vocabulary(src.Vocab)
	_, _, byteLevel := preTokenizerSteps(w.file.PreTokenizer)
	if byteLevel {
		pre, err := matchGGUFPre(w.file)
		if err != nil {
			return err
		}
		w.add(ggmlPrefix+"model", gguf.StringValue("gpt2"))
		w.add(ggmlPrefix+"pre", gguf.StringValue(pre))
		w.add(ggmlPrefix+"tokens", gguf.StringsValue(tokens...))
		w.add(ggmlPrefix+"token_type", gguf.Int32sValue(types...))
		merges := make([]string, len(w.file.Model.Merges))
		for i, m := range w.file.Model.Merges {
			merges[i] = m[0] + " " + m[1]
			if _, _, ok := cutMerge(merges[i]); !ok {
				return fmt.Errorf("merge %d, of %q and %q, has a token with a space in it, which GGUF cannot say", i, m[0], m[1])
			}
		}
		w.add(ggmlPrefix+"merges", gguf.StringsValue(merges...))
	} else {
		prefix, err := w.spacePrefix()
		if err != nil {
			return err
		}
		scores, err := w.scores(tokens, types)
		if err != nil {
			return err
		}
		w.add(ggmlPrefix+"model", gguf.StringValue("llama"))
		w.add(ggmlPrefix+"pre", gguf.StringValue("default"))
		w.add(ggmlPrefix+"tokens", gguf.StringsValue(tokens...))
		w.add(ggmlPrefix+"scores", gguf.Float32sValue(scores...))
		w.add(ggmlPrefix+"token_type", gguf.Int32sValue(types...))
		w.add(ggmlPrefix+"add_space_prefix", gguf.BoolValue(prefix))
	}
	w.specialIDs(src)
	w.add(ggmlPrefix+"add_bos_token", gguf.BoolValue(addBOS))
	w.add(ggmlPrefix+"add_eos_token", gguf.BoolValue(addEOS))
	if template := w.t.ChatTemplate(); template != "" {
		w.add("tokenizer.chat_template", gguf.StringValue(template))
	}
	return nil
}

func notEmpty(s *string) bool { return s != nil && *s != "" }

// specialIDs adds the ids of the special tokens.
func (w *ggufWriter) specialIDs(src GGUFSource) {
	unk := none
	if m := w.file.Model.UnkToken; m != nil {
		if id, ok := w.t.ID(*m); ok {
			unk = id
		}
	} else if id, ok := w.t.ID(w.t.names["unk_token"]); ok {
		unk = id
	}
	for _, s := range []struct {
		key      string
		own      int32
		fallback int
	}{
		{"bos_token_id", w.t.bos, src.BOS}, {"eos_token_id", w.t.eos, src.EOS},
		{"unknown_token_id", unk, -1}, {"padding_token_id", w.t.pad, src.PAD},
	} {
		id := int(s.own)
		if id < 0 {
			id = s.fallback
		}
		if id >= 0 && id < src.Vocab {
			w.add(ggmlPrefix+s.key, gguf.Uint32Value(uint32(id)))
		}
	}
}

// affixes says whether BOS and EOS are added; anything else that is added is an error.
func (w *ggufWriter) affixes() (bos, eos bool, err error) {
	a := w.t.affixes
	switch {
	case len(a.before) == 0:
	case len(a.before) == 1 && a.before[0] == w.t.bos:
		bos = true
	default:
		return false, false, fmt.Errorf("the post-processor begins every text with the ids %v, and GGUF can only say BOS (%d)", a.before, w.t.bos)
	}
	switch {
	case len(a.behind) == 0:
	case len(a.behind) == 1 && a.behind[0] == w.t.eos:
		eos = true
	default:
		return false, false, fmt.Errorf("the post-processor ends every text with the ids %v, and GGUF can only say EOS (%d)", a.behind, w.t.eos)
	}
	return bos, eos, nil
}

var byteToken = regexp.MustCompile(`^<0x[0-9A-F]{2}>$`)

// vocabulary lists n tokens and their types. Ids without a token, as those of rows that
// only pad the embedding, become unused tokens.
func (w *ggufWriter) vocabulary(n int) (tokens []string, types []int32) {
	tokens, types = make([]string, n), make([]int32, n)
	copy(tokens, w.t.tokens)
	for id, t := range tokens {
		switch {
		case t == "":
			name := fmt.Sprintf("[PAD%d]", id)
			for { // a token of that name would make it ambiguous
				if _, taken := w.t.ID(name); !taken {
					break
				}
				name += "_"
			}
			tokens[id], types[id] = name, typeUnused
		case w.file.Model.ByteFallback && byteToken.MatchString(t):
			types[id] = typeByte
		default:
			types[id] = typeNormal
		}
	}
	var strips []string
	for _, a := range w.file.AddedTokens {
		if a.Content == "" {
			continue
		}
		types[a.ID] = typeUserDefined
		if a.Special {
			types[a.ID] = typeControl
		}
		if a.LStrip || a.RStrip || a.SingleWord {
			strips = append(strips, a.Content)
		}
	}
	if m := w.file.Model.UnkToken; m != nil && w.file.Model.ByteFallback {
		if id, ok := w.t.ID(*m); ok {
			types[id] = typeUnknown
		}
	}
	if len(strips) > 0 {
		w.notes = append(w.notes, fmt.Sprintf("the tokens %s take white space beside them along or stand for whole words only, which a GGUF cannot say", strings.Join(strips, " ")))
	}
	return tokens, types
}

// preTokenizerSteps lists the steps before ByteLevel, and ByteLevel itself if it is last.
func preTokenizerSteps(p *preTokenizerJSON) (before []preTokenizerJSON, last *preTokenizerJSON, byteLevel bool) {
	if p == nil {
		return nil, nil, false
	}
	list := []preTokenizerJSON{*p}
	if p.Type == "Sequence" {
		list = p.PreTokenizers
	}
	if n := len(list) - 1; n >= 0 && list[n].Type == "ByteLevel" {
		return list[:n], &list[n], true
	}
	return list, nil, false
}

// matchGGUFPre finds the value of tokenizer.ggml.pre that means what a byte-level
// tokenizer does to text before its merges. There is no nearest one: a wrong split gives a
// model that works a little worse without a word.
func matchGGUFPre(f *fileJSON) (string, error) {
	before, level, _ := preTokenizerSteps(f.PreTokenizer)
	if level.AddPrefixSpace == nil || *level.AddPrefixSpace {
		return "", fmt.Errorf("the pre-tokenizer ByteLevel puts a space in front (add_prefix_space), which GGUF cannot say")
	}
	got := ggufPre{ignoreMerges: f.Model.IgnoreMerges}
	for i, s := range before {
		inverted := s.Invert != nil && *s.Invert
		switch {
		case s.Type == "Digits" && s.IndividualDigits != nil && *s.IndividualDigits && i == 0:
			got.digits = true
		case s.Type == "Split" && s.Pattern != nil && s.Pattern.Regex != nil &&
			(s.Behavior == "Isolated" && !inverted || s.Behavior == "Removed" && inverted):
			got.patterns = append(got.patterns, *s.Pattern.Regex)
		default:
			return "", fmt.Errorf("the pre-tokenizer's step %d, %s, is none that a GGUF can name", i+1, describeStep(&s))
		}
	}
	if level.UseRegex == nil || *level.UseRegex {
		if len(got.patterns) > 0 {
			got.patterns = append(got.patterns, patternGPT2)
		}
	} else if len(got.patterns) == 0 {
		return "", fmt.Errorf("the pre-tokenizer does not split text into words, which a GGUF cannot say")
	}
	switch n := f.Normalizer; {
	case n == nil:
	case n.Type == "NFC", n.Type == "Sequence" && len(n.Normalizers) == 1 && n.Normalizers[0].Type == "NFC":
		got.nfc = true
	case n.Type == "Sequence" && len(n.Normalizers) == 0:
	default:
		return "", fmt.Errorf("the normalizer %q is none that a GGUF can say of byte-level BPE", n.Type)
	}
	var near []string
	for _, p := range ggufPres {
		if p.digits != got.digits || !slices.Equal(p.patterns, got.patterns) {
			continue
		}
		if p.nfc == got.nfc && p.ignoreMerges == got.ignoreMerges {
			return p.names[0], nil
		}
		near = append(near, fmt.Sprintf("%s (NFC %v, ignore_merges %v)", p.names[0], p.nfc, p.ignoreMerges))
	}
	if near != nil {
		return "", fmt.Errorf("the split is that of %s, but this tokenizer has NFC %v and ignore_merges %v, which no pre-tokenizer of llama.cpp stands for", strings.Join(near, ", "), got.nfc, got.ignoreMerges)
	}
	return "", fmt.Errorf("no pre-tokenizer of llama.cpp is known to split text by %q; a near one would give other ids", got.patterns)
}

// describeStep names a step for a message.
func describeStep(s *preTokenizerJSON) string {
	if s.Pattern != nil && s.Pattern.Regex != nil {
		return fmt.Sprintf("%s by %q (%s)", s.Type, *s.Pattern.Regex, s.Behavior)
	}
	return s.Type
}
