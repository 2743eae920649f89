package gguf_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/gguf"
	w "github.com/coppice-lm/coppice/internal/ggufwrite"
	"github.com/coppice-lm/coppice/internal/shared"
	"github.com/coppice-lm/coppice/tensor"
)

// openReal opens the real model, or skips.
func openReal(t testing.TB) (*os.File, int64) {
	t.Helper()
	f, err := os.Open(filepath.Join(shared.Dir(t), "models", "SmolLM2-135M-Instruct.Q4_1.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return f, info.Size()
}

// The facts are those that GGUFReader of the Python package gguf 0.19.0 reports of the
// file: fields[key].contents() and tensors.
func TestRealModel(t *testing.T) {
	r, size := openReal(t)
	f, err := gguf.Read(r, size)
	if err != nil {
		t.Fatal(err)
	}
	if f.Version != 3 || f.Alignment != 32 || f.DataStart != 1785664 || len(f.KV) != 33 || len(f.Tensors) != 272 {
		t.Errorf("version %d, alignment %d, data from %d, %d keys, %d tensors",
			f.Version, f.Alignment, f.DataStart, len(f.KV), len(f.Tensors))
	}
	if first, last := f.KV[0].Key, f.KV[32].Key; first != "general.architecture" || last != "general.quantization_version" {
		t.Errorf("keys from %s to %s", first, last)
	}
	check(t, "String", f.String, map[string]any{
		"general.architecture": "llama", "general.name": "Smollm2 135M 8k Lc100K Mix1 Ep2",
		"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
	})
	check(t, "Uint", f.Uint, map[string]any{
		"llama.block_count": uint64(30), "llama.embedding_length": uint64(576), "llama.feed_forward_length": uint64(1536),
		"llama.attention.head_count": uint64(9), "llama.attention.head_count_kv": uint64(3), "llama.vocab_size": uint64(49152),
		"tokenizer.ggml.eos_token_id": uint64(2), "general.file_type": uint64(3),
	})
	check(t, "Float", f.Float, map[string]any{
		"llama.rope.freq_base": 100000.0, "llama.attention.layer_norm_rms_epsilon": 9.999999747378752e-06,
	})
	check(t, "Bool", f.Bool, map[string]any{"tokenizer.ggml.add_bos_token": false})
	check(t, "Strings", f.Strings, map[string]any{"general.languages": []string{"en"}})

	tokens, err := f.Strings("tokenizer.ggml.tokens")
	if err != nil || len(tokens) != 49152 || tokens[1] != "<|im_start|>" || tokens[49150] != "ĠMama" || tokens[49151] != "ectable" {
		t.Errorf("%d tokens, %v", len(tokens), err)
	}
	merges, err := f.Strings("tokenizer.ggml.merges")
	if err != nil || len(merges) != 48900 || merges[0] != "Ġ t" || merges[48899] != "ect able" {
		t.Errorf("%d merges, %v", len(merges), err)
	}
	kinds, err := f.Ints("tokenizer.ggml.token_type")
	if err != nil || len(kinds) != 49152 || kinds[3] != 3 || kinds[49151] != 1 {
		t.Errorf("%d token types, %v", len(kinds), err)
	}

	// at is a tensor with its file range, as data_offset and n_bytes give it.
	at := func(name string, d tensor.DType, begin, bytes int64, shape ...int) gguf.Entry {
		return gguf.Entry{Info: tensor.Info{Name: name, DType: d, Shape: shape}, Begin: begin, End: begin + bytes}
	}
	for i, want := range map[int]gguf.Entry{
		0:   at("token_embd.weight", tensor.Q8_0, 1785664, 30081024, 49152, 576),
		1:   at("blk.0.attn_norm.weight", tensor.F32, 31866688, 2304, 576),
		2:   at("blk.0.ffn_down.weight", tensor.Q4_1, 31868992, 552960, 576, 1536),
		3:   at("blk.0.ffn_gate.weight", tensor.Q4_1, 32421952, 552960, 1536, 576),
		270: at("blk.9.attn_v.weight", tensor.Q4_1, 98291008, 69120, 192, 576),
		271: at("output_norm.weight", tensor.F32, 98360128, 2304, 576),
	} {
		if diff := cmp.Diff(want, f.Tensors[i]); diff != "" {
			t.Error(diff)
		}
	}
	count := map[tensor.DType]int{}
	for _, e := range f.Tensors {
		count[e.DType]++
	}
	if diff := cmp.Diff(map[tensor.DType]int{tensor.Q4_1: 210, tensor.F32: 61, tensor.Q8_0: 1}, count); diff != "" {
		t.Error(diff)
	}
}

// Every prefix of the real header that a lazy copy might leave is refused.
func TestRealModelTruncated(t *testing.T) {
	r, size := openReal(t)
	for _, n := range []int64{0, 3, 23, 1000, 1 << 20, 1785663, 1785664, size / 2, size - 1} {
		if _, err := gguf.Read(r, n); err == nil {
			t.Errorf("%d of %d bytes are accepted", n, size)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	// Vocabulary of the size of Gemma's, with as many merges again.
	list := make([]string, 262_144)
	for i := range list {
		list[i] = "token "[:i%7]
	}
	large := w.Build([]gguf.KeyValue{
		w.Pair("tokenizer.ggml.tokens", gguf.StringsValue(list...)),
		w.Pair("tokenizer.ggml.merges", gguf.StringsValue(list...)),
		w.Pair("tokenizer.ggml.token_type", gguf.Int32sValue(make([]int32, len(list))...)),
	}, nil, 3, 32)
	b.Run("vocabulary=262144", func(b *testing.B) {
		b.SetBytes(int64(len(large)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := read(large); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("SmolLM2-135M", func(b *testing.B) {
		r, size := openReal(b)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := gguf.Read(r, size); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("SmolLM2-135M/Strings", func(b *testing.B) {
		r, size := openReal(b)
		f, err := gguf.Read(r, size)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := f.Strings("tokenizer.ggml.tokens"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
