package lm

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/engine/enginetest"
	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/safetensors"
	"github.com/coppice-lm/coppice/tensor"
)

// writeModel writes a Hugging Face directory of a tiny model. change, if not nil, edits
// its tensors.
func writeModel(t *testing.T, config string, change func(weights map[string][]float32, shapes map[string]tensor.Shape)) string {
	t.Helper()
	m, err := enginetest.NewModel(config)
	if err != nil {
		t.Fatal(err)
	}
	weights, shapes := maps.Clone(m.Weights), map[string]tensor.Shape{}
	for name := range weights {
		info, _ := m.Lookup(name)
		shapes[name] = slices.Clone(info.Shape)
	}
	if change != nil {
		change(weights, shapes)
	}
	var infos []tensor.Info
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		infos = append(infos, tensor.Info{Name: name, DType: tensor.F32, Shape: shapes[name]})
	}
	file, entries, err := safetensors.EncodeHeader(map[string]string{"format": "pt"}, infos)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		for _, v := range weights[e.Name] {
			file = binary.LittleEndian.AppendUint32(file, math.Float32bits(v))
		}
	}
	tok, tokConfig := tinyTokenizerFiles(t)
	dir := t.TempDir()
	for name, b := range map[string][]byte{
		"config.json": []byte(config), "model.safetensors": file, "tokenizer.json": tok, "tokenizer_config.json": tokConfig,
		"generation_config.json": []byte(`{"eos_token_id": [3, 256]}`),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func tinyConfig(keys map[string]any) string {
	all := map[string]any{"vocab_size": 258}
	maps.Copy(all, keys)
	return enginetest.With(enginetest.TinyLlama, all)
}

// A model that is opened from a directory is the model that was written.
func TestOpen(t *testing.T) {
	m, err := Open(context.Background(), writeModel(t, tinyConfig(nil), nil), Options{Threads: 1, Identify: true})
	if err != nil {
		t.Fatal(err)
	}
	requests := someRequests(20)
	if want := run(t, tinyModel(t, nil, nil), requests); !slices.Equal(run(t, m, requests), want) {
		t.Error("the opened model scores otherwise than the one in memory")
	}
	info := m.Info()
	if info.DType != "f32" || info.MaxLength != 256 || info.Bytes != 4*info.Parameters || info.Parameters != 2*258*32+3*(2*32*32+2*16*32+3*48*32+2*32)+32 {
		t.Errorf("info %+v", info)
	}
	if info.BOS == nil || *info.BOS != (eval.Token{ID: tinyBOS, Text: "<s>"}) || info.EOS == nil || info.EOS.ID != tinyEnd {
		t.Errorf("BOS %v, EOS %v", info.BOS, info.EOS)
	}
	if !slices.Equal(m.ends, []int32{3, tinyEnd}) {
		t.Errorf("a text ends with %v, expected what generation_config.json says", m.ends)
	}
	// Results and ledgers of earlier releases name their models by this.
	if want := "sha256:af030854de942a1f7d0652ef8559f71f96428de525f40e59ac7bfa81b17195d8"; info.Weights != want {
		t.Errorf("the model's fingerprint is %s, was %s: results of it would no longer be found to be its own", info.Weights, want)
	}
	for what, keys := range map[string]map[string]any{
		"computation": {"rope_theta": 77.0},
		"weights":     {"tie_word_embeddings": true},
	} {
		other, err := Open(context.Background(), writeModel(t, tinyConfig(keys), nil), Options{Threads: 1, Identify: true})
		if err != nil {
			t.Fatal(err)
		}
		if other.Info().Weights == info.Weights || other.Info().Tokenizer != info.Tokenizer {
			t.Errorf("another %s: fingerprints %v and %v", what, other.Info(), info)
		}
	}
}

// A head that differs from the embedding is used though the config says tied
// (vllm#51665).
func TestOpenTiedWithOtherHead(t *testing.T) {
	head := func(factor float32) []eval.TokenResult {
		dir := writeModel(t, tinyConfig(map[string]any{"tie_word_embeddings": true}), func(w map[string][]float32, s map[string]tensor.Shape) {
			const embed, head = "model.embed_tokens.weight", "lm_head.weight"
			if factor != 0 {
				w[head], s[head] = slices.Clone(w[embed]), s[embed]
				for i := range w[head] {
					w[head][i] *= factor
				}
			}
		})
		m, err := Open(context.Background(), dir, Options{Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		return run(t, m, someRequests(5))
	}
	tied := head(0)
	if !slices.Equal(head(1), tied) {
		t.Error("a head equal to the embedding changes results")
	}
	if slices.Equal(head(2), tied) {
		t.Error("a head twice the embedding is not used")
	}
}

func TestOpenErrors(t *testing.T) {
	open := func(dir string) error {
		_, err := Open(context.Background(), dir, Options{Threads: 1})
		return err
	}
	for name, tt := range map[string]struct {
		dir  func() string
		want []string
	}{
		// vllm#31454: pruned elsewhere, one width in the config, another in each layer.
		"widths": {func() string {
			return writeModel(t, tinyConfig(nil), func(w map[string][]float32, s map[string]tensor.Shape) {
				for _, part := range []string{"gate_proj", "up_proj", "down_proj"} {
					n := "model.layers.1.mlp." + part + ".weight"
					w[n], s[n] = w[n][:32*32], tensor.Shape{32, 32}
				}
			})
		}, []string{"layer 1", "32", "48"}},
		"rope type": {func() string {
			dir := writeModel(t, tinyConfig(nil), nil)
			replace(t, dir, "config.json", tinyConfig(map[string]any{"rope_scaling": map[string]any{"rope_type": "spiral"}}))
			return dir
		}, []string{"spiral", "rope_scaling"}},
		"activation": {func() string {
			dir := writeModel(t, tinyConfig(nil), nil)
			replace(t, dir, "config.json", tinyConfig(map[string]any{"hidden_act": "relu6"}))
			return dir
		}, []string{"relu6", "hidden_act"}},
		"no tokenizer": {func() string {
			dir := writeModel(t, tinyConfig(nil), nil)
			if err := os.Remove(filepath.Join(dir, "tokenizer.json")); err != nil {
				t.Fatal(err)
			}
			return dir
		}, []string{"tokenizer.json"}},
		"end tokens": {func() string {
			dir := writeModel(t, tinyConfig(nil), nil)
			replace(t, dir, "generation_config.json", `{"eos_token_id": "end"}`)
			return dir
		}, []string{"generation_config.json", "eos_token_id"}},
		"no such directory": {func() string { return filepath.Join(t.TempDir(), "none") }, []string{"none"}},
	} {
		err := open(tt.dir())
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		for _, w := range tt.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: the error %q does not name %q", name, err, w)
			}
		}
	}
}

func replace(t *testing.T, dir, name, text string) {
	t.Helper()
	if !json.Valid([]byte(text)) {
		t.Fatalf("%s: not JSON", name)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
