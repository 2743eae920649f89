package tokenizer

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/internal/shared"
)

// BenchmarkEncode encodes WikiText-2's test text, whole and in one goroutine.
func BenchmarkEncode(b *testing.B) {
	text, err := os.ReadFile(filepath.Join(shared.Dir(b), "data/wikitext2/wiki.test.raw"))
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name string
		load func(testing.TB) *Tokenizer
	}{{"smollm", smolLM}, {"llama3", llama3}, {"llama2", llama2}, {"gpt2", gpt2}} {
		b.Run(c.name, func(b *testing.B) {
			tok := c.load(b)
			s := string(text)
			b.SetBytes(int64(len(s)))
			b.ReportAllocs()
			for b.Loop() {
				tok.Encode(s, false)
			}
		})
	}
}

// BenchmarkEncodeGenerated encodes text that needs no data: 100,000 words of which the
// common ones are short and many are rare, so that the word cache misses too.
func BenchmarkEncodeGenerated(b *testing.B) {
	rng := rand.New(rand.NewPCG(3, 4))
	var text strings.Builder
	for range 100_000 {
		n := 1 + int(rng.ExpFloat64()*4)
		for range n {
			text.WriteByte("etaoinhsrd"[rng.IntN(2+min(n, 8))])
		}
		text.WriteString([]string{" ", " ", " ", ", ", "'s ", ".\n", " 12 ", " é"}[rng.IntN(8)])
	}
	tok := allBytes(b, patternLlama3, false)
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		tok.Encode(text.String(), false)
	}
}

// BenchmarkLoad loads SmolLM2's tokenizer from its GGUF file, already read.
func BenchmarkLoad(b *testing.B) {
	f := openGGUF(b, filepath.Join(shared.Dir(b), "models", "SmolLM2-135M-Instruct.Q4_1.gguf"))
	files, err := FilesFromGGUF(f)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Load(files[tokenizerFile], files[configFile]); err != nil {
			b.Fatal(err)
		}
	}
}
