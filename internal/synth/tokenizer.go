package synth

import (
	"encoding/json"
	"os"
	"path/filepath"
)

// EndOfText is the one special token of Tokenizer, its BOS and EOS.
const EndOfText = "<|endoftext|>"

// VocabSize is the number of tokens of Tokenizer: 256 bytes and EndOfText, whose id is
// 256. A model that is used with it has at least this vocab_size.
const VocabSize = 257

// Tokenizer returns the tokenizer.json of a byte-level BPE without merges: the id of a
// token is the byte that it stands for, so that any text has as many tokens as bytes.
func Tokenizer() []byte {
	vocab := map[string]int{}
	spare := rune(256) // bytes that Latin-1 does not print are spelled with the runes from here on
	for b := range 256 {
		r := rune(b)
		if !(b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae) {
			r, spare = spare, spare+1
		}
		vocab[string(r)] = b
	}
	byteLevel := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	return encode(map[string]any{
		"version": "1.0", "truncation": nil, "padding": nil, "normalizer": nil, "post_processor": nil,
		"added_tokens": []any{map[string]any{
			"id": VocabSize - 1, "content": EndOfText, "special": true,
			"single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
		}},
		"pre_tokenizer": byteLevel, "decoder": byteLevel,
		"model": map[string]any{
			"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil, "end_of_word_suffix": nil,
			"fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": []string{},
		},
	})
}

// TokenizerConfig returns the tokenizer_config.json that belongs to Tokenizer.
func TokenizerConfig() []byte {
	return encode(map[string]any{
		"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": EndOfText, "eos_token": EndOfText,
	})
}

// WriteTokenizer puts Tokenizer and TokenizerConfig into the directory of a model.
func WriteTokenizer(dir string) error {
	for name, data := range map[string][]byte{"tokenizer.json": Tokenizer(), "tokenizer_config.json": TokenizerConfig()} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o666); err != nil {
			return err
		}
	}
	return nil
}

// encode writes JSON in the order of the keys, the same bytes every time.
func encode(v any) []byte {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err) // maps, lists and plain values always encode
	}
	return append(b, '\n')
}
