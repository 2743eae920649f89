package lm

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/coppice-lm/coppice/engine/cpu/kernel"
)

// Sampling says how the next token is chosen. The zero value takes the one with the
// largest logit, of equal ones the lowest id.
//
// The steps are taken in the order of transformers' generate: the repetition penalty
// (arXiv 1909.05858, equation 2) on logits, the division by Temperature, then top-k,
// top-p (nucleus, arXiv 1904.09751) and min-p (arXiv 2407.01082), and a draw from what
// is left.
type Sampling struct {
	Temperature       float64 // 0: greedy, and the fields below but the penalty have no effect
	TopK              int     // keep the k most probable tokens; 0: all
	TopP              float64 // keep the most probable that reach this sum; 0 or 1: all
	MinP              float64 // keep those of at least this share of the most probable; 0: all
	RepetitionPenalty float64 // for tokens that have occurred, prompt included; 0 or 1: none
	Seed              uint64  // the same seed gives the same text
}

// validate reports numbers that mean nothing.
func (s Sampling) validate() error {
	switch {
	case !(s.Temperature >= 0) || math.IsInf(s.Temperature, 0):
		return fmt.Errorf("temperature is %v, expected 0 or more", s.Temperature)
	case s.TopK < 0:
		return fmt.Errorf("top-k is %d, expected 0 or more", s.TopK)
	case !(s.TopP >= 0 && s.TopP <= 1):
		return fmt.Errorf("top-p is %v, expected 0 to 1", s.TopP)
	case !(s.MinP >= 0 && s.MinP <= 1):
		return fmt.Errorf("min-p is %v, expected 0 to 1", s.MinP)
	case !(s.RepetitionPenalty >= 0) || math.IsInf(s.RepetitionPenalty, 0):
		return fmt.Errorf("repetition penalty is %v, expected a positive number", s.RepetitionPenalty)
	}
	return nil
}

// sampler chooses the tokens of one text.
type sampler struct {
	Sampling
	random *rand.Rand
	seen   map[int32]bool
	order  ranking
	probs  []float64
}

func newSampler(s Sampling, prompt []int32) *sampler {
	p := &sampler{Sampling: s, random: rand.New(rand.NewPCG(s.Seed, 0)), seen: map[int32]bool{}}
	for _, t := range prompt {
		p.seen[t] = true
	}
	return p
}

// next chooses a token; it changes logits.
func (s *sampler) next(logits []float32) int32 {
	if s.RepetitionPenalty != 0 && s.RepetitionPenalty != 1 {
		penalty := float32(s.RepetitionPenalty)
		for t := range s.seen {
			if logits[t] > 0 {
				logits[t] /= penalty
			} else {
				logits[t] *= penalty
			}
		}
	}
	token := s.choose(logits)
	s.seen[token] = true
	return token
}

func (s *sampler) choose(logits []float32) int32 {
	best := max(0, kernel.ArgMax(logits))
	if s.Temperature == 0 {
		return int32(best)
	}
	// Probabilities up to a common factor: the largest is 1.
	s.probs = s.probs[:0]
	total := 0.0
	for _, v := range logits {
		p := math.Exp(float64(v-logits[best]) / s.Temperature)
		s.probs = append(s.probs, p)
		total += p
	}
	if s.TopK == 0 && s.MinP == 0 && (s.TopP == 0 || s.TopP == 1) {
		return draw(s.probs, nil, s.random.Float64()*total)
	}
	return s.chooseAmongTop(total)
}

// chooseAmongTop draws from the tokens that all filters keep. Each filter keeps a
// beginning of the tokens in descending order of probability.
func (s *sampler) chooseAmongTop(total float64) int32 {
	s.order.start(s.probs)
	k := len(s.probs)
	var top []int32
	if s.TopK > 0 && s.TopK < k {
		k, total = s.TopK, 0
		for range k {
			t := s.order.pop()
			top = append(top, t)
			total += s.probs[t]
		}
	}
	sum := 0.0
	var kept []int32
	for len(kept) < k {
		var t int32
		if top != nil {
			t = top[len(kept)]
		} else {
			t = s.order.pop()
		}
		if s.probs[t] < s.MinP {
			break
		}
		kept = append(kept, t)
		sum += s.probs[t]
		if s.TopP > 0 && s.TopP < 1 && sum >= s.TopP*total {
			break
		}
	}
	return draw(s.probs, kept, s.random.Float64()*sum)
}

// draw returns the token at which the running sum of probabilities exceeds u: of the
// given tokens, or of all where tokens is nil.
func draw(probs []float64, tokens []int32, u float64) int32 {
	if tokens == nil {
		last := 0
		for i, p := range probs {
			if u -= p; u < 0 {
				return int32(i)
			}
			if p > 0 {
				last = i
			}
		}
		return int32(last)
	}
	for _, t := range tokens {
		if u -= probs[t]; u < 0 {
			return t
		}
	}
	return tokens[len(tokens)-1]
}

// ranking hands out tokens in descending order of probability, of equal ones the lowest
// id first. It is a heap, as only the first few of a large vocabulary are wanted.
type ranking struct {
	probs []float64
	heap  []int32
}

func (r *ranking) start(probs []float64) {
	r.probs, r.heap = probs, r.heap[:0]
	for i := range probs {
		r.heap = append(r.heap, int32(i))
	}
	for i := len(r.heap)/2 - 1; i >= 0; i-- {
		r.down(i)
	}
}

func (r *ranking) pop() int32 {
	top := r.heap[0]
	last := len(r.heap) - 1
	r.heap[0] = r.heap[last]
	r.heap = r.heap[:last]
	if last > 0 {
		r.down(0)
	}
	return top
}

func (r *ranking) before(a, b int32) bool {
	return r.probs[a] > r.probs[b] || r.probs[a] == r.probs[b] && a < b
}

func (r *ranking) down(i int) {
	for {
		first := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(r.heap); child++ {
			if r.before(r.heap[child], r.heap[first]) {
				first = child
			}
		}
		if first == i {
			return
		}
		r.heap[i], r.heap[first] = r.heap[first], r.heap[i]
		i = first
	}
}
