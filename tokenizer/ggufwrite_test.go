package tokenizer

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/gguf"
	"github.com/coppice-lm/coppice/internal/shared"
)

// written is the GGUF file of the keys that a source gives.
func written(t *testing.T, src GGUFSource) *gguf.File {
	t.Helper()
	_, keys, _, err := GGUFKeys(src)
	if err != nil {
		t.Fatal(err)
	}
	l, err := gguf.NewLayout(keys, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Read(bytes.NewReader(l.Parts[0].Header), int64(len(l.Parts[0].Header)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// source is what a GGUF file's tokenizer is as files.
func source(t *testing.T, keys []kv) GGUFSource {
	t.Helper()
	files, err := FilesFromGGUF(ggufFile(t, keys...))
	if err != nil {
		t.Fatal(err)
	}
	return GGUFSource{Tokenizer: files[tokenizerFile], Config: files[configFile], Vocab: 20, BOS: -1, EOS: -1, PAD: -1}
}

// A tokenizer that goes into a GGUF file comes back with its ids, for every pre-tokenizer
// and for both ways to put a space in front.
func TestGGUFKeysComeBack(t *testing.T) {
	cases := [][]kv{sentencePieceKeys(), with(sentencePieceKeys(), ggml+"add_space_prefix", false),
		with(sentencePieceKeys(), ggml+"add_bos_token", false), with(sentencePieceKeys(), ggml+"add_eos_token", true)}
	for _, p := range ggufPres {
		cases = append(cases, with(with(byteLevelKeys(), ggml+"pre", p.names[0]), ggml+"bos_token_id", uint32(9)))
	}
	for _, keys := range cases {
		was := fromGGUF(t, keys)
		f := written(t, source(t, keys))
		is, err := FromGGUF(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"12 ab'A<tool>", "a  b é", "<s>ab</s>", ""} {
			if got, want := is.Encode(text, true), was.Encode(text, true); !slices.Equal(got, want) {
				t.Errorf("%v: %q gives %v, want %v", keys[1:3], text, got, want)
			}
		}
		if is.BOS() != was.BOS() || is.EOS() != was.EOS() || is.ChatTemplate() != was.ChatTemplate() {
			t.Errorf("%v: BOS %d, EOS %d, template %q", keys[1:3], is.BOS(), is.EOS(), is.ChatTemplate())
		}
		if types, err := f.Ints(ggml + "token_type"); err != nil || len(types) != 20 || types[19] != typeUnused {
			t.Errorf("types %v, %v", types, err)
		}
		if pre, err := f.String(ggml + "pre"); err != nil {
			t.Error(err)
		} else if _, err := findGGUFPre(pre); err != nil && pre != "default" {
			t.Error(err)
		}
	}
}

func TestGGUFKeysRefuse(t *testing.T) {
	level, piece := byteLevelKeys(), sentencePieceKeys()
	for _, c := range []struct {
		name     string
		keys     []kv
		old, new string // of tokenizer.json
		want     string
	}{
		{"unknown split", with(level, ggml+"pre", "llama-bpe"), `{1,3}`, `{1,4}`, "no pre-tokenizer of llama.cpp is known to split text by"},
		{"unknown step", level, `"type":"Digits"`, `"type":"WhitespaceSplit"`, "step 1, WhitespaceSplit"},
		{"ignore_merges", level, `"ignore_merges":false`, `"ignore_merges":true`, "ignore_merges true"},
		{"no split", with(level, ggml+"pre", "gpt-2"), `"add_prefix_space":false,"trim_offsets":true,"use_regex":true`, `"add_prefix_space":false,"trim_offsets":true,"use_regex":false`, "does not split text"},
		{"space in front", with(level, ggml+"pre", "gpt-2"), `"add_prefix_space":false`, `"add_prefix_space":true`, "add_prefix_space"},
		{"normalizer", level, `"normalizer":null`, `"normalizer":{"type":"Lowercase"}`, "Lowercase"},
		{"affixes", piece, `"ids":[1]`, `"ids":[2]`, "begins every text with the ids [2]"},
		{"merges of no scores", piece, `["a","b"],`, ``, "scores"},
		{"spaces stay", piece, `"pattern":{"String":" "},"content":"▁"}`, `"pattern":{"String":"x"},"content":"▁"}`, "normalizer"},
	} {
		src := source(t, c.keys)
		changed := strings.Replace(string(src.Tokenizer), c.old, c.new, 1)
		if changed == string(src.Tokenizer) {
			t.Errorf("%s: %s is not in %s", c.name, c.old, changed)
			continue
		}
		src.Tokenizer = []byte(changed)
		if _, _, _, err := GGUFKeys(src); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
	src := source(t, level)
	src.Vocab = 12
	if _, _, _, err := GGUFKeys(src); err == nil || !strings.Contains(err.Error(), "up to id 12, and the embedding has 12 rows") {
		t.Errorf("too few rows: %v", err)
	}
	src.Vocab, src.Tokenizer = 20, []byte("{")
	if _, _, _, err := GGUFKeys(src); err == nil || !strings.Contains(err.Error(), tokenizerFile) {
		t.Errorf("no JSON: %v", err)
	}
}

// Tokens that take white space along are told of.
func TestGGUFKeysNotes(t *testing.T) {
	src := source(t, byteLevelKeys())
	src.Tokenizer = bytes.Replace(src.Tokenizer, []byte(`"rstrip":false`), []byte(`"rstrip":true`), 1)
	_, _, notes, err := GGUFKeys(src)
	if err != nil || len(notes) != 1 || !strings.Contains(notes[0], "<|end|>") {
		t.Errorf("%q, %v", notes, err)
	}
}

// The vocabularies of GPT-2 and Llama 2 come back with their ids, Llama 2's with scores
// that are made of its merges.
func TestGGUFKeysPublished(t *testing.T) {
	dir := shared.Dir(t)
	for _, name := range []string{"gpt-2", "llama-spm"} {
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(filepath.Join(dir, "data/tokenizers/gguf/ggml-vocab-"+name+".gguf"))
			if err != nil {
				t.Fatal(err)
			}
			f, err := gguf.Read(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			was, err := FromGGUF(f)
			if err != nil {
				t.Fatal(err)
			}
			files, err := FilesFromGGUF(f)
			if err != nil {
				t.Fatal(err)
			}
			is, err := FromGGUF(written(t, GGUFSource{Tokenizer: files[tokenizerFile], Config: files[configFile], Vocab: was.VocabSize(), BOS: -1, EOS: -1, PAD: -1}))
			if err != nil {
				t.Fatal(err)
			}
			if is.Fingerprint() != was.Fingerprint() {
				t.Errorf("the fingerprint changed")
			}
			for _, text := range []string{"Hello, World! 12345 it's", "  two  spaces\n\n\ttab", "\u00e9 \u4f60\u597d \U0001f642 \u200b", "def f(x):\n    return x**2\n"} {
				if got, want := is.Encode(text, true), was.Encode(text, true); !slices.Equal(got, want) {
					t.Errorf("%q: %v, want %v", text, got, want)
				}
			}
		})
	}
}
