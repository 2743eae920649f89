package tokenizer

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// tiny is a tokenizer.json of 20 tokens; the arguments replace parts of it.
func tiny(replace ...string) []byte {
	const file = `{
  "added_tokens": [{"id": 18, "content": "<s>", "special": true}, {"id": 19, "content": "</s>", "special": true}],
  "normalizer": null,
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
  "post_processor": null,
  "decoder": {"type": "ByteLevel"},
  "model": {"type": "BPE", "unk_token": null, "vocab": {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4, "Ġ": 5, "ab": 6,
    "cd": 7, "abcd": 8, "Ġa": 9, "de": 10, "bc": 11, "acdc": 12, "Ã": 13, "©": 14, "Ã©": 15, "1": 16, "2": 17},
    "merges": ["a b", "c d", "ab cd", "Ġ a", "d e", "b c", "Ã ©"]}
}`
	return []byte(strings.NewReplacer(replace...).Replace(file))
}

const tinyMerges = `["a b", "c d", "ab cd", "Ġ a", "d e", "b c", "Ã ©"]`

func mustLoad(t testing.TB, file []byte, config string) *Tokenizer {
	t.Helper()
	tok, err := Load(file, []byte(config))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// TestMergeSpellings is row tokenizer/merges of REPORTS.md: merges written as pairs were
// skipped by other programs, and text fell to bytes.
func TestMergeSpellings(t *testing.T) {
	lines := mustLoad(t, tiny(), "")
	pairs := mustLoad(t, tiny(tinyMerges,
		`[["a", "b"], ["c", "d"], ["ab", "cd"], ["Ġ", "a"], ["d", "e"], ["b", "c"], ["Ã", "©"]]`), "")
	for text, want := range map[string][]int32{
		"abcd":   {8},
		"abc":    {6, 2},
		" abcde": {5, 8, 4}, // "a b" comes before "Ġ a"
		"é":      {15},
		"acdc":   {0, 7, 2}, // a word of the vocabulary without a way of merges
	} {
		for name, tok := range map[string]*Tokenizer{"lines": lines, "pairs": pairs} {
			if got := tok.Encode(text, false); !slices.Equal(got, want) {
				t.Errorf("%s: %q gives %v, want %v", name, text, got, want)
			}
		}
	}
	if lines.Fingerprint() != pairs.Fingerprint() {
		t.Error("the spelling of the merges changes the fingerprint")
	}
}

func TestIgnoreMerges(t *testing.T) {
	tok := mustLoad(t, tiny(`"unk_token": null`, `"ignore_merges": true`), "")
	for text, want := range map[string][]int32{"acdc": {12}, "abc": {6, 2}, "acdca": {0, 7, 2, 0}} {
		if got := tok.Encode(text, false); !slices.Equal(got, want) {
			t.Errorf("%q gives %v, want %v", text, got, want)
		}
	}
}

func TestLoadErrors(t *testing.T) {
	for _, c := range []struct {
		name string
		file []byte
		want string // in the error
	}{
		{"empty", nil, "tokenizer.json"},
		{"not JSON", []byte("{"), "tokenizer.json"},
		{"no vocabulary", []byte(`{"model": {"type": "BPE"}}`), "vocabulary is empty"},
		{"another model", tiny(`"type": "BPE"`, `"type": "Unigram"`), `"Unigram"`},
		{"merge of a missing token", tiny(`"c d"`, `"c x"`), `"x" is not in the vocabulary`},
		{"merge to a missing token", tiny(`"c d"`, `"c c"`), `"cc" is not in the vocabulary`},
		{"merge of one", tiny(`"c d"`, `"cd"`), `merge 1 is "cd"`},
		{"merge of three", tiny(tinyMerges, `[["a", "b", "c"]]`), "merge 0 has 3 tokens"},
		{"merges of another type", tiny(tinyMerges, `{"a": "b"}`), "merges are not a list"},
		{"two tokens of one id", tiny(`"b": 1`, `"b": 0`), `"a" and "b" have the same id 0`},
		{"token twice", tiny(`"b": 1`, `"b": 1, "b": 2`), `"b" stands twice`},
		{"id that is no number", tiny(`"b": 1`, `"b": "1"`), `"b"`},
		{"fraction", tiny(`"b": 1`, `"b": 1.5`), `"b"`},
		{"vocabulary as a list", []byte(`{"model": {"type": "BPE", "vocab": [1]}}`), "not an object"},
		{"merge of numbers", tiny(tinyMerges, `[[1, 2]]`), "merge 0"},
		{"merge that is a number", tiny(tinyMerges, `[1]`), "merge 0"},
		{"negative id", tiny(`"b": 1`, `"b": -1`), `"b"`},
		{"huge id", tiny(`"b": 1`, `"b": 2000000000`), "2000000000"},
		{"id beyond 32 bits", tiny(`"b": 1`, `"b": 4294967296`), "tokenizer.json"},
		{"added token of another id", tiny(`"content": "<s>"`, `"content": "a"`), `"a" has the id 18, and 0`},
		{"added tokens of one id", tiny(`"id": 19`, `"id": 18`), `"</s>" has the id 18, as token "<s>"`},
		{"unk_token missing", tiny(`"unk_token": null`, `"unk_token": "<unk>"`), `"<unk>"`},
		{"dropout", tiny(`"unk_token": null`, `"dropout": 0.1`), "dropout"},
		{"prefix", tiny(`"unk_token": null`, `"continuing_subword_prefix": "##"`), `"##"`},
		{"suffix", tiny(`"unk_token": null`, `"end_of_word_suffix": "</w>"`), `"</w>"`},
		{"normalizer", tiny(`"normalizer": null`, `"normalizer": {"type": "Precompiled"}`), `"Precompiled"`},
		{"pre-tokenizer", tiny(`"type": "ByteLevel", "add`, `"type": "Bert", "add`), `"Bert"`},
		{"decoder", tiny(`"decoder": {"type": "ByteLevel"}`, `"decoder": {"type": "CTC"}`), `"CTC"`},
		{"post-processor", tiny(`"post_processor": null`, `"post_processor": {"type": "Other"}`), `"Other"`},
		{"template without text", tiny(`"post_processor": null`, `"post_processor": {"type": "TemplateProcessing", "single": []}`), "0 sequences"},
		{"template of a missing token", tiny(`"post_processor": null`,
			`"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<x>"}}]}`), `"<x>"`},
		{"post-processor of a missing id", tiny(`"post_processor": null`,
			`"post_processor": {"type": "RobertaProcessing", "cls": ["<s>", 99], "sep": ["</s>", 19]}`), "99"},
		{"bad pattern", tiny(`"pre_tokenizer": {"type": "ByteLevel", `,
			`"pre_tokenizer": {"type": "Split", "behavior": "Isolated", "pattern": {"Regex": "("}, `), `"("`},
		{"ByteLevel not last", tiny(`"pre_tokenizer": {"type": "ByteLevel", `,
			`"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}, {"type": "Digits"}], `), "behind ByteLevel"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Load(c.file, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
	if _, err := Load(tiny(), []byte(`{"bos_token": 3}`)); err == nil || !strings.Contains(err.Error(), configFile) {
		t.Errorf("error %v for a bad configuration", err)
	}
	if _, err := LoadFS(fstest.MapFS{}); err == nil || !strings.Contains(err.Error(), tokenizerFile) {
		t.Errorf("error %v for an empty directory", err)
	}
}

func TestConfig(t *testing.T) {
	const roles = `{"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null`
	plain := mustLoad(t, tiny(), roles+`}`)
	if plain.BOS() != 18 || plain.EOS() != 19 || plain.PAD() != -1 {
		t.Errorf("BOS %d, EOS %d, PAD %d, want 18, 19, -1", plain.BOS(), plain.EOS(), plain.PAD())
	}
	if got := plain.Encode("a", true); !slices.Equal(got, []int32{0}) {
		t.Errorf("%v without a post-processor, want [0]", got)
	}
	both := mustLoad(t, tiny(), roles+`, "add_bos_token": true, "add_eos_token": true}`)
	if got := both.Encode("a<s>", true); !slices.Equal(got, []int32{18, 0, 18, 19}) {
		t.Errorf("%v with BOS and EOS, want [18 0 18 19]", got)
	}
	if plain.Fingerprint() == both.Fingerprint() {
		t.Error("add_bos_token does not change the fingerprint")
	}
	if plain.VocabSize() != 20 {
		t.Errorf("VocabSize is %d, want 20", plain.VocabSize())
	}
	if id, ok := plain.ID("</s>"); !ok || id != 19 {
		t.Errorf("ID of </s> is %d, %v", id, ok)
	}
	if _, ok := plain.ID("x"); ok {
		t.Error("a token that is not there has an id")
	}
	for id, want := range map[int32]string{8: "abcd", 18: "<s>", -1: "", 20: ""} {
		if got, ok := plain.Token(id); got != want || ok != (want != "") {
			t.Errorf("Token(%d) is %q, %v", id, got, ok)
		}
	}
}

func TestLoadFS(t *testing.T) {
	dir := fstest.MapFS{
		tokenizerFile: {Data: tiny()},
		configFile:    {Data: []byte(`{"bos_token": "<s>", "chat_template": "from the configuration"}`)},
	}
	tok, err := LoadFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	if tok.BOS() != 18 || tok.ChatTemplate() != "from the configuration" {
		t.Errorf("BOS %d, template %q", tok.BOS(), tok.ChatTemplate())
	}
	dir[templateFile] = &fstest.MapFile{Data: []byte("from the file")}
	if tok, err = LoadFS(dir); err != nil || tok.ChatTemplate() != "from the file" {
		t.Errorf("template %q, error %v", tok.ChatTemplate(), err)
	}
}
