package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/gguf"
)

// ropeFreqs is the tensor in which GGUF keeps the factors of llama3 rope scaling.
const ropeFreqs = "rope_freqs.weight"

// object builds a JSON object whose keys stay in the order in which they were set.
type object struct {
	bytes.Buffer
	err error
}

func (o *object) set(key string, v any) {
	b, err := json.Marshal(v)
	if err != nil && o.err == nil {
		o.err = fmt.Errorf("key %q: %w", key, err)
	}
	sep := ",\n  "
	if o.Len() == 0 {
		sep = "{\n  "
	}
	fmt.Fprintf(o, "%s%q: %s", sep, key, b)
}

func (o *object) bytes() []byte {
	o.WriteString("\n}\n")
	return o.Bytes()
}

// single is a float that prints with the digits of its float32, as 1e-05 and not
// 9.999999747378752e-06, and never as an integer: strict readers want 30.0 where a
// config's type is float.
type single float64

func (f single) MarshalJSON() ([]byte, error) {
	b := strconv.AppendFloat(nil, float64(f), 'g', -1, 32)
	if !bytes.ContainsAny(b, ".eIN") {
		b = append(b, ".0"...)
	}
	return b, nil
}

// metadata reads architecture keys and keeps the first error.
type metadata struct {
	*gguf.File
	prefix string
	err    error
}

func (m *metadata) uint(key string) int {
	v, err := m.Uint(m.prefix + key)
	m.keep(err)
	return int(min(v, math.MaxInt32))
}

// perLayer is a count of each layer, whether the file says it once or layer by layer.
func (m *metadata) perLayer(key string, layers int) []int {
	v, ok := m.Lookup(m.prefix + key)
	if !ok || v.Type != gguf.Array {
		n := m.uint(key)
		if m.err != nil {
			return nil
		}
		return slices.Repeat([]int{n}, layers)
	}
	list, err := m.Ints(m.prefix + key)
	if err == nil && len(list) != layers {
		err = fmt.Errorf("key %q has %d elements for %d layers", m.prefix+key, len(list), layers)
	}
	m.keep(err)
	counts := make([]int, len(list))
	for i, n := range list {
		if n < 0 || n > math.MaxInt32 {
			m.keep(fmt.Errorf("key %q: element %d is %d", m.prefix+key, i, n))
		}
		counts[i] = int(n)
	}
	return counts
}

// sameInAll is a count that every layer must share.
func (m *metadata) sameInAll(key string, layers int) int {
	counts := m.perLayer(key, layers)
	for l, n := range counts {
		if n != counts[0] {
			m.keep(fmt.Errorf("key %q is %d in layer 0 and %d in layer %d; attention that differs from layer to layer is not supported", m.prefix+key, counts[0], n, l))
		}
	}
	if m.err != nil || len(counts) == 0 {
		return 0
	}
	return counts[0]
}

// mostOfAll is the largest count of any layer.
func (m *metadata) mostOfAll(key string, layers int) int {
	counts := m.perLayer(key, layers)
	if m.err != nil || len(counts) == 0 {
		return 0
	}
	return slices.Max(counts)
}

func (m *metadata) float(key string) single {
	v, err := m.Float(m.prefix + key)
	m.keep(err)
	return single(v)
}

func (m *metadata) has(key string) bool {
	_, ok := m.Lookup(m.prefix + key)
	return ok
}

func (m *metadata) keep(err error) {
	if m.err == nil {
		m.err = err
	}
}

// configFromGGUF makes the config.json of a checkpoint out of a GGUF file's metadata, whose
// keys begin with prefix (keys: the GGUF specification of ggml). Freqs holds the rope
// factors of the file, if it has any. Where layers differ, it says the most of any of them.
func configFromGGUF(f *gguf.File, fam *arch.Family, prefix string, vocab int, tied bool, freqs []float32) ([]byte, error) {
	m := &metadata{File: f, prefix: prefix}
	hidden, layers := m.uint("embedding_length"), m.uint("block_count")
	if layers < 1 || layers > 1<<14 {
		m.keep(fmt.Errorf("key %q is %d, expected a number of layers from 1 to %d", prefix+"block_count", layers, 1<<14))
		layers = 0
	}
	count := m.sameInAll
	if prefix == arch.GGUFPerLayer+"." {
		count = m.mostOfAll
	}
	heads := count("attention.head_count", layers)
	kv := heads
	if m.has("attention.head_count_kv") {
		kv = count("attention.head_count_kv", layers)
	}
	widths := m.perLayer("feed_forward_length", layers)
	if m.err != nil {
		return nil, m.err
	}
	if heads == 0 {
		return nil, fmt.Errorf("key %q is 0", m.prefix+"attention.head_count")
	}
	headDim := hidden / heads
	if m.has("attention.key_length") {
		headDim = m.uint("attention.key_length")
	}
	if m.has("rope.dimension_count") {
		if n := m.uint("rope.dimension_count"); n != headDim {
			return nil, fmt.Errorf("key %q is %d, but heads have %d dimensions: partial rotary embedding is not supported in %s", m.prefix+"rope.dimension_count", n, headDim, strings.TrimSuffix(prefix, "."))
		}
	}
	theta := single(10000)
	if m.has("rope.freq_base") {
		theta = m.float("rope.freq_base")
	}
	scaling, err := ropeScaling(m, headDim, float64(theta), freqs)
	if err != nil {
		return nil, err
	}
	o := &object{}
	o.set("architectures", []string{fam.Architecture})
	o.set("model_type", fam.ModelType)
	o.set("hidden_act", fam.Activation)
	o.set("hidden_size", hidden)
	o.set("intermediate_size", slices.Max(widths))
	o.set("num_hidden_layers", layers)
	o.set("num_attention_heads", heads)
	o.set("num_key_value_heads", kv)
	o.set("head_dim", headDim)
	o.set("max_position_embeddings", m.uint("context_length"))
	o.set("rms_norm_eps", m.float("attention.layer_norm_rms_epsilon"))
	o.set("rope_theta", theta)
	if scaling != nil {
		o.set("rope_scaling", scaling)
	}
	switch fam.ModelType {
	case "gemma2":
		gemmaConfig(o, m, layers == 46, hidden, heads, headDim)
	case "gemma3_text":
		gemmaConfig(o, m, layers == 62, hidden, heads, headDim)
	case "phi3":
		slidingWindow(o, m)
	}
	for _, id := range specialIDs(f) {
		o.set(id.key, id.id)
	}
	o.set("tie_word_embeddings", tied)
	o.set("torch_dtype", "float16") // what import writes sets it
	o.set("vocab_size", vocab)
	if m.err == nil {
		m.err = o.err
	}
	return o.bytes(), m.err
}

// gemmaConfig adds what gemma2 and gemma3 have. The scale of the queries is not stored:
// llama.cpp derives it from the size (the 27B models, of 46 and 62 layers: hidden/heads;
// else head_dim), so it is derived alike here.
func gemmaConfig(o *object, m *metadata, is27B bool, hidden, heads, headDim int) {
	o.set("hidden_activation", "gelu_pytorch_tanh")
	for _, key := range []string{"attn_logit_softcapping", "final_logit_softcapping"} {
		if m.has(key) {
			o.set(key, m.float(key))
		}
	}
	slidingWindow(o, m)
	scalar := headDim
	if is27B {
		scalar = hidden / heads
	}
	o.set("query_pre_attn_scalar", scalar)
}

func slidingWindow(o *object, m *metadata) {
	if m.has("attention.sliding_window") {
		o.set("sliding_window", m.uint("attention.sliding_window"))
	}
}

// ropeScaling turns the file's scaling into the config's. Factors are matched against
// the settings that Llama 3.1 and 3.2 were published with; others are an error, since
// a config cannot say them.
func ropeScaling(m *metadata, headDim int, theta float64, freqs []float32) (map[string]any, error) {
	kind := "none"
	if m.has("rope.scaling.type") {
		var err error
		if kind, err = m.String(m.prefix + "rope.scaling.type"); err != nil {
			return nil, err
		}
	}
	switch {
	case freqs != nil:
		for _, factor := range []float64{8, 32} {
			if matchesLlama3(freqs, headDim, theta, factor) {
				return map[string]any{"rope_type": "llama3", "factor": single(factor), "low_freq_factor": single(1), "high_freq_factor": single(4), "original_max_position_embeddings": 8192}, nil
			}
		}
		return nil, fmt.Errorf("tensor %q holds factors of no known llama3 rope scaling (factor 8 or 32, original context 8192)", ropeFreqs)
	case kind == "none":
		return nil, nil
	case kind == "linear" && m.has("rope.scaling.factor"):
		return map[string]any{"rope_type": "linear", "factor": m.float("rope.scaling.factor")}, nil
	}
	return nil, fmt.Errorf("key %q is %q; import covers none, linear and llama3", m.prefix+"rope.scaling.type", kind)
}

// matchesLlama3 computes the divisors of llama3 rope scaling (low 1, high 4, original
// context 8192; "Llama 3.1" model card, rope_scaling) and compares them with the file's.
func matchesLlama3(freqs []float32, headDim int, theta, factor float64) bool {
	const low, high, context = 1.0, 4.0, 8192.0
	if len(freqs) != headDim/2 {
		return false
	}
	for i, got := range freqs {
		wavelength := 2 * math.Pi * math.Pow(theta, float64(2*i)/float64(headDim))
		want := 1.0
		switch {
		case wavelength > context/low:
			want = factor
		case wavelength >= context/high:
			smooth := (context/wavelength - low) / (high - low)
			want = 1 / ((1-smooth)/factor + smooth)
		}
		if math.Abs(float64(got)-want) > 1e-4*want {
			return false
		}
	}
	return true
}

// specialID is a special token's id under the name that Hugging Face configs give it.
type specialID struct {
	key string
	id  int
}

func specialIDs(f *gguf.File) []specialID {
	var ids []specialID
	for _, k := range []struct{ key, from string }{
		{"bos_token_id", "tokenizer.ggml.bos_token_id"},
		{"eos_token_id", "tokenizer.ggml.eos_token_id"},
		{"pad_token_id", "tokenizer.ggml.padding_token_id"},
	} {
		if v, err := f.Uint(k.from); err == nil && v <= math.MaxInt32 {
			ids = append(ids, specialID{k.key, int(v)})
		}
	}
	return ids
}

// generationConfig is the generation_config.json of a GGUF file's model.
func generationConfig(f *gguf.File) []byte {
	o := &object{}
	o.set("_from_model_config", true)
	for _, id := range specialIDs(f) {
		o.set(id.key, id.id)
	}
	return o.bytes()
}
