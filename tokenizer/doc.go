// Package tokenizer turns text into token ids and back, exactly as the model's own
// tokenizer does: an id that differs is a different input, and every log-likelihood
// after it is a number about another text.
//
// # What a tokenizer is
//
// The Hugging Face file tokenizer.json describes a pipeline, and Load compiles it:
//
//	text -> added tokens -> normalizer -> pre-tokenizer -> BPE -> post-processor -> ids
//
// Added tokens (such as <|im_end|>) are cut out of the text first and never split. The
// normalizer rewrites what is left (NFC, or a space to U+2581 for SentencePiece). The
// pre-tokenizer cuts it into words that no token may cross, by a regular expression.
// Byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) starts each word from
// its bytes or characters and joins the adjacent pair of the lowest rank until none is
// left. The post-processor adds what begins or ends a sequence, such as BOS.
//
// Two families cover the Llama-like models. Byte-level BPE (GPT-2, Llama 3, Qwen,
// SmolLM) spells each byte as a printable character, so every text can be encoded.
// SentencePiece-style BPE (Llama 2, Mistral, Gemma) works on characters and falls back
// to tokens such as <0xE2> for characters outside its vocabulary.
//
// # Where it comes from
//
// Load reads tokenizer.json, LoadFS a model directory. A GGUF file holds a vocabulary
// and the name of a pre-tokenizer instead: FilesFromGGUF makes the Hugging Face files
// of it, and FromGGUF loads them, so that a model gives the same ids before and after
// an import.
//
// What the compiler does not know (another model type, an unknown normalizer, merges
// that name missing tokens) is an error that names it. The reference for every rule is
// the Rust library behind Python's tokenizers package, version 0.23.
package tokenizer
