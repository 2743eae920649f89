package cpu_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu"
	"github.com/coppice-lm/coppice/engine/enginetest"
	"github.com/coppice-lm/coppice/tensor"
)

// faulty is a source with one tensor that is not there, has another shape, or cannot
// be read.
type faulty struct {
	*enginetest.Model
	name    string
	missing bool
	shape   tensor.Shape
	err     error
}

func (f faulty) Lookup(name string) (tensor.Info, bool) {
	info, ok := f.Model.Lookup(name)
	if name == f.name {
		if f.shape != nil {
			info.Shape = f.shape
		}
		ok = ok && !f.missing
	}
	return info, ok
}

func (f faulty) ReadRows(name string, dst []byte, first, n int) error {
	if name == f.name && f.err != nil {
		return f.err
	}
	return f.Model.ReadRows(name, dst, first, n)
}

func TestLoadErrors(t *testing.T) {
	m, err := enginetest.NewModel(enginetest.With(enginetest.TinyLlama, map[string]any{"attention_bias": true}))
	if err != nil {
		t.Fatal(err)
	}
	unreadable := errors.New("the disk is gone")
	for _, name := range []string{
		"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight", "model.layers.1.input_layernorm.weight",
		"model.layers.2.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.bias", "model.layers.1.mlp.down_proj.weight",
	} {
		info, ok := m.Lookup(name)
		if !ok {
			t.Fatalf("the tiny model has no %s", name)
		}
		larger := append(tensor.Shape{info.Shape[0] + 1}, info.Shape[1:]...)
		for what, src := range map[string]faulty{
			"missing":     {missing: true},
			"a row more":  {shape: larger},
			"a dimension": {shape: append(tensor.Shape{1}, info.Shape...)},
			"unreadable":  {err: unreadable},
		} {
			src.Model, src.name = m, name
			for _, precision := range []engine.Precision{engine.F32, engine.BF16} {
				_, err := cpu.New(context.Background(), m.Transformer, src, cpu.Options{Precision: precision, Threads: 2})
				if err == nil || !strings.Contains(err.Error(), name) && !errors.Is(err, unreadable) {
					t.Errorf("%s, %s: error %v", name, what, err)
				}
			}
		}
	}
	if _, err := cpu.New(context.Background(), m.Transformer, m, cpu.Options{Threads: -1}); err == nil {
		t.Error("-1 threads: no error")
	}
	wide, err := enginetest.NewModel(enginetest.With(enginetest.TinyLlama, map[string]any{"head_dim": 258}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cpu.New(context.Background(), wide.Transformer, wide, cpu.Options{}); err == nil || !strings.Contains(err.Error(), "258") {
		t.Errorf("heads of 258: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := cpu.New(ctx, m.Transformer, m, cpu.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Loading allocates little more than the packed weights: what is read from the
// checkpoint passes through buffers that are used again.
func TestLoadMemory(t *testing.T) {
	const config = `{"model_type": "llama", "vocab_size": 8192, "hidden_size": 256, "intermediate_size": 1024,
		"num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
		"tie_word_embeddings": true}`
	c, err := arch.ParseConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	spec, err := arch.FromConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	model, err := spec.Transformer(c)
	if err != nil {
		t.Fatal(err)
	}
	_, parameters := spec.Parameters()
	src := newNoise(&spec)
	for precision, size := range map[engine.Precision]int64{engine.F32: 4, engine.BF16: 2} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		e, err := cpu.New(context.Background(), model, src, cpu.Options{Precision: precision, Threads: 2})
		if err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		got, weights := float64(after.TotalAlloc-before.TotalAlloc), float64(parameters*size)
		if got > 1.3*weights {
			t.Errorf("%v: loading allocated %.1f MB in all for %.1f MB of weights", precision, got/1e6, weights/1e6)
		}
		runtime.KeepAlive(e)
	}
}

// A Layerwise says at once what is missing, and what cannot be read when it is needed.
func TestLayerwiseLoadErrors(t *testing.T) {
	m, err := enginetest.NewModel(enginetest.TinyLlama)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	open := func(f faulty) (*cpu.Layerwise, error) {
		f.Model = m
		return cpu.NewLayerwise(ctx, m.Transformer, f, cpu.Options{Threads: 2})
	}
	for _, name := range []string{"model.embed_tokens.weight", "lm_head.weight", "model.layers.2.mlp.up_proj.weight"} {
		if _, err := open(faulty{name: name, missing: true}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is missing: error %v", name, err)
		}
	}
	gone := errors.New("the disk is gone")
	l, err := open(faulty{name: "model.layers.1.mlp.up_proj.weight", err: gone})
	if err != nil {
		t.Fatal(err)
	}
	for index := range 3 {
		if _, err := l.Layer(ctx, index); errors.Is(err, gone) != (index == 1) {
			t.Errorf("layer %d: error %v", index, err)
		}
	}
	if l, err = open(faulty{name: "model.embed_tokens.weight", err: gone}); err != nil {
		t.Fatal(err)
	}
	batch := engine.Batch{Nodes: []engine.Node{{Parent: -1, Tokens: []int32{1}}}}
	if err := l.Embed(ctx, batch, make([]float32, m.Transformer.Hidden)); !errors.Is(err, gone) {
		t.Errorf("an embedding that cannot be read: error %v", err)
	}
}
