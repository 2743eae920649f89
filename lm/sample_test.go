package lm

import (
	"math"
	"slices"
	"testing"
)

// counts draws n times from logits that are set anew each time.
func counts(s Sampling, logits []float32, prompt []int32, n int) []int {
	p := newSampler(s, prompt)
	out := make([]int, len(logits))
	for range n {
		p.seen = map[int32]bool{}
		for _, t := range prompt {
			p.seen[t] = true
		}
		out[p.next(slices.Clone(logits))]++
	}
	return out
}

func TestSampling(t *testing.T) {
	log := func(p float64) float32 { return float32(math.Log(p)) }
	logits := []float32{log(0.1), log(0.4), log(0.2), log(0.25), log(0.05)}
	const n = 20000
	for _, tt := range []struct {
		name     string
		sampling Sampling
		prompt   []int32
		want     []float64 // probabilities
	}{
		{"greedy", Sampling{}, nil, []float64{0, 1, 0, 0, 0}},
		{"temperature 1", Sampling{Temperature: 1}, nil, []float64{0.1, 0.4, 0.2, 0.25, 0.05}},
		{"temperature 0.5", Sampling{Temperature: 0.5}, nil, []float64{0.01 / 0.275, 0.16 / 0.275, 0.04 / 0.275, 0.0625 / 0.275, 0.0025 / 0.275}},
		{"top-k 1", Sampling{Temperature: 1, TopK: 1}, nil, []float64{0, 1, 0, 0, 0}},
		{"top-k 2", Sampling{Temperature: 1, TopK: 2}, nil, []float64{0, 0.4 / 0.65, 0, 0.25 / 0.65, 0}},
		{"top-k of more than there are", Sampling{Temperature: 1, TopK: 9}, nil, []float64{0.1, 0.4, 0.2, 0.25, 0.05}},
		{"top-p 0.64", Sampling{Temperature: 1, TopP: 0.64}, nil, []float64{0, 0.4 / 0.65, 0, 0.25 / 0.65, 0}},
		{"top-p 0.66", Sampling{Temperature: 1, TopP: 0.66}, nil, []float64{0, 0.4 / 0.85, 0.2 / 0.85, 0.25 / 0.85, 0}},
		{"top-p tiny keeps one", Sampling{Temperature: 1, TopP: 1e-9}, nil, []float64{0, 1, 0, 0, 0}},
		{"top-p counts within top-k", Sampling{Temperature: 1, TopK: 2, TopP: 0.6}, nil, []float64{0, 1, 0, 0, 0}},
		{"min-p 0.4", Sampling{Temperature: 1, MinP: 0.4}, nil, []float64{0, 0.4 / 0.85, 0.2 / 0.85, 0.25 / 0.85, 0}},
		{"penalty", Sampling{RepetitionPenalty: 4}, []int32{1}, []float64{0, 0, 0, 1, 0}},
	} {
		for i, c := range counts(tt.sampling, logits, tt.prompt, n) {
			p := tt.want[i]
			if d := math.Abs(float64(c) - p*n); d > 4*math.Sqrt(n*p*(1-p))+1e-6 {
				t.Errorf("%s: token %d was drawn %d times of %d, expected about %.0f", tt.name, i, c, n, p*n)
			}
		}
	}
	if best := newSampler(Sampling{}, nil).next([]float32{1, 3, 3, 2}); best != 1 {
		t.Errorf("of equal logits token %d was taken, expected the first", best)
	}
	if got := newSampler(Sampling{RepetitionPenalty: 2}, []int32{0}).next([]float32{3, 2}); got != 1 {
		t.Error("a penalty of 2 divides a positive logit of 3 below 2")
	}
}

// A seed decides the draws, and another seed others.
func TestSeed(t *testing.T) {
	draw := func(seed uint64) []int32 {
		s := newSampler(Sampling{Temperature: 1, Seed: seed}, nil)
		var tokens []int32
		for range 50 {
			tokens = append(tokens, s.next(make([]float32, 100)))
		}
		return tokens
	}
	if !slices.Equal(draw(7), draw(7)) {
		t.Error("the same seed drew other tokens")
	}
	if slices.Equal(draw(7), draw(8)) {
		t.Error("another seed drew the same tokens")
	}
}

func TestRanking(t *testing.T) {
	probs := []float64{0.2, 0.5, 0.2, 0.1, 0.5, 0}
	var r ranking
	r.start(probs)
	var got []int32
	for range probs {
		got = append(got, r.pop())
	}
	if want := []int32{1, 4, 0, 2, 3, 5}; !slices.Equal(got, want) {
		t.Errorf("%v, expected %v", got, want)
	}
}
