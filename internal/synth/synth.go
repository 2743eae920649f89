// Package synth makes checkpoints out of nothing but a config.json and a seed: small
// models of every family for tests, and a 3B-shaped one for the benchmark.
// Their weights are normally distributed, as those of trained models roughly are, and
// the same for the same seed on every machine.
package synth

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"strings"
	"sync"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/tensor"
)

// Config returns the config.json of a Llama with the given extents, as transformers
// would write it.
func Config(hidden, width, layers, heads, kvHeads, vocab int, tied bool) []byte {
	b, err := json.MarshalIndent(map[string]any{
		"architectures":           []string{"LlamaForCausalLM"},
		"model_type":              "llama",
		"hidden_act":              "silu",
		"hidden_size":             hidden,
		"intermediate_size":       width,
		"num_hidden_layers":       layers,
		"num_attention_heads":     heads,
		"num_key_value_heads":     kvHeads,
		"vocab_size":              vocab,
		"max_position_embeddings": 2048,
		"rms_norm_eps":            1e-5,
		"rope_theta":              10000.0,
		"tie_word_embeddings":     tied,
		"torch_dtype":             "bfloat16",
	}, "", "  ")
	if err != nil {
		panic(err) // a map of plain values always encodes
	}
	return append(b, '\n')
}

// Write makes the checkpoint of a config in dir, with all weights of one type, in
// shards of at most shardBytes.
func Write(dir string, config []byte, d tensor.DType, seed uint64, shardBytes int64) error {
	cfg, err := arch.ParseConfig(config)
	if err != nil {
		return err
	}
	spec, err := arch.FromConfig(cfg)
	if err != nil {
		return err
	}
	sink, err := checkpoint.Create(dir, "", false)
	if err != nil {
		return err
	}
	defer sink.Abort()
	var infos []tensor.Info
	for _, t := range spec.Tensors() {
		infos = append(infos, tensor.Info{Name: t.Name, DType: d, Shape: t.Shape})
	}
	if err := sink.Layout(infos, shardBytes); err != nil {
		return err
	}
	for _, info := range infos {
		if err := Fill(info, seed, func(b []byte, off int64) error { return sink.WriteAt(info.Name, b, off) }); err != nil {
			return err
		}
	}
	return sink.Commit(config)
}

// Fill makes a tensor's bytes, a few megabytes at a time: norms near one, biases near
// zero, weights with a standard deviation of 1/sqrt(columns). They depend on the seed
// and the tensor's name alone.
func Fill(info tensor.Info, seed uint64, write func(b []byte, off int64) error) error {
	h := fnv.New64a()
	h.Write([]byte(info.Name))
	r := rand.NewPCG(seed, h.Sum64())
	mean, scale := float32(0), float32(1/math.Sqrt(float64(info.RowElements())))
	switch {
	case strings.Contains(info.Name, "norm"):
		mean, scale = 1, 0.1
	case strings.HasSuffix(info.Name, ".bias"):
		scale = 0.1
	}
	total, err := info.Shape.Elements()
	if err != nil {
		return err
	}
	const step = 1 << 20
	size := int64(info.DType.BlockBytes())
	values := make([]float32, min(total, step))
	bytes := make([]byte, int64(len(values))*size)
	table := normals()
	for at := int64(0); at < total; at += step {
		n := min(total-at, step)
		var bits uint64
		for i := range values[:n] {
			if i%4 == 0 {
				bits = r.Uint64()
			}
			values[i] = mean + scale*table[bits&0xffff]
			bits >>= 16
		}
		if err := tensor.Encode(bytes[:n*size], values[:n], info.DType); err != nil {
			return fmt.Errorf("tensor %q: %w", info.Name, err)
		}
		if err := write(bytes[:n*size], at*size); err != nil {
			return err
		}
	}
	return nil
}

// normals are 65,536 quantiles of the standard normal distribution, so that 16 random
// bits make a value.
var normals = sync.OnceValue(func() []float32 {
	t := make([]float32, 1<<16)
	for i := range t {
		t[i] = float32(math.Sqrt2 * math.Erfinv(2*(float64(i)+0.5)/float64(len(t))-1))
	}
	return t
})
