package tokenizer

import (
	"fmt"
	"math"

	"github.com/coppice-lm/coppice/gguf"
)

// The files FilesFromGGUF makes.
const (
	tokenizerFile   = "tokenizer.json"
	configFile      = "tokenizer_config.json"
	specialMapFile  = "special_tokens_map.json"
	templateFile    = "chat_template.jinja"
	unlimitedLength = 1000000000000000019884624838656 // int(1e30), transformers' "no limit"
)

// FilesFromGGUF makes the Hugging Face tokenizer files of the vocabulary in a GGUF file:
// name to content, the same bytes for the same vocabulary. They are tokenizer.json,
// tokenizer_config.json (which holds the chat template) and special_tokens_map.json.
// Python's transformers loads them and gives the ids that llama.cpp gives for the GGUF.
//
// The models "gpt2" (byte-level BPE) and "llama" (SentencePiece) are known. Another
// model, an unknown tokenizer.ggml.pre, or keys that disagree are errors that name the
// key; ErrNoVocabulary where the file has no vocabulary at all.
func FilesFromGGUF(f *gguf.File) (map[string][]byte, error) {
	v, err := readGGUFVocab(f)
	if err != nil {
		return nil, err
	}
	return v.files()
}

// FromGGUF loads the tokenizer of a GGUF file: the one that Load makes of
// FilesFromGGUF's output, without the way through JSON.
func FromGGUF(f *gguf.File) (*Tokenizer, error) {
	v, err := readGGUFVocab(f)
	if err != nil {
		return nil, err
	}
	file, err := v.file()
	if err != nil {
		return nil, err
	}
	config, err := marshal(v.config())
	if err != nil {
		return nil, err
	}
	c, err := parseConfig(config)
	if err != nil {
		return nil, err
	}
	return compile(file, c)
}

// file is tokenizer.json.
func (v *ggufVocab) file() (*fileJSON, error) {
	switch v.model {
	case "gpt2":
		return v.byteLevelFile()
	case "llama":
		return v.sentencePieceFile()
	}
	return nil, fmt.Errorf(`unknown tokenizer model %q (tokenizer.ggml.model): known are "gpt2" and "llama"`, v.model)
}

func (v *ggufVocab) files() (map[string][]byte, error) {
	file, err := v.file()
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for name, content := range map[string]any{
		tokenizerFile:  file,
		configFile:     v.config(),
		specialMapFile: v.specialTokens(),
	} {
		b, err := marshal(content)
		if err != nil {
			return nil, err
		}
		files[name] = append(b, '\n')
	}
	return files, nil
}

// specialTokens are the roles that special_tokens_map.json and tokenizer_config.json
// share.
func (v *ggufVocab) specialTokens() map[string]any {
	roles := map[string]any{}
	for role, id := range map[string]int32{
		"bos_token": v.bos, "eos_token": v.eos, "unk_token": v.unk, "pad_token": v.pad,
	} {
		if id >= 0 {
			roles[role] = v.token(id)
		}
	}
	return roles
}

// config is tokenizer_config.json. It has the class that reads tokenizer.json as it is,
// and no add_bos_token: that key would make transformers replace the post-processor.
func (v *ggufVocab) config() map[string]any {
	c := v.specialTokens()
	c["tokenizer_class"] = "PreTrainedTokenizerFast"
	c["clean_up_tokenization_spaces"] = false
	// Before version 5 transformers added token_type_ids, which no decoder takes.
	c["model_input_names"] = []string{"input_ids", "attention_mask"}
	c["model_max_length"] = float64(unlimitedLength)
	if v.contextLength > 0 && v.contextLength < math.MaxInt32 {
		c["model_max_length"] = v.contextLength
	}
	switch {
	case len(v.namedTemplates) > 0:
		list := []map[string]string{}
		if v.chatTemplate != "" {
			list = append(list, map[string]string{"name": "default", "template": v.chatTemplate})
		}
		for _, t := range v.namedTemplates {
			list = append(list, map[string]string{"name": t[0], "template": t[1]})
		}
		c["chat_template"] = list
	case v.chatTemplate != "":
		c["chat_template"] = v.chatTemplate
	}
	return c
}
