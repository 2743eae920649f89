package tokenizer

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/gguf"
)

// kv is one key of a GGUF file.
type kv struct {
	key   string
	value any // string, bool, uint32, []string, []int32, []float32
}

// ggufFile makes a GGUF file of version 3 without tensors and reads it.
func ggufFile(t testing.TB, keys ...kv) *gguf.File {
	t.Helper()
	var b bytes.Buffer
	put := func(v any) {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	text := func(s string) { put(uint64(len(s))); b.WriteString(s) }
	array := func(kind gguf.Type, n int) { put(gguf.Array); put(kind); put(uint64(n)) }
	b.WriteString("GGUF")
	put(uint32(3))
	put(uint64(0))
	put(uint64(len(keys)))
	for _, k := range keys {
		text(k.key)
		switch v := k.value.(type) {
		case string:
			put(gguf.String)
			text(v)
		case bool:
			put(gguf.Bool)
			put(v)
		case uint32:
			put(gguf.Uint32)
			put(v)
		case []string:
			array(gguf.String, len(v))
			for _, s := range v {
				text(s)
			}
		case []int32:
			array(gguf.Int32, len(v))
			put(v)
		case []float32:
			array(gguf.Float32, len(v))
			put(v)
		default:
			t.Fatalf("%T", v)
		}
	}
	f, err := gguf.Read(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// with replaces or adds a key.
func with(keys []kv, key string, value any) []kv {
	keys = slices.Clone(keys)
	for i := range keys {
		if keys[i].key == key {
			keys[i].value = value
			return keys
		}
	}
	return append(keys, kv{key, value})
}

// without leaves a key out.
func without(keys []kv, key string) []kv {
	return slices.DeleteFunc(slices.Clone(keys), func(k kv) bool { return k.key == key })
}

const ggml = "tokenizer.ggml."

func byteLevelKeys() []kv {
	return []kv{
		{"general.architecture", "llama"},
		{"llama.context_length", uint32(2048)},
		{ggml + "model", "gpt2"},
		{ggml + "pre", "smollm"},
		{ggml + "tokens", []string{"<|end|>", "1", "2", "12", "a", "b", "Ġ", "Ġa", "ab", "<tool>", "'", "A", "'A"}},
		{ggml + "token_type", []int32{3, 1, 1, 1, 1, 1, 1, 1, 1, 4, 1, 1, 1}},
		{ggml + "merges", []string{"1 2", "Ġ a", "a b", "' A"}},
		{ggml + "eos_token_id", uint32(0)},
		{"tokenizer.chat_template", "{{ messages[0].content }}<end>"},
	}
}

func sentencePieceKeys() []kv {
	return []kv{
		{ggml + "model", "llama"},
		{ggml + "tokens", []string{"<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁", "a", "b", "▁a", "ab", "▁ab", "▁▁", "unused"}},
		{ggml + "scores", []float32{0, 0, 0, 0, 0, -9, -10, -11, -3, -2, -1, -4, 0}},
		{ggml + "token_type", []int32{2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1, 1, 5}},
		{ggml + "bos_token_id", uint32(1)},
		{ggml + "eos_token_id", uint32(2)},
		{ggml + "unknown_token_id", uint32(0)},
	}
}

func fromGGUF(t testing.TB, keys []kv) *Tokenizer {
	t.Helper()
	tok, err := FromGGUF(ggufFile(t, keys...))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// TestGGUFPre has one text whose ids depend on the pre-tokenizer's name alone.
func TestGGUFPre(t *testing.T) {
	const text = "12 ab'A<tool>"
	for pre, want := range map[string][]int32{
		"smollm":    {1, 2, 7, 5, 10, 11, 9}, // each digit alone
		"gpt-2":     {3, 7, 5, 10, 11, 9},
		"llama-bpe": {3, 7, 5, 12, 9}, // 'A is one word
		"qwen2":     {1, 2, 7, 5, 12, 9},
	} {
		tok := fromGGUF(t, with(byteLevelKeys(), ggml+"pre", pre))
		if got := tok.Encode(text, true); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", pre, got, want)
		}
		if got := tok.Decode(want, false); got != text {
			t.Errorf("%s: decodes to %q", pre, got)
		}
	}
	for _, p := range ggufPres {
		for _, name := range p.names {
			tok := fromGGUF(t, with(byteLevelKeys(), ggml+"pre", name))
			if got := tok.Decode(tok.Encode(text, false), false); got != text {
				t.Errorf("%s: %q comes back as %q", name, text, got)
			}
		}
	}
}

func TestGGUFSpecialTokens(t *testing.T) {
	tok := fromGGUF(t, byteLevelKeys())
	if tok.EOS() != 0 || tok.BOS() != -1 {
		t.Errorf("EOS %d, BOS %d, want 0, -1", tok.EOS(), tok.BOS())
	}
	if got := tok.Decode(tok.Encode("<tool>a<|end|>", false), true); got != "<tool>a" {
		t.Errorf("without special tokens: %q, want <tool>a", got)
	}
	for _, c := range []struct {
		name string
		keys []kv
		want []int32
	}{
		{"SentencePiece adds BOS", sentencePieceKeys(), []int32{1, 8}},
		{"unless told", with(sentencePieceKeys(), ggml+"add_bos_token", false), []int32{8}},
		{"EOS if told", with(sentencePieceKeys(), ggml+"add_eos_token", true), []int32{1, 8, 2}},
		{"no space in front", with(sentencePieceKeys(), ggml+"add_space_prefix", false), []int32{1, 6}},
		{"GPT-2 adds nothing", with(byteLevelKeys(), ggml+"bos_token_id", uint32(0)), []int32{4}},
		{"Llama 3 adds BOS", with(with(byteLevelKeys(), ggml+"bos_token_id", uint32(0)), ggml+"pre", "llama-bpe"), []int32{0, 4}},
	} {
		if got := fromGGUF(t, c.keys).Encode("a", true); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestSentencePiece follows merges by score, byte fallback and the space in front.
func TestSentencePiece(t *testing.T) {
	tok := fromGGUF(t, sentencePieceKeys())
	for text, want := range map[string][]int32{
		"ab":        {10},
		" ab":       {5, 10}, // ab (-2), then ▁ab (-1), and never ▁▁ (-4)
		"aab":       {8, 9},  // ab (-2) comes before ▁a (-3)
		"a  b":      {8, 11, 7},
		"é":         {5, 3, 4},
		"x":         {5, 0},
		"</s>a":     {2, 8},
		"":          {},
		"b unused ": {5, 7, 5, 0, 5}, // text never becomes an unused token
	} {
		got := tok.Encode(text, false)
		if !slices.Equal(got, want) {
			t.Errorf("%q gives %v, want %v", text, got, want)
		}
		if lossy := slices.Contains(got, 0) || text == "</s>a"; lossy {
			continue
		}
		if s := tok.Decode(got, false); s != text {
			t.Errorf("%q decodes to %q", text, s)
		}
	}
}

// TestGGUFTwoWays compares FromGGUF with the way through the files.
func TestGGUFTwoWays(t *testing.T) {
	for _, keys := range [][]kv{byteLevelKeys(), sentencePieceKeys()} {
		files, err := FilesFromGGUF(ggufFile(t, keys...))
		if err != nil {
			t.Fatal(err)
		}
		loaded := mustLoad(t, files[tokenizerFile], string(files[configFile]))
		direct := fromGGUF(t, keys)
		if loaded.Fingerprint() != direct.Fingerprint() {
			t.Errorf("%v: the fingerprints differ", keys[0])
		}
		for _, text := range []string{"<s>a  ab12'A", "é<tool>"} {
			ids := direct.Encode(text, true)
			if got := loaded.Encode(text, true); !slices.Equal(got, ids) {
				t.Errorf("%q: %v from the files, %v directly", text, got, ids)
			}
			if got := loaded.Decode(ids, false); got != direct.Decode(ids, false) {
				t.Errorf("%v decodes to %q from the files", ids, got)
			}
		}
	}
}

// TestGGUFFiles checks what the Hugging Face files say beside the ids.
func TestGGUFFiles(t *testing.T) {
	files, err := FilesFromGGUF(ggufFile(t, with(byteLevelKeys(), ggml+"padding_token_id", uint32(9))...))
	if err != nil {
		t.Fatal(err)
	}
	again, err := FilesFromGGUF(ggufFile(t, with(byteLevelKeys(), ggml+"padding_token_id", uint32(9))...))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 3 {
		t.Errorf("%d files, want 3", len(files))
	}
	for name, b := range files {
		if !bytes.Equal(b, again[name]) {
			t.Errorf("%s is not the same twice", name)
		}
	}
	var config map[string]any
	if err := json.Unmarshal(files[configFile], &config); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"eos_token": "<|end|>", "pad_token": "<tool>", "bos_token": nil, "model_max_length": 2048.0,
		"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ messages[0].content }}<end>",
	} {
		if config[key] != want {
			t.Errorf("%s is %v, want %v", key, config[key], want)
		}
	}
	if names := fmt.Sprint(config["model_input_names"]); names != "[input_ids attention_mask]" {
		t.Errorf("model_input_names is %s", names)
	}
	if !bytes.Contains(files[tokenizerFile], []byte(`"<|end|>":0,"1":1,"2":2`)) {
		t.Error("the vocabulary is not in the order of the ids, or its tokens are escaped")
	}
}

func TestGGUFChatTemplates(t *testing.T) {
	keys := with(byteLevelKeys(), "tokenizer.chat_templates", []string{"tool_use"})
	keys = with(keys, "tokenizer.chat_template.tool_use", "tools!")
	files, err := FilesFromGGUF(ggufFile(t, keys...))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(files[configFile], []byte(`{"name":"tool_use","template":"tools!"}`)) {
		t.Errorf("the named template is lost: %s", files[configFile])
	}
	if got := fromGGUF(t, keys).ChatTemplate(); got != "{{ messages[0].content }}<end>" {
		t.Errorf("the default template is %q", got)
	}
}

func TestGGUFErrors(t *testing.T) {
	level, piece := byteLevelKeys(), sentencePieceKeys()
	for _, c := range []struct {
		name string
		keys []kv
		want string // in the error
	}{
		{"unknown pre", with(level, ggml+"pre", "nosuch"), `"nosuch"`},
		{"no pre", without(level, ggml+"pre"), "does not name its pre-tokenizer"},
		{"pre of another type", with(level, ggml+"pre", true), "tokenizer.ggml.pre"},
		{"unknown model", with(level, ggml+"model", "t5"), `"t5"`},
		{"no model", without(level, ggml+"model"), "tokenizer.ggml.model"},
		{"no merges", without(level, ggml+"merges"), "tokenizer.ggml.merges"},
		{"bad merge", with(level, ggml+"merges", []string{"1 2", "ab"}), `merge 1 is "ab"`},
		{"merge of a missing token", with(level, ggml+"merges", []string{"1 x"}), `"x"`},
		{"too few types", with(level, ggml+"token_type", []int32{1}), "tokenizer.ggml.token_type"},
		{"same token twice", with(level, ggml+"tokens", []string{"a", "b", "a"}), "13 elements for 3"},
		{"same token twice, no types", without(with(level, ggml+"tokens", []string{"a", "b", "a"}), ggml+"token_type"), `"a" of the vocabulary has two ids, 0 and 2`},
		{"empty token", without(with(level, ggml+"tokens", []string{"a", ""}), ggml+"token_type"), "token 1 of the vocabulary is empty"},
		{"token that is not UTF-8", without(with(level, ggml+"tokens", []string{"a", "\xff"}), ggml+"token_type"), "not UTF-8"},
		{"id outside", with(level, ggml+"eos_token_id", uint32(13)), "tokenizer.ggml.eos_token_id"},
		{"BOS wanted and missing", with(level, ggml+"add_bos_token", true), "tokenizer.ggml.bos_token_id"},
		{"EOS wanted and missing", with(without(level, ggml+"eos_token_id"), ggml+"add_eos_token", true), "tokenizer.ggml.eos_token_id"},
		{"no scores", without(piece, ggml+"scores"), "tokenizer.ggml.scores"},
		{"too few scores", with(piece, ggml+"scores", []float32{1}), "tokenizer.ggml.scores"},
		{"extra spaces", with(piece, ggml+"remove_extra_whitespaces", true), "remove_extra_whitespaces"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := FromGGUF(ggufFile(t, c.keys...))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
	if _, err := FilesFromGGUF(ggufFile(t)); !errors.Is(err, ErrNoVocabulary) {
		t.Errorf("error %v for a file without vocabulary", err)
	}
}
