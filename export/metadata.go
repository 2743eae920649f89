package export

import (
	"fmt"
	"math"
	"strings"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/gguf"
	"github.com/coppice-lm/coppice/tokenizer"
)

// quantisationVersion is GGML_QNT_VERSION: what the layout of the block types is called.
const quantisationVersion = 2

// metadata makes the keys of the file: what it is, the architecture's numbers, and the
// tokenizer (names: the GGUF specification of ggml, docs/gguf.md).
func (p *Program) metadata(t *arch.Transformer, name string) ([]gguf.KeyValue, error) {
	s := &p.spec
	if err := p.readCard(); err != nil {
		return nil, err
	}
	if name == "" {
		name = modelName(p.from.Path)
	}
	k := &keys{prefix: p.Architecture + "."}
	k.general("architecture", gguf.StringValue(p.Architecture))
	k.general("type", gguf.StringValue("model"))
	k.general("name", gguf.StringValue(name))
	_, parameters := p.from.Spec.Parameters()
	k.general("size_label", gguf.StringValue(sizeLabel(parameters)))
	p.Card.addTo(k)
	k.general("file_type", gguf.Uint32Value(p.mix.fileType))
	k.general("quantization_version", gguf.Uint32Value(quantisationVersion))

	k.count("block_count", s.Layers)
	k.count("context_length", t.MaxPositions)
	k.count("embedding_length", s.Hidden)
	if p.Architecture == arch.GGUFPerLayer {
		heads, kvHeads := make([]int, s.Layers), make([]int, s.Layers)
		for l := range s.Layers {
			heads[l], kvHeads[l] = s.AttentionAt(l).Queries, s.AttentionAt(l).KV
		}
		k.counts("feed_forward_length", s.Widths)
		k.counts("attention.head_count", heads)
		k.counts("attention.head_count_kv", kvHeads)
	} else {
		k.count("feed_forward_length", s.Widths[0])
		k.count("attention.head_count", s.Heads)
		k.count("attention.head_count_kv", s.KVHeads)
	}
	k.count("attention.key_length", s.HeadDim)
	k.count("attention.value_length", s.HeadDim)
	k.add("attention.layer_norm_rms_epsilon", gguf.Float32Value(t.NormEpsilon))
	k.count("vocab_size", s.Vocab)
	k.rope(&t.Ropes[0])
	if window := widestWindow(t); window > 0 {
		k.count("attention.sliding_window", window)
	}
	if t.AttentionCap > 0 {
		k.add("attn_logit_softcapping", gguf.Float32Value(t.AttentionCap))
	}
	if t.LogitCap > 0 {
		k.add("final_logit_softcapping", gguf.Float32Value(t.LogitCap))
	}
	vocabulary, err := p.tokenizerKeys()
	if err != nil {
		return nil, err
	}
	return append(k.list, vocabulary...), checkName(name, p.Chat)
}

// checkName is an error if llama.cpp does not load a model because of its name: of one with
// phi-3 or phi3 in its name it looks up some tokens of Phi-3 (src/llama-vocab.cpp), and ends
// where one is not there.
func checkName(name string, tok *tokenizer.Tokenizer) error {
	lower := strings.ToLower(name)
	if !strings.Contains(lower, "phi-3") && !strings.Contains(lower, "phi3") {
		return nil
	}
	for _, token := range []string{"</s>", "<unk>", "<s>", "<|endoftext|>"} {
		if _, ok := tok.ID(token); !ok {
			return fmt.Errorf("general.name is %q, and of a model of that name llama.cpp looks for the token %s, which this vocabulary lacks; choose another --name", name, token)
		}
	}
	return nil
}

// keys collects metadata.
type keys struct {
	prefix string // of the architecture's keys
	list   []gguf.KeyValue
}

func (k *keys) general(key string, v gguf.Value) {
	k.list = append(k.list, gguf.KeyValue{Key: "general." + key, Value: v})
}

func (k *keys) add(key string, v gguf.Value) {
	k.list = append(k.list, gguf.KeyValue{Key: k.prefix + key, Value: v})
}

// count adds a number that arch bounds below 2^31.
func (k *keys) count(key string, n int) { k.add(key, gguf.Uint32Value(uint32(n))) }

func (k *keys) counts(key string, list []int) {
	v := make([]int32, len(list))
	for i, n := range list {
		v[i] = int32(n)
	}
	k.add(key, gguf.Int32sValue(v...))
}

func (k *keys) rope(r *arch.Rope) {
	k.count("rope.dimension_count", r.Dim)
	k.add("rope.freq_base", gguf.Float32Value(float32(r.Theta)))
	if r.Type == arch.RopeLinear {
		k.add("rope.scaling.type", gguf.StringValue("linear"))
		k.add("rope.scaling.factor", gguf.Float32Value(float32(r.Factor)))
	}
}

func widestWindow(t *arch.Transformer) int {
	window := 0
	for _, l := range t.Layers {
		window = max(window, l.Window)
	}
	return window
}

// sizeLabel is a number of parameters in two digits or more, as "135M" or "1.9B", the way
// the gguf package (gguf.utility.size_label) writes it.
func sizeLabel(n int64) string {
	x, unit := float64(n)*1e-3, "K"
	for _, u := range []struct {
		scale float64
		unit  string
	}{{1e-12, "T"}, {1e-9, "B"}, {1e-6, "M"}} {
		if float64(n)*u.scale >= 1 {
			x, unit = float64(n)*u.scale, u.unit
			break
		}
	}
	digits := len(strings.TrimLeft(fmt.Sprintf("%.0f", math.RoundToEven(x)), "0"))
	return fmt.Sprintf("%.*f%s", max(2-digits, 0), x, unit)
}
