package tokenizer

import (
	"os"
	"path/filepath"
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
