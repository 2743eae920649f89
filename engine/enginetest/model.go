package enginetest

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/tensor"
)

// Model is a model in memory whose weights follow from the names of its tensors, so
// that a recording of another program needs to store no weights. It is an engine.Source.
type Model struct {
	Spec        arch.Spec
	Transformer *arch.Transformer
	Weights     map[string][]float32    // by tensor name, row-major; a test may change them
	Stored      tensor.DType            // of the projections, as the model hands them out; Invalid: F32
	Apart       map[string]tensor.DType // of projections that are not in Stored, by the last part of the name but one
	shapes      map[string]tensor.Shape
}

// TinyLlama is the config of a Llama small enough for any test: grouped queries, an
// untied head, a vocabulary of 48.
const TinyLlama = `{"model_type": "llama", "vocab_size": 48, "hidden_size": 32, "intermediate_size": 48,
	"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}`

// NewModel makes the model of a config.json, with other MLP widths than the config's
// where one a layer is given.
func NewModel(config string, widths ...int) (*Model, error) {
	c, err := arch.ParseConfig([]byte(config))
	if err != nil {
		return nil, err
	}
	spec, err := arch.FromConfig(c)
	if err != nil {
		return nil, err
	}
	if len(widths) > 0 {
		spec = spec.WithWidths(widths)
	}
	tr, err := spec.Transformer(c)
	if err != nil {
		return nil, err
	}
	m := &Model{Spec: spec, Transformer: tr, Weights: map[string][]float32{}, shapes: map[string]tensor.Shape{}}
	for _, t := range spec.Tensors() {
		n, err := t.Shape.Elements()
		if err != nil {
			return nil, err
		}
		m.Weights[t.Name], m.shapes[t.Name] = formula(t.Name, int(n), tr.NormPlusOne), t.Shape
	}
	return m, nil
}

// With returns the config with keys set; a nil value stands for null.
func With(config string, changes map[string]any) string {
	keys := map[string]any{}
	if err := json.Unmarshal([]byte(config), &keys); err != nil {
		panic(fmt.Sprintf("enginetest: the config of a test is not JSON: %v", err))
	}
	for k, v := range changes {
		keys[k] = v
	}
	text, err := json.Marshal(keys)
	if err != nil {
		panic(fmt.Sprintf("enginetest: the config of a test cannot be written as JSON: %v", err))
	}
	return string(text)
}

// formula is the twin of weights in tools/peers/record_families.py: splitmix64 from the
// FNV-1a hash of the name, its upper 24 bits as a number in [-1, 1), scaled by a power
// of two, so that both languages compute the same float32.
func formula(name string, n int, normPlusOne bool) []float32 {
	h := fnv.New64a()
	h.Write([]byte(name))
	seed, w := h.Sum64(), make([]float32, n)
	for i := range w {
		z := seed + uint64(i+1)*0x9E3779B97F4A7C15
		z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
		z = (z ^ z>>27) * 0x94D049BB133111EB
		z ^= z >> 31
		w[i] = float32(z>>40)/(1<<23) - 1
		switch {
		case strings.Contains(name, "embed_tokens"):
		case strings.Contains(name, "norm") && !normPlusOne:
			w[i] = w[i]*0.25 + 1
		default:
			w[i] *= 0.25
		}
	}
	return w
}

// Lookup implements engine.Source.
func (m *Model) Lookup(name string) (tensor.Info, bool) {
	shape, ok := m.shapes[name]
	return tensor.Info{Name: name, DType: m.storedAs(name), Shape: shape}, ok
}

// ReadRows implements engine.Source.
func (m *Model) ReadRows(name string, dst []byte, first, n int) error {
	info, ok := m.Lookup(name)
	if !ok {
		return fmt.Errorf("no tensor %q", name)
	}
	row := info.RowElements()
	if first < 0 || n < 0 || first+n > info.Rows() || len(dst) != n*int(info.RowBytes()) {
		return fmt.Errorf("tensor %q: rows %d to %d into %d bytes", name, first, first+n, len(dst))
	}
	_, err := encode(dst[:0], m.Weights[name][first*row:(first+n)*row], info.DType)
	return err
}
