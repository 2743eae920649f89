//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/internal/synth"
	"github.com/coppice-lm/coppice/tensor"
)

// The extents of Llama-3.2-3B that are reckoned with here; the others stand in the config.
const (
	fullLayers = 28
	hidden     = 3072
	width      = 8192
)

// configFormat is Llama-3.2-3B's config.json, but for the width and the layers.
const configFormat = `{
  "architectures": [
    "LlamaForCausalLM"
  ],
  "attention_bias": false,
  "attention_dropout": 0.0,
  "bos_token_id": 128000,
  "eos_token_id": 128001,
  "head_dim": 128,
  "hidden_act": "silu",
  "hidden_size": 3072,
  "initializer_range": 0.02,
  "intermediate_size": %[1]d,
  "max_position_embeddings": 131072,
  "mlp_bias": false,
  "model_type": "llama",
  "num_attention_heads": 24,
  "num_hidden_layers": %[2]d,
  "num_key_value_heads": 8,
  "pretraining_tp": 1,
  "rms_norm_eps": 1e-05,
  "rope_scaling": {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3"
  },
  "rope_theta": 500000.0,
  "tie_word_embeddings": true,
  "torch_dtype": "bfloat16",
  "use_cache": true,
  "vocab_size": 128256
}
`

func config(layers, width int) []byte {
	return fmt.Appendf(nil, configFormat, width, layers)
}

// parameters counts the values of the checkpoint with MLPs of the given width.
func parameters(layers, width int) (int64, error) {
	c, err := arch.ParseConfig(config(layers, width))
	if err != nil {
		return 0, err
	}
	spec, err := arch.FromConfig(c)
	if err != nil {
		return 0, err
	}
	_, total := spec.Parameters()
	return total, nil
}

// scoredBytes is what weight-only scoring has to read: gate and up of every layer, in
// bfloat16.
func scoredBytes(layers int) int64 { return 2 * 2 * int64(layers) * width * hidden }

// modelDir is where the checkpoint of the options is kept.
func modelDir(o options) string {
	return filepath.Join(o.dir, fmt.Sprintf("llama-3b-shape-%dl", o.layers))
}

// makeModel writes the checkpoint as two shards with an index, the first of them of
// 5 GB at full size, as published.
func makeModel(dir string, layers int) error {
	n, err := parameters(layers, width)
	if err != nil {
		return err
	}
	if err := synth.Write(dir, config(layers, width), tensor.BF16, 1, 2*n*78/100); err != nil {
		return err
	}
	shards, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	for _, shard := range shards {
		err = errors.Join(err, writeAsDownloaded(shard))
	}
	return err
}

// downloadBytes is what the Hub's downloader writes at a time (huggingface_hub,
// constants.DOWNLOAD_CHUNK_SIZE).
const downloadBytes = 10 << 20

// writeAsDownloaded writes a file again as a download does. The page cache keeps a file in
// units no larger than the writes that made it, and how fast it can be read depends on them.
func writeAsDownloaded(path string) error {
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.Create(filepath.Dir(path) + ".again")
	if err != nil {
		return err
	}
	defer to.Close()
	// Hiding what the files can do besides keeps the kernel from copying in its own steps.
	_, err = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, downloadBytes))
	if err = errors.Join(err, to.Sync()); err != nil {
		return err
	}
	return os.Rename(to.Name(), path)
}
