package tokenizer

import (
	"fmt"
	"slices"
	"strings"
)

// The split patterns that models publish in their tokenizer.json, or in the tokenizer
// code that came with them. Each is a list of alternatives, tried from the left.
const (
	contractionsFold = `(?i:'s|'t|'re|'ve|'m|'ll|'d)`
	spaceTail        = `\s*[\r\n]+|\s+(?!\S)|\s+`
	capitals         = `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
	smalls           = `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
	wordStart        = `[^\r\n\p{L}\p{N}]?`

	// GPT-2: OpenAI's encoder.py.
	patternGPT2 = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	// Llama 3: Meta's llama-models, tokenizer.py. The same as OpenAI's cl100k_base.
	patternLlama3 = contractionsFold + `|` + wordStart + `\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|` + spaceTail
	// Qwen 2: as Llama 3, but each digit alone.
	patternQwen2 = contractionsFold + `|` + wordStart + `\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|` + spaceTail
	// Qwen 3.5: as Qwen 2, with combining marks among the letters.
	patternQwen35 = contractionsFold + `|` + wordStart + `[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|` + spaceTail
	// Tekken (Mistral NeMo): a word is capitals, then small letters.
	patternTekken = wordStart + capitals + `*` + smalls + `+|` + wordStart + capitals + `+` + smalls + `*` +
		`|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|` + spaceTail
	// OpenAI's o200k_base, which Llama 4 shares: Tekken with contractions behind words.
	patternGPT4o = wordStart + capitals + `*` + smalls + `+` + contractionsFold + `?|` +
		wordStart + capitals + `+` + smalls + `*` + contractionsFold + `?` +
		`|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|` + spaceTail
	// DeepSeek V3, after digits and the CJK scripts were cut out.
	patternDeepSeek3 = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+" +
		`|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|` + spaceTail
)

// ggufPre is how a pre-tokenizer of GGUF is written in tokenizer.json, before the
// ByteLevel step that each ends with.
type ggufPre struct {
	names        []string // the values of tokenizer.ggml.pre that mean it
	digits       bool     // each digit is a word
	patterns     []string // each splits what the one before left; none is GPT-2's
	nfc          bool     // normalizes to NFC first
	ignoreMerges bool     // a word of the vocabulary is one token, whatever the merges
	bos          bool     // adds BOS, unless the file says otherwise
}

// ggufPres lists what tokenizer.ggml.pre can say here. The names are those that
// llama.cpp's converter writes, each for one published tokenizer.
var ggufPres = []ggufPre{
	{names: []string{"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "exaone4"}},
	{names: []string{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}, digits: true},
	{names: []string{"llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"},
		patterns: []string{patternLlama3}, ignoreMerges: true, bos: true},
	{names: []string{"dbrx", "smaug-bpe", "glm4", "chatglm-bpe"}, patterns: []string{patternLlama3}},
	{names: []string{"qwen2"}, patterns: []string{patternQwen2}, nfc: true},
	{names: []string{"deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan"}, patterns: []string{patternQwen2}},
	{names: []string{"qwen35"}, patterns: []string{patternQwen35}, nfc: true},
	{names: []string{"tekken"}, patterns: []string{patternTekken}, ignoreMerges: true, bos: true},
	{names: []string{"gpt-4o", "llama4"}, patterns: []string{patternGPT4o}},
	{names: []string{"deepseek-v3", "hunyuan-dense"},
		patterns: []string{`\p{N}{1,3}`, `[一-龥぀-ゟ゠-ヿ]+`, patternDeepSeek3}},
}

// findGGUFPre looks a pre-tokenizer up by name. There is no fallback: the split decides
// the ids, and a wrong one gives a model that works a little worse without a word.
func findGGUFPre(name string) (ggufPre, error) {
	var known []string
	for _, p := range ggufPres {
		if slices.Contains(p.names, name) {
			return p, nil
		}
		known = append(known, p.names...)
	}
	slices.Sort(known)
	next := "use the model's tokenizer.json instead; known are " + strings.Join(known, ", ")
	if name == "" {
		return ggufPre{}, fmt.Errorf("the file does not name its pre-tokenizer (tokenizer.ggml.pre), "+
			"as files made before May 2024: convert it again, or %s", next)
	}
	return ggufPre{}, fmt.Errorf("unknown pre-tokenizer %q (tokenizer.ggml.pre): %s", name, next)
}

// preTokenizer is p as tokenizer.json has it.
func (p ggufPre) preTokenizer() *preTokenizerJSON {
	var steps []preTokenizerJSON
	if p.digits {
		steps = append(steps, preTokenizerJSON{Type: "Digits", IndividualDigits: ptr(true)})
	}
	for _, pattern := range p.patterns {
		steps = append(steps, preTokenizerJSON{Type: "Split",
			Pattern: &patternJSON{Regex: ptr(pattern)}, Behavior: "Isolated", Invert: ptr(false)})
	}
	steps = append(steps, preTokenizerJSON{Type: "ByteLevel",
		AddPrefixSpace: ptr(false), TrimOffsets: ptr(true), UseRegex: ptr(len(p.patterns) == 0)})
	if len(steps) == 1 {
		return &steps[0]
	}
	return &preTokenizerJSON{Type: "Sequence", PreTokenizers: steps}
}
