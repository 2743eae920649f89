// Package enginetest is the suite that every engine passes: that it computes what
// transformers computes, for every family; that results do not depend on batches,
// shared prefixes or threads; that decoding agrees with scoring; that what is
// equivalent gives equal results; and that it refuses what it must.
//
// The models are tiny and made by a formula (NewModel), so the suite needs no files and
// runs in seconds. An engine's test calls Run with a function that opens it.
package enginetest

import (
	"context"
	"math"
	"testing"

	"github.com/coppice-lm/coppice/engine"
)

// Options is how a test wants a model opened. The zero value is float32 on one thread.
type Options struct {
	Precision engine.Precision
	Threads   int // 0: 1
	MaxLength int // 0: the model's
}

// Opener opens a model in the engine under test, or fails the test.
type Opener func(t *testing.T, m *Model, opt Options) engine.Engine

// Run runs the whole suite.
func Run(t *testing.T, open Opener) {
	for _, part := range []struct {
		name string
		test func(*testing.T, Opener)
	}{
		{"families", testFamilies},
		{"threads", testThreads},
		{"batch", testBatch},
		{"shared prefix", testSharedPrefix},
		{"regimes", testRegimes},
		{"concurrent calls", testConcurrent},
		{"decoding", testDecoding},
		{"decoding together", testDecodingTogether},
		{"bf16", testBF16},
		{"rounded", testRounded},
		{"stored", testStored},
		{"observer", testObserver},
		{"greedy ties", testTies},
		{"permuted neurons", testPermuted},
		{"zero neurons", testZeroNeurons},
		{"widths", testWidths},
		{"sublayers", testSublayers},
		{"biases", testBiases},
		{"spellings", testSpellings},
		{"fused", testFused},
		{"head", testHead},
		{"head dim", testHeadDim},
		{"refusals", testRefusals},
		{"refused steps", testRefusedSteps},
		{"not finite", testNonFinite},
		{"cancelled", testCancelled},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, open) })
	}
}

// model makes a model or fails the test.
func model(t *testing.T, config string, widths ...int) *Model {
	t.Helper()
	m, err := NewModel(config, widths...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// sequence is n tokens of a vocabulary of 48 that differ with the seed.
func sequence(seed, n int) []int32 {
	tokens := make([]int32, n)
	z := uint64(seed)*0x9E3779B97F4A7C15 + 1
	for i := range tokens {
		z = z*6364136223846793005 + 1442695040888963407
		tokens[i] = int32(z >> 33 % 48)
	}
	return tokens
}

// next makes a root node that predicts each of its tokens but the first, and one more.
func next(tokens []int32) engine.Node {
	n := engine.Node{Parent: -1, Tokens: tokens}
	for i := range tokens {
		target := engine.Target{Index: i, Token: 7}
		if i+1 < len(tokens) {
			target.Token = tokens[i+1]
		}
		n.Targets = append(n.Targets, target)
	}
	return n
}

// score scores a batch or fails the test.
func score(t *testing.T, e engine.Engine, nodes ...engine.Node) [][]engine.Score {
	t.Helper()
	got, err := e.Score(context.Background(), engine.Batch{Nodes: nodes}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// sameBits fails the test unless both are equal in every bit.
func sameBits(t *testing.T, what string, got, want []engine.Score) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d scores, expected %d", what, len(got), len(want))
	}
	for i := range want {
		if math.Float32bits(got[i].LogProb) != math.Float32bits(want[i].LogProb) || got[i].Greedy != want[i].Greedy {
			t.Fatalf("%s: score %d is %v, expected the bits of %v", what, i, got[i], want[i])
		}
	}
}

// near reports the largest difference relative to the largest expected value.
func near(got, want []engine.Score) float64 {
	var worst, scale float64
	for i := range want {
		scale = max(scale, math.Abs(float64(want[i].LogProb)))
		worst = max(worst, math.Abs(float64(got[i].LogProb)-float64(want[i].LogProb)))
	}
	return worst / scale
}
