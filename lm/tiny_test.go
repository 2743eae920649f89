package lm

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/coppice-lm/coppice/engine/cpu"
	"github.com/coppice-lm/coppice/engine/enginetest"
	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/tokenizer"
)

// The special tokens of the tiny tokenizer, after the 256 bytes.
const (
	tinyEnd = 256
	tinyBOS = 257
)

// tinyTokenizer has a token for each byte and no merges.
func tinyTokenizer(t *testing.T) *tokenizer.Tokenizer {
	t.Helper()
	tok, err := tokenizer.Load(tinyTokenizerFiles(t))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// tinyTokenizerFiles are its tokenizer.json and tokenizer_config.json.
func tinyTokenizerFiles(t *testing.T) (file, config []byte) {
	t.Helper()
	vocab := map[string]int{}
	next := rune(256)
	for b := range 256 {
		r := rune(b)
		if b < '!' || b > '~' && b < 0xa1 || b == 0xad { // the bytes that GPT-2's alphabet spells otherwise
			r = next
			next++
		}
		vocab[string(r)] = b
	}
	added := func(id int, text string) map[string]any {
		return map[string]any{"id": id, "content": text, "special": true, "single_word": false,
			"lstrip": false, "rstrip": false, "normalized": false}
	}
	file, err := json.Marshal(map[string]any{
		"version":       "1.0",
		"added_tokens":  []any{added(tinyEnd, "<end>"), added(tinyBOS, "<s>")},
		"pre_tokenizer": map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
		"decoder":       map[string]any{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
		"model":         map[string]any{"type": "BPE", "vocab": vocab, "merges": []string{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return file, []byte(`{"eos_token": "<end>", "bos_token": "<s>", "chat_template":
		"{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}<end>{% endfor %}{% if add_generation_prompt %}<s>assistant: {% endif %}"}`)
}

// tinyModel is a random Llama over the tiny tokenizer. change, if not nil, edits its
// weights.
func tinyModel(t *testing.T, keys map[string]any, change func(*enginetest.Model)) *Model {
	t.Helper()
	all := map[string]any{"vocab_size": 258}
	for k, v := range keys {
		all[k] = v
	}
	m, err := enginetest.NewModel(enginetest.With(enginetest.TinyLlama, all))
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(m)
	}
	e, err := cpu.New(context.Background(), m.Transformer, m, cpu.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	return New(e, tinyTokenizer(t), eval.ModelInfo{Name: "tiny", DType: "f32"}, nil)
}
