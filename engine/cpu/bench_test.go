package cpu_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu"
	"github.com/coppice-lm/coppice/tensor"
)

// Shapes of real models, for benchmarks that need no weights.
const (
	smolLM2135M = `{"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
		"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
		"rms_norm_eps": 1e-5, "rope_theta": 100000, "tie_word_embeddings": true}`
	llama321B = `{"model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
		"num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
		"rms_norm_eps": 1e-5, "rope_theta": 500000, "tie_word_embeddings": true}`
)

// noise is a source of small random weights of a model's shapes, all in bfloat16.
type noise struct {
	shapes map[string]tensor.Shape
	block  []byte
}

func newNoise(spec *arch.Spec) noise {
	n := noise{shapes: map[string]tensor.Shape{}, block: make([]byte, 1<<20)}
	for _, t := range spec.Tensors() {
		n.shapes[t.Name] = t.Shape
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(n.block); i += 2 {
		n.block[i] = byte(r.Uint32())
		n.block[i+1] = 0x3c | byte(r.Uint32())&0x80 // 2^-7 to 2^-5, either sign
	}
	return n
}

func (n noise) Lookup(name string) (tensor.Info, bool) {
	s, ok := n.shapes[name]
	return tensor.Info{Name: name, DType: tensor.BF16, Shape: s}, ok
}

func (n noise) ReadRows(name string, dst []byte, first, rows int) error {
	for at := 0; at < len(dst); {
		at += copy(dst[at:], n.block[(first*7919%4096)*2:])
	}
	return nil
}

// shape is the model of a config, and random weights for it.
func shape(b *testing.B, config string) (*arch.Transformer, noise) {
	b.Helper()
	c, err := arch.ParseConfig([]byte(config))
	if err != nil {
		b.Fatal(err)
	}
	spec, err := arch.FromConfig(c)
	if err != nil {
		b.Fatal(err)
	}
	model, err := spec.Transformer(c)
	if err != nil {
		b.Fatal(err)
	}
	return model, newNoise(&spec)
}

// shaped opens a model of the given shape with random weights.
func shaped(b *testing.B, config string, opt cpu.Options) *cpu.Engine {
	b.Helper()
	model, src := shape(b, config)
	e, err := cpu.New(context.Background(), model, src, opt)
	if err != nil {
		b.Fatal(err)
	}
	return e
}

// each runs f for the precisions and one and two threads.
func each(b *testing.B, config string, precisions []engine.Precision, f func(b *testing.B, e *cpu.Engine)) {
	for _, precision := range precisions {
		for _, threads := range []int{1, 2} {
			b.Run(fmt.Sprintf("%v/%d", precision, threads), func(b *testing.B) {
				f(b, shaped(b, config, cpu.Options{Precision: precision, Threads: threads}))
			})
		}
	}
}

func benchmarkScore(b *testing.B, config string) {
	const n = 512
	each(b, config, []engine.Precision{engine.F32, engine.BF16}, func(b *testing.B, e *cpu.Engine) {
		node := engine.Node{Parent: -1}
		for i := range int32(n) {
			node.Tokens = append(node.Tokens, i*37%10007)
			node.Targets = append(node.Targets, engine.Target{Index: int(i), Token: i})
		}
		for b.Loop() {
			if _, err := e.Score(context.Background(), engine.Batch{Nodes: []engine.Node{node}}, nil); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
	})
}

func benchmarkDecode(b *testing.B, config string, sequences int) {
	const n = 32
	precisions := []engine.Precision{engine.F32, engine.BF16, engine.F16, engine.Q8_0, engine.Q4_0, engine.Q4_1}
	each(b, config, precisions, func(b *testing.B, e *cpu.Engine) {
		steps := make([]engine.Step, sequences)
		for i := range steps {
			steps[i] = engine.Step{Cache: e.NewCache(), Tokens: []int32{0}, Logits: make([]float32, e.Model().Vocab)}
		}
		for b.Loop() {
			for _, s := range steps {
				s.Cache.Truncate(0)
			}
			for i := range int32(n) {
				for j, s := range steps {
					s.Tokens[0] = i + int32(j)
				}
				if err := e.Decode(context.Background(), steps); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.ReportMetric(float64(n*sequences*b.N)/b.Elapsed().Seconds(), "tokens/s")
	})
}

// Scoring 512 tokens with the logits of all positions.
func BenchmarkScore135M(b *testing.B) { benchmarkScore(b, smolLM2135M) }
func BenchmarkScore1B(b *testing.B)   { benchmarkScore(b, llama321B) }

// Decoding 32 tokens one by one.
func BenchmarkDecode135M(b *testing.B) { benchmarkDecode(b, smolLM2135M, 1) }
func BenchmarkDecode1B(b *testing.B)   { benchmarkDecode(b, llama321B, 1) }

// Decoding 32 tokens of each of four sequences, all in one pass.
func BenchmarkDecodeFour135M(b *testing.B) { benchmarkDecode(b, smolLM2135M, 4) }

// eachLayerwise runs f for two precisions and one and two threads, with n tokens in rows of 512 and two streams of noise.
func eachLayerwise(b *testing.B, config string, n int, f func(w *cpu.Layerwise, batch engine.Batch, x, y []float32) error) {
	for _, precision := range []engine.Precision{engine.F32, engine.BF16} {
		for _, threads := range []int{1, 2} {
			b.Run(fmt.Sprintf("%v/%d", precision, threads), func(b *testing.B) {
				model, src := shape(b, config)
				w, err := cpu.NewLayerwise(context.Background(), model, src, cpu.Options{Precision: precision, Threads: threads})
				if err != nil {
					b.Fatal(err)
				}
				var batch engine.Batch
				for i := range n {
					if i%512 == 0 {
						batch.Nodes = append(batch.Nodes, engine.Node{Parent: -1})
					}
					node := &batch.Nodes[i/512]
					node.Tokens, node.Targets = append(node.Tokens, 0), append(node.Targets, engine.Target{Index: i % 512})
				}
				x, y := make([]float32, n*model.Hidden), make([]float32, n*model.Hidden)
				r := rand.New(rand.NewPCG(1, 2))
				for i := range x {
					x[i], y[i] = r.Float32()-0.5, r.Float32()-0.5
				}
				for b.Loop() {
					if err := f(w, batch, x, y); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "tokens/s")
			})
		}
	}
}

// The gradient of the divergence at 512 positions by what is before the head.
func BenchmarkDivergenceGradient135M(b *testing.B) {
	eachLayerwise(b, smolLM2135M, 512, func(w *cpu.Layerwise, batch engine.Batch, x, y []float32) error {
		_, err := w.DivergenceGradient(context.Background(), batch, x, y, make([]float32, len(x)))
		return err
	})
}

// A layer of 1,024 tokens, loaded, computed again and differentiated.
func BenchmarkBack135M(b *testing.B) {
	eachLayerwise(b, smolLM2135M, 1024, func(w *cpu.Layerwise, batch engine.Batch, x, y []float32) error {
		layer, err := w.Layer(context.Background(), 0)
		if err != nil {
			return err
		}
		return layer.(engine.BackwardLayer).Back(context.Background(), batch, x, y, func(engine.MLPGradient) error { return nil })
	})
}
