package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/safetensors"
	"github.com/coppice-lm/coppice/tensor"
)

// writeShard writes one safetensors file.
func writeShard(t testing.TB, path string, infos []tensor.Info, data func(tensor.Info) []byte) {
	t.Helper()
	b, _, err := safetensors.EncodeHeader(map[string]string{"format": "pt"}, infos)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		b = append(b, data(i)...)
	}
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
}

// llama.cpp#17286, vllm#54230: files and tensors beside the indexed ones were read too.
func TestReportIndex(t *testing.T) {
	dir := t.TempDir()
	config, err := synthConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	spec := specOf(t, string(config.Bytes()))
	var all []tensor.Info
	for _, at := range spec.Tensors() {
		all = append(all, tensor.Info{Name: at.Name, DType: tensor.BF16, Shape: at.Shape})
	}
	good := func(i tensor.Info) []byte { return random(t, i) }
	stale := func(i tensor.Info) []byte { b := random(t, i); return append(b[2:], b[:2]...) }
	in := filepath.Join(dir, "in")
	if err := os.Mkdir(in, 0o777); err != nil {
		t.Fatal(err)
	}
	half := len(all) / 2
	writeShard(t, filepath.Join(in, "a.safetensors"), all[:half], good)
	writeShard(t, filepath.Join(in, "b.safetensors"), append(all[half:len(all):len(all)], all[0]), func(i tensor.Info) []byte {
		if i.Name == all[0].Name {
			return stale(i)
		}
		return good(i)
	})
	writeShard(t, filepath.Join(in, "consolidated.safetensors"), all, stale)
	if err := os.WriteFile(filepath.Join(in, "config.json"), config.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	weightMap := map[string]string{}
	for k, i := range all {
		weightMap[i.Name] = "a.safetensors"
		if k >= half {
			weightMap[i.Name] = "b.safetensors"
		}
	}
	plain := filepath.Join(dir, "plain")
	succeed(t, "prune", writeModel(t, filepath.Join(dir, "whole"), config.Bytes(), all, good), "-o", plain, "--ratio", "0.5", "--max-shard-size", "50kB")
	for name, metadata := range map[string]any{"absent": nil, "wrong": map[string]any{"total_size": 1}, "odd": map[string]any{"total_size": "many"}} {
		writeJSON(t, filepath.Join(in, "model.safetensors.index.json"), map[string]any{"metadata": metadata, "weight_map": weightMap})
		out := filepath.Join(dir, name)
		succeed(t, "prune", in, "-o", out, "--ratio", "0.5", "--max-shard-size", "50kB")
		// The order of the tensors may differ with the files; what they hold may not.
		a, b := open(t, plain), open(t, out)
		for _, i := range a.Tensors() {
			_, want := readTensor(t, a, i.Name)
			if _, got := readTensor(t, b, i.Name); !bytes.Equal(got, want) {
				t.Errorf("total_size %s: tensor %q is not that of the indexed file", name, i.Name)
			}
		}
		raw, err := os.ReadFile(filepath.Join(out, "model.safetensors.index.json"))
		if err != nil {
			t.Fatal(err)
		}
		var index struct {
			Metadata struct {
				TotalSize int64 `json:"total_size"`
			} `json:"metadata"`
			WeightMap map[string]string `json:"weight_map"`
		}
		decode(t, string(raw), &index)
		if index.Metadata.TotalSize != b.Bytes() || len(index.WeightMap) != len(all) {
			t.Errorf("total_size %s: the output's index says %d bytes and %d tensors, want %d and %d", name, index.Metadata.TotalSize, len(index.WeightMap), b.Bytes(), len(all))
		}
		if _, err := os.Stat(filepath.Join(out, "consolidated.safetensors")); err == nil {
			t.Error("a file of weights beside the indexed ones was copied")
		}
	}
}

// modelaudit#1607, safetensors#823: strict readers reject valid files.
func TestReportHeader(t *testing.T) {
	source := makeModel(t, filepath.Join(t.TempDir(), "m"), "layers=1")
	whole, err := os.ReadFile(filepath.Join(source, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	n := int(binary.LittleEndian.Uint64(whole))
	header, data := strings.TrimSpace(string(whole[8:8+n])), whole[8+n:]
	const metadata = `"__metadata__":{"format":"pt"}`
	if !strings.Contains(header, metadata) {
		t.Fatalf("no %s in %s", metadata, header)
	}
	end := len(data)
	for _, tc := range []struct {
		name, metadata, tensor string
		bytes                  int    // after the model's
		refused                string // the message, or "" if the file is valid
	}{
		{"empty tensor", metadata, fmt.Sprintf(`"x":{"dtype":"F32","shape":[0,4],"data_offsets":[%d,%d]}`, end, end), 0, ""},
		{"scalar", metadata, fmt.Sprintf(`"x":{"dtype":"F32","shape":[],"data_offsets":[%d,%d]}`, end, end+4), 4, ""},
		{"empty metadata", `"__metadata__":{}`, "", 0, ""},
		{"null metadata", `"__metadata__":null`, "", 0, ""},
		{"one element in no bytes", metadata, fmt.Sprintf(`"x":{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}`, end, end), 0, `tensor "x": F32 of shape \[1\] takes 4 bytes`},
		{"hole", metadata, fmt.Sprintf(`"x":{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}`, end+4, end+8), 8, `tensor "x": .* leave a hole`},
		{"number in metadata", `"__metadata__":{"n":1}`, "", 0, `__metadata__: the value of "n"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in, out := filepath.Join(t.TempDir(), "in"), filepath.Join(t.TempDir(), "out")
			text := strings.Replace(header, metadata, tc.metadata, 1)
			if tc.tensor != "" {
				text = strings.TrimSuffix(text, "}") + "," + tc.tensor + "}"
			}
			if err := writeSafetensors(filepath.Join(in, "model.safetensors"), text, 0); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(filepath.Join(in, "model.safetensors"), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.Write(append(bytes.Clone(data), make([]byte, tc.bytes)...)); err != nil {
				t.Fatal(err)
			}
			config, err := os.ReadFile(filepath.Join(source, "config.json"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(in, "config.json"), config, 0o666); err != nil {
				t.Fatal(err)
			}
			if tc.refused != "" {
				refuse(t, exitInput, []string{tc.refused}, "prune", in, "-o", out, "--ratio", "0.5")
				return
			}
			succeed(t, "inspect", in)
			for _, dtype := range []string{"same", "f32"} {
				succeed(t, "prune", in, "-o", out, "--ratio", "0.5", "--dtype", dtype, "--force")
				succeed(t, "verify", out, "--against", in)
				if tc.tensor == "" {
					continue
				}
				before, _ := open(t, in).Lookup("x")
				if after, ok := open(t, out).Lookup("x"); !ok || !after.Shape.Equal(before.Shape) {
					t.Errorf("tensor x of shape %v came out as %v, %v", before.Shape, after.Shape, ok)
				}
			}
		})
	}
}

// TensorRT-Model-Connect#1115: F8 weights were cast without their block scales.
func TestReportF8(t *testing.T) {
	config, err := synthConfig([]string{"hidden=4", "width=4", "heads=1", "kv=1", "layers=1", "vocab=8"})
	if err != nil {
		t.Fatal(err)
	}
	spec := specOf(t, string(config.Bytes()))
	const gate = "model.layers.0.mlp.gate_proj.weight"
	var infos []tensor.Info
	for _, at := range spec.Tensors() {
		i := tensor.Info{Name: at.Name, DType: tensor.BF16, Shape: at.Shape}
		if len(at.Shape) == 2 && strings.Contains(at.Name, "proj") {
			i.DType = tensor.F8E4M3
		}
		infos = append(infos, i)
	}
	data := func(i tensor.Info) []byte {
		switch i.DType {
		case tensor.F8E4M3:
			b := make([]byte, 16)
			for k := range b {
				b[k] = byte(0x30 + k) // 0.5 and up
			}
			return b
		case tensor.F32:
			return encode(t, []float32{0.01})
		}
		return random(t, i)
	}
	for _, scale := range []string{"weight_scale_inv", "weight_scale", "scale"} {
		name := strings.TrimSuffix(gate, "weight") + scale
		in := writeModel(t, filepath.Join(t.TempDir(), "in"), config.Bytes(), append(infos[:len(infos):len(infos)], tensor.Info{Name: name, DType: tensor.F32, Shape: tensor.Shape{1, 1}}), data)
		for _, args := range [][]string{{"inspect", in}, {"prune", in, "-o", in + "out", "--ratio", "0.5", "--dtype", "f16"}} {
			refuse(t, exitInput, []string{`tensor "` + name + `" shows a quantised checkpoint`, "prune the unquantised original"}, args...)
		}
	}
	// Without scales the values are what they say.
	in, out := writeModel(t, filepath.Join(t.TempDir(), "in"), config.Bytes(), infos, data), filepath.Join(t.TempDir(), "out")
	succeed(t, "prune", in, "-o", out, "--width", "4", "--dtype", "f32")
	if _, b := readTensor(t, open(t, out), gate); floats(t, b)[0] != 0.5 || floats(t, b)[8] != 1 {
		t.Errorf("0x30 and 0x38 became %v and %v, want 0.5 and 1", floats(t, b)[0], floats(t, b)[8])
	}
	succeed(t, "prune", in, "-o", out, "--ratio", "0.5", "--force")
	if i, _ := open(t, out).Lookup(gate); i.DType != tensor.F8E4M3 || i.Rows() != 2 {
		t.Errorf("gate_proj came out as %v %v", i.DType, i.Shape)
	}
	// A quantization_config alone is enough to refuse them.
	c := open(t, in).Config
	if err := c.Set("quantization_config", map[string]string{"quant_method": "fp8"}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(in, "config.json"), c.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	refuse(t, exitInput, []string{`quantization_config: fp8`, "prune the unquantised original"}, "inspect", in)
}
