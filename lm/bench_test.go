package lm_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/internal/shared"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/tokenizer"
)

// BenchmarkGenerate is the decoding speed of the real model.
func BenchmarkGenerate(b *testing.B) {
	path := modelPath(shared.Dir(b))
	for _, precision := range engine.Precisions() {
		for _, threads := range []int{1, 2} {
			b.Run(fmt.Sprintf("%v/%d", precision, threads), func(b *testing.B) {
				m, err := lm.Open(context.Background(), path, lm.Options{Precision: precision, Threads: threads})
				if err != nil {
					b.Fatal(err)
				}
				chat := []tokenizer.Message{{Role: "user", Content: "Tell me a long story about a tree."}}
				var tokens, seconds float64
				for b.Loop() {
					g, err := m.NewSession().Chat(context.Background(), chat, lm.GenerateOptions{MaxTokens: 64}, nil)
					if err != nil {
						b.Fatal(err)
					}
					tokens += float64(len(g.Tokens) - 1)
					seconds += g.DecodeTime.Seconds()
				}
				b.ReportMetric(tokens/seconds, "tokens/s")
			})
		}
	}
}

// BenchmarkScore is the speed of an evaluation's requests: 100 contexts of 60 tokens,
// each with four continuations of 5. Tokens are counted as given, prefixes again and
// again.
func BenchmarkScore(b *testing.B) {
	path := modelPath(shared.Dir(b))
	var requests []eval.TokenRequest
	tokens := 0
	for i := range int32(100) {
		context := make([]int32, 60)
		for j := range context {
			context[j] = (i*61 + int32(j)*17) % 40000
		}
		for k := range int32(4) {
			r := eval.TokenRequest{Context: context, Continuation: []int32{k + 100, 7, k + 9, 8, 1}}
			requests = append(requests, r)
			tokens += len(r.Context) + len(r.Continuation) - 1
		}
	}
	for _, precision := range []engine.Precision{engine.F32, engine.BF16} {
		for _, threads := range []int{1, 2} {
			b.Run(fmt.Sprintf("%v/%d", precision, threads), func(b *testing.B) {
				m, err := lm.Open(context.Background(), path, lm.Options{Precision: precision, Threads: threads})
				if err != nil {
					b.Fatal(err)
				}
				for b.Loop() {
					if err := m.Score(context.Background(), requests, func(int, eval.TokenResult) error { return nil }); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(tokens)*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
			})
		}
	}
}
