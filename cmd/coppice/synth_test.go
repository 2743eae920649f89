package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/gguf"
	"github.com/coppice-lm/coppice/internal/ggufwrite"
	"github.com/coppice-lm/coppice/internal/synth"
	"github.com/coppice-lm/coppice/tensor"
)

// synthConfig makes a config.json: a Llama of 3 layers, hidden size 64, width 96, with
// settings key=value on top. The value is JSON, the key one of config.json's or short
// for one.
func synthConfig(settings []string) (*arch.Config, error) {
	c, err := arch.ParseConfig(synth.Config(64, 96, 3, 4, 2, 128, true))
	if err != nil {
		return nil, err
	}
	for _, s := range settings {
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			return nil, fmt.Errorf("%q is not key=value", s)
		}
		switch key {
		case "dtype", "seed", "shard", "tokenizer":
			continue
		case "family":
			i := slices.IndexFunc(arch.Families, func(f arch.Family) bool { return f.ModelType == value })
			if i < 0 {
				return nil, fmt.Errorf("no family %q", value)
			}
			if err := c.Set("architectures", []string{arch.Families[i].Architecture}); err != nil {
				return nil, err
			}
			key, value = "model_type", strconv.Quote(value)
		}
		if long, ok := map[string]string{
			"hidden": "hidden_size", "width": "intermediate_size", "layers": "num_hidden_layers",
			"heads": "num_attention_heads", "kv": "num_key_value_heads", "vocab": "vocab_size", "tied": "tie_word_embeddings",
		}[key]; ok {
			key = long
		}
		if err := c.Set(key, rawJSON(value)); err != nil {
			return nil, err
		}
	}
	return c, nil
}

type rawJSON string

func (r rawJSON) MarshalJSON() ([]byte, error) { return []byte(r), nil }

// synthModel writes a checkpoint of random weights. Beside those of synthConfig the
// settings are dtype, seed, shard (bytes), and tokenizer (true: one token a byte, for
// which the vocabulary needs 257).
func synthModel(dir string, settings []string) error {
	dtype, seed, shard, tokenizer := tensor.BF16, uint64(1), int64(checkpoint.DefaultShardBytes), false
	for _, s := range settings {
		key, value, _ := strings.Cut(s, "=")
		var err error
		switch key {
		case "dtype":
			dtype, err = tensor.ParseDType(value)
		case "seed":
			seed, err = strconv.ParseUint(value, 10, 64)
		case "shard":
			shard, err = strconv.ParseInt(value, 10, 64)
		case "tokenizer":
			tokenizer, err = strconv.ParseBool(value)
		}
		if err != nil {
			return err
		}
	}
	c, err := synthConfig(settings)
	if err != nil {
		return err
	}
	if err := synth.Write(dir, c.Bytes(), dtype, seed, shard); err != nil || !tokenizer {
		return err
	}
	return synth.WriteTokenizer(dir)
}

// ggufOf writes a Hugging Face checkpoint (llama, qwen2 or gemma2) as llama.cpp's
// converter does: matrices as F32 or Q8_0, the rest as F32.
func ggufOf(c *checkpoint.Checkpoint, matrices tensor.DType, vocabulary bool) ([]byte, error) {
	s := &c.Spec
	name := s.Family.GGUF
	number := func(key string, n int) gguf.KeyValue {
		return ggufwrite.Pair(name+"."+key, gguf.Uint32Value(uint32(n)))
	}
	kv := []gguf.KeyValue{
		ggufwrite.Pair("general.architecture", gguf.StringValue(name)),
		number("block_count", s.Layers), number("context_length", s.MaxPositions),
		number("embedding_length", s.Hidden), number("feed_forward_length", s.Intermediate),
		number("attention.head_count", s.Heads), number("attention.head_count_kv", s.KVHeads),
		number("attention.key_length", s.HeadDim),
		ggufwrite.Pair(name+".attention.layer_norm_rms_epsilon", gguf.Float32Value(1e-5)),
		ggufwrite.Pair(name+".rope.freq_base", gguf.Float32Value(10000)),
	}
	if vocabulary {
		kv = append(kv, byteVocabulary(s.Vocab)...)
	}
	var tensors []ggufwrite.Tensor
	for _, t := range s.Tensors() {
		info, _ := c.Lookup(t.Name)
		b := make([]byte, info.RowBytes()*int64(info.Rows()))
		if err := c.ReadRows(t.Name, b, 0, info.Rows()); err != nil {
			return nil, err
		}
		v := make([]float32, info.RowElements()*info.Rows())
		if err := tensor.Decode(v, b, info.DType); err != nil {
			return nil, err
		}
		if s.Family.GGUFPermuted && (strings.Contains(t.Name, "q_proj") || strings.Contains(t.Name, "k_proj")) {
			v = interleave(v, s.HeadDim, info.RowElements())
		}
		if s.Family.GGUFNormPlus && t.Role == arch.Norm {
			for i := range v {
				v[i]++
			}
		}
		out := tensor.Info{Name: t.GGUF, DType: tensor.F32, Shape: info.Shape}
		data := make([]byte, 4*len(v))
		if len(info.Shape) == 2 && matrices == tensor.Q8_0 {
			out.DType, data = tensor.Q8_0, q8(v)
		} else if err := tensor.Encode(data, v, tensor.F32); err != nil {
			return nil, err
		}
		tensors = append(tensors, ggufwrite.Tensor{Info: out, Data: data})
	}
	return ggufwrite.Build(kv, tensors, 3, 32), nil
}

// interleave puts the rows of each head in GGUF's order for llama: the two halves of a
// head, whose rows i and d/2+i are a rotary pair, become neighbours.
func interleave(v []float32, d, row int) []float32 {
	out := make([]float32, 0, len(v))
	for head := 0; head < len(v); head += d * row {
		for i := range d / 2 {
			out = append(out, v[head+i*row:][:row]...)
			out = append(out, v[head+(d/2+i)*row:][:row]...)
		}
	}
	return out
}

// q8 quantises to Q8_0: blocks of 32 with a scale in F16 (here a power of two).
func q8(v []float32) []byte {
	var out []byte
	for ; len(v) > 0; v = v[32:] {
		peak := 0.0
		for _, x := range v[:32] {
			peak = max(peak, math.Abs(float64(x)))
		}
		exponent := math.Ceil(math.Log2(max(peak, 1.0/128) / 127))
		out = binary.LittleEndian.AppendUint16(out, uint16(exponent+15)<<10)
		for _, x := range v[:32] {
			out = append(out, byte(int8(math.Round(float64(x)/math.Exp2(exponent)))))
		}
	}
	return out
}

// byteVocabulary is a vocabulary of n tokens for byte-level BPE: the 256 bytes, one
// merge, then unused ones.
func byteVocabulary(n int) []gguf.KeyValue {
	var tokens []string
	types := make([]int32, n)
	spare := rune(256) // bytes without a printable form of their own have one from here on
	for b := range 256 {
		r := rune(b)
		if !(r >= '!' && r <= '~' || r >= 0xa1 && r <= 0xac || r >= 0xae) {
			r, spare = spare, spare+1
		}
		tokens = append(tokens, string(r))
	}
	tokens = append(tokens, "he")
	for i := range types {
		types[i] = 1
		if i >= len(tokens) {
			tokens = append(tokens, fmt.Sprintf("[UNUSED_%d]", i))
			types[i] = 5
		}
	}
	return []gguf.KeyValue{
		ggufwrite.Pair("tokenizer.ggml.model", gguf.StringValue("gpt2")),
		ggufwrite.Pair("tokenizer.ggml.pre", gguf.StringValue("gpt-2")),
		ggufwrite.Pair("tokenizer.ggml.tokens", gguf.StringsValue(tokens[:n]...)),
		ggufwrite.Pair("tokenizer.ggml.token_type", gguf.Int32sValue(types...)),
		ggufwrite.Pair("tokenizer.ggml.merges", gguf.StringsValue("h e")),
		ggufwrite.Pair("tokenizer.ggml.bos_token_id", gguf.Uint32Value(0)),
		ggufwrite.Pair("tokenizer.ggml.eos_token_id", gguf.Uint32Value(0)),
	}
}

// synthGGUF writes a GGUF file of random weights with the settings of synthModel, and
// vocabulary (a small one is added) or matrices (their element type).
func synthGGUF(path string, settings []string) error {
	matrices, vocabulary := tensor.F32, false
	model := []string{"vocab=300", "dtype=f32"}
	for _, s := range settings {
		switch key, value, _ := strings.Cut(s, "="); key {
		case "matrices":
			var err error
			if matrices, err = tensor.ParseDType(value); err != nil {
				return err
			}
		case "vocabulary":
			vocabulary = value == "true"
		default:
			model = append(model, s)
		}
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), "hf-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := synthModel(dir, model); err != nil {
		return err
	}
	c, err := checkpoint.Open(dir)
	if err != nil {
		return err
	}
	defer c.Close()
	b, err := ggufOf(c, matrices, vocabulary)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o666)
}
