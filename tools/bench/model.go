//go:build linux

package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/coppice-lm/coppice/safetensors"
	"github.com/coppice-lm/coppice/tensor"
)

// The shapes of Llama-3.2-3B.
const (
	fullLayers = 28
	hidden     = 3072
	width      = 8192
	heads      = 24
	kvHeads    = 8
	headDim    = 128
	vocabulary = 128256
)

const configFormat = `{
  "architectures": [
    "LlamaForCausalLM"
  ],
  "attention_bias": false,
  "attention_dropout": 0.0,
  "bos_token_id": 128000,
  "eos_token_id": 128001,
  "head_dim": %d,
  "hidden_act": "silu",
  "hidden_size": %d,
  "initializer_range": 0.02,
  "intermediate_size": %d,
  "max_position_embeddings": 131072,
  "mlp_bias": false,
  "model_type": "llama",
  "num_attention_heads": %d,
  "num_hidden_layers": %d,
  "num_key_value_heads": %d,
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
  "vocab_size": %d
}
`

// matrix is one tensor of the checkpoint: rows x columns of bfloat16; a norm is one row.
type matrix struct {
	name          string
	rows, columns int
}

func (m matrix) bytes() int64 { return 2 * int64(m.rows) * int64(m.columns) }

// isMLPInput tells the tensors whose rows are scored.
func (m matrix) isMLPInput() bool {
	return strings.HasSuffix(m.name, "gate_proj.weight") || strings.HasSuffix(m.name, "up_proj.weight")
}

// tensors lists the checkpoint in file order, with MLPs of the given width.
func tensors(layers, width int) []matrix {
	list := []matrix{{"model.embed_tokens.weight", vocabulary, hidden}}
	for layer := range layers {
		for _, m := range []matrix{
			{"input_layernorm", 1, hidden},
			{"mlp.down_proj", hidden, width},
			{"mlp.gate_proj", width, hidden},
			{"mlp.up_proj", width, hidden},
			{"post_attention_layernorm", 1, hidden},
			{"self_attn.k_proj", kvHeads * headDim, hidden},
			{"self_attn.o_proj", hidden, heads * headDim},
			{"self_attn.q_proj", heads * headDim, hidden},
			{"self_attn.v_proj", kvHeads * headDim, hidden},
		} {
			m.name = fmt.Sprintf("model.layers.%d.%s.weight", layer, m.name)
			list = append(list, m)
		}
	}
	return append(list, matrix{"model.norm.weight", 1, hidden})
}

// parameters counts the values of the checkpoint with MLPs of the given width.
func parameters(layers, width int) int64 {
	var n int64
	for _, m := range tensors(layers, width) {
		n += m.bytes() / 2
	}
	return n
}

// modelBytes is the size of the checkpoint's weights.
func modelBytes(layers int) int64 { return 2 * parameters(layers, width) }

// scoredBytes is what weight-only scoring has to read: gate and up of every layer.
func scoredBytes(layers int) int64 {
	var n int64
	for _, m := range tensors(layers, width) {
		if m.isMLPInput() {
			n += m.bytes()
		}
	}
	return n
}

// modelDir is where the checkpoint of the options is kept.
func modelDir(o options) string {
	return filepath.Join(o.dir, fmt.Sprintf("llama-3b-shape-%dl", o.layers))
}

// makeModel writes the checkpoint as two shards with an index. The directory appears
// under its name when it is whole.
func makeModel(dir string, layers int) error {
	part := dir + ".part"
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	if err := os.MkdirAll(part, 0o755); err != nil {
		return err
	}
	list := tensors(layers, width)
	// As published: shards of at most 5 GB, of which the first is full.
	first, n := modelBytes(layers)*77/100, int64(0)
	split := 0
	for n+list[split].bytes() <= first {
		n += list[split].bytes()
		split++
	}
	weightMap := map[string]string{}
	for i, shard := range [][]matrix{list[:split], list[split:]} {
		file := fmt.Sprintf("model-%05d-of-00002.safetensors", i+1)
		if err := writeShard(filepath.Join(part, file), shard); err != nil {
			return err
		}
		for _, m := range shard {
			weightMap[m.name] = file
		}
	}
	index, err := json.MarshalIndent(map[string]any{
		"metadata":   map[string]int64{"total_size": modelBytes(layers)},
		"weight_map": weightMap,
	}, "", "  ")
	if err != nil {
		return err
	}
	config := fmt.Sprintf(configFormat, headDim, hidden, width, heads, layers, kvHeads, vocabulary)
	for file, content := range map[string][]byte{
		"model.safetensors.index.json": index,
		"config.json":                  []byte(config),
	} {
		if err := os.WriteFile(filepath.Join(part, file), content, 0o644); err != nil {
			return err
		}
	}
	return os.Rename(part, dir)
}

// writeShard writes a safetensors file.
func writeShard(path string, list []matrix) error {
	var infos []tensor.Info
	for _, m := range list {
		shape := tensor.Shape{m.rows, m.columns}
		if m.rows == 1 {
			shape = shape[1:]
		}
		infos = append(infos, tensor.Info{Name: m.name, DType: tensor.BF16, Shape: shape})
	}
	prefix, entries, err := safetensors.EncodeHeader(map[string]string{"format": "pt"}, infos)
	if err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(prefix); err != nil {
		return err
	}
	for i, m := range list {
		if err := writeRandom(file, entries[i].Begin, m); err != nil {
			return err
		}
	}
	return file.Close()
}

// writeRandom writes a tensor's values at offset, by all cores. A row's values depend on
// its tensor and number alone, so the file is the same however the work is shared out.
func writeRandom(file *os.File, offset int64, m matrix) error {
	const rowsAtOnce = 256
	var seed uint64
	for _, c := range m.name {
		seed = seed*131 + uint64(c)
	}
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			buffer := make([]byte, rowsAtOnce*2*m.columns)
			for failed.Load() == nil {
				row := int(next.Add(rowsAtOnce)) - rowsAtOnce
				if row >= m.rows {
					return
				}
				n := min(rowsAtOnce, m.rows-row)
				for i := range n {
					fillRow(buffer[i*2*m.columns:][:2*m.columns], seed+uint64(row+i)<<32, m)
				}
				if _, err := file.WriteAt(buffer[:n*2*m.columns], offset+int64(row)*int64(2*m.columns)); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	workers.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// fillRow writes one row of values that look like a trained model's to everything here
// that is measured: bell-shaped around zero with a deviation of about 0.02, and rows of
// gate and up of different reach, so that the neurons kept lie scattered as they do in
// real models. Norms are around one.
func fillRow(row []byte, seed uint64, m matrix) {
	const deviation = 37837 // of a sum of four numbers drawn evenly from 0..65535
	state := seed*0x9E3779B97F4A7C15 + 1
	scale, shift := float32(0.02/deviation), float32(0)
	if m.rows == 1 {
		shift = 1
	}
	if m.isMLPInput() {
		scale *= 1 + 0.15*bell(&state)/deviation
	}
	for i := 0; i < len(row); i += 2 {
		bits := math.Float32bits(bell(&state)*scale + shift)
		bits += 0x7FFF + bits>>16&1 // to the nearest bfloat16, ties to even
		binary.LittleEndian.PutUint16(row[i:], uint16(bits>>16))
	}
}

// bell returns the sum of four even draws, centred: nearly normal, and cheap.
func bell(state *uint64) float32 {
	*state += 0x9E3779B97F4A7C15 // splitmix64
	x := *state
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	x ^= x >> 31
	sum := x&0xFFFF + x>>16&0xFFFF + x>>32&0xFFFF + x>>48
	return float32(int64(sum) - 2*0xFFFF)
}
