package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/gguf"
	"github.com/coppice-lm/coppice/internal/ggufwrite"
	"github.com/coppice-lm/coppice/safetensors"
	"github.com/coppice-lm/coppice/tensor"
)

// sparseModel makes the checkpoint of a config with all weights zero and no bytes on
// disk but the headers, in as many shards as asked for.
func sparseModel(t testing.TB, dir, config string, shards int) string {
	t.Helper()
	spec := specOf(t, config)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	tensors := spec.Tensors()
	index := map[string]string{}
	for s := range shards {
		name := "model.safetensors"
		if shards > 1 {
			name = fmt.Sprintf("model-%05d-of-%05d.safetensors", s+1, shards)
		}
		var infos []tensor.Info
		for _, at := range tensors[s*len(tensors)/shards : (s+1)*len(tensors)/shards] {
			infos = append(infos, tensor.Info{Name: at.Name, DType: tensor.BF16, Shape: at.Shape})
			index[at.Name] = name
		}
		prefix, entries, err := safetensors.EncodeHeader(map[string]string{"format": "pt"}, infos)
		if err != nil {
			t.Fatal(err)
		}
		sparseFile(t, filepath.Join(dir, name), prefix, entries[len(entries)-1].End)
	}
	if shards > 1 {
		writeJSON(t, filepath.Join(dir, "model.safetensors.index.json"), map[string]any{"weight_map": index})
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o666); err != nil {
		t.Fatal(err)
	}
	return dir
}

// sparseGGUF is the same as a GGUF file of F16 without a vocabulary.
func sparseGGUF(t testing.TB, path, config string) string {
	t.Helper()
	spec := specOf(t, config)
	number := func(key string, n int) gguf.KeyValue {
		return ggufwrite.Pair("llama."+key, gguf.Uint32Value(uint32(n)))
	}
	kv := []gguf.KeyValue{
		ggufwrite.Pair("general.architecture", gguf.StringValue("llama")),
		number("block_count", spec.Layers), number("context_length", spec.MaxPositions),
		number("embedding_length", spec.Hidden), number("feed_forward_length", spec.Intermediate),
		number("attention.head_count", spec.Heads), number("attention.head_count_kv", spec.KVHeads),
		ggufwrite.Pair("llama.attention.layer_norm_rms_epsilon", gguf.Float32Value(1e-5)),
	}
	var tensors []ggufwrite.Tensor
	for _, at := range spec.Tensors() {
		info := tensor.Info{Name: at.GGUF, DType: tensor.F16, Shape: at.Shape}
		n, err := info.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		tensors = append(tensors, ggufwrite.Tensor{Info: info, Data: make([]byte, n)})
	}
	b := ggufwrite.Build(kv, tensors, 3, 32)
	h, err := gguf.Read(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	sparseFile(t, path, b[:h.DataStart], int64(len(b)))
	return path
}

func specOf(t testing.TB, config string) arch.Spec {
	t.Helper()
	c, err := arch.ParseConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	spec, err := arch.FromConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func sparseFile(t testing.TB, path string, start []byte, size int64) {
	t.Helper()
	if err := os.WriteFile(path, start, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}
