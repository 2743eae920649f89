package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/internal/synth"
	"github.com/coppice-lm/coppice/tensor"
)

// calibrationText writes n documents as JSON Lines.
func calibrationText(t testing.TB, n int, words string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "text.jsonl")
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{\"text\": \"%d %s\"}\n", i, strings.Repeat(fmt.Sprintf("%s %d. ", words, i), 20))
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// Neurons that all do the same make H singular: a ridge that is lost beside it is an error
// that names the layer and what helps, and the defaults get by.
func TestSingular(t *testing.T) {
	m := rewrite(t, textModel(t), nil, func(c *checkpoint.Checkpoint, info tensor.Info) []named {
		v := values(t, c, info.Name)
		if strings.Contains(info.Name, "layers.1.mlp.gate") || strings.Contains(info.Name, "layers.1.mlp.up") {
			n := info.RowElements()
			v = slices.Repeat(v[:n], info.Rows())
		}
		return []named{{info.Name, info.Shape, v}}
	})
	dir := t.TempDir()
	stats := filepath.Join(dir, "stats")
	succeed(t, "calib", m, "--calib", calibrationText(t, 40, "words of a document"), "--tokens", "2000", "--ctx", "64", "-o", stats, "--quiet")
	for _, method := range []string{"obs", "leverage"} {
		refuse(t, exitInput, []string{"layer 1: .*more calibration text or a larger damping helps"},
			"score", m, "--method", method, "--damping", "1e-300", "--stats", stats, "-o", filepath.Join(dir, "scores"))
	}
	out := filepath.Join(dir, "out")
	refuse(t, exitInput, []string{"layer 1: the refit cannot be solved: .*more calibration text or a larger --refit-damping helps"},
		"prune", m, "-o", out, "--ratio", "0.1", "--align", "1", "--method", "activation", "--refit", "least-squares", "--refit-damping", "1e-300", "--stats", stats)
	succeed(t, "prune", m, "-o", out, "--ratio", "0.6", "--method", "best", "--stats", stats, "--quiet")
	succeed(t, "verify", out, "--against", m, "--stats", stats)
}

// Text that the tokenizer was not made for gives few bytes a token, which is said.
func TestForeignText(t *testing.T) {
	const vocab = 1400
	m := rewrite(t, textModel(t), map[string]any{"vocab_size": vocab}, func(c *checkpoint.Checkpoint, info tensor.Info) []named {
		if info.Name != "model.embed_tokens.weight" {
			return same(t, c, info)
		}
		n := info.RowElements()
		v := values(t, c, info.Name)
		return []named{{info.Name, tensor.Shape{vocab, n}, append(v, make([]float32, (vocab-info.Rows())*n)...)}}
	})
	var file map[string]any
	if err := json.Unmarshal(synth.Tokenizer(), &file); err != nil {
		t.Fatal(err)
	}
	words := file["model"].(map[string]any)["vocab"].(map[string]any)
	for i := range 1100 {
		words[fmt.Sprintf("word%d", i)] = synth.VocabSize + i
	}
	b, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m, "tokenizer.json"), b, 0o666); err != nil {
		t.Fatal(err)
	}
	args := []string{"calib", m, "--calib", calibrationText(t, 40, "鴨と文"), "--tokens", "2000", "--ctx", "64", "-o", filepath.Join(t.TempDir(), "stats")}
	if r := succeed(t, args...); !strings.Contains(r.stderr, " bytes a token: it may be in a language") {
		t.Errorf("said %q", r.stderr)
	}
}
