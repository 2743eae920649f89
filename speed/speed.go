// Package speed measures a running model: how many tokens a second it takes in and gives
// out, by the length of the prompt and the number of sequences at once, and what a token
// costs in joules.
//
// A prompt is measured as generation computes one: its tokens go into a cache, and the
// logits after the last are wanted. Decoding then adds one token after another to each of
// the sequences of a batch, all of them in one pass (engine.Decode). Which tokens they are
// makes no difference to the time, so they follow from their positions.
//
// Everything is run once to warm up. Repetitions are interleaved, each one all lengths and
// batch sizes after another, so that a machine that slows down for a while does so for all
// of them; the median counts.
package speed

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/coppice-lm/coppice/energy"
	"github.com/coppice-lm/coppice/engine"
)

// The kinds of results.
const (
	Prompt = "prompt"
	Decode = "decode"
)

// Result is one measurement of throughput.
type Result struct {
	Kind     string    `json:"kind"`    // Prompt or Decode
	Context  int       `json:"context"` // tokens of the prompt, or before the first decoded one
	Batch    int       `json:"batch"`   // sequences at once
	DType    string    `json:"dtype"`
	TokensPS float64   `json:"tokens_per_second"`      // median, all sequences together
	Runs     []float64 `json:"runs_tokens_per_second"` // each repetition
	// Joules by the token over all repetitions, idle power included and not; nil where
	// they are not known (energy.Reading).
	JoulesPT    *float64 `json:"joules_per_token,omitempty"`
	NetJoulesPT *float64 `json:"net_joules_per_token,omitempty"`
	Estimate    bool     `json:"estimate,omitempty"` // the joules are estimated, not measured
}

// Options say what to measure. All numbers must be positive but Decode, and at most Most.
type Options struct {
	Contexts []int // lengths of prompts in tokens
	Batches  []int // numbers of sequences
	Decode   int   // tokens to decode after each prompt; 0: none
	Repeat   int
	DType    string                // of the engine, for the results
	Meter    *energy.Meter         // must be there; it may measure nothing
	Progress func(done, total int) // of turns; nil: not reported
}

// Most is the largest number that an option may have.
const Most = 1_000_000_000

// check refuses numbers that mean nothing.
func (o *Options) check() error {
	good := o.Decode >= 0 && o.Decode <= Most && o.Repeat >= 1 && o.Repeat <= Most
	for _, list := range [][]int{o.Contexts, o.Batches} {
		good = good && len(list) > 0 && slices.Min(list) >= 1 && slices.Max(list) <= Most
	}
	if !good {
		return fmt.Errorf("prompts of %v tokens in batches of %v, %d tokens decoded, %d times: expected positive numbers, at most %d", o.Contexts, o.Batches, o.Decode, o.Repeat, Most)
	}
	return nil
}

// Memory is the least that sequences of the largest batch and length take on an engine, in
// bytes, beside the model: keys and values of all layers, in the blocks of 128 tokens that
// engine/cpu keeps them in, and logits.
func Memory(e engine.Engine, opt Options) (float64, error) {
	if err := opt.check(); err != nil {
		return 0, err
	}
	const block = 128
	m, element := e.Model(), 4.0
	if opt.DType == engine.BF16.String() {
		element = 2
	}
	length := (slices.Max(opt.Contexts) + opt.Decode + block - 1) / block * block
	keys := float64(len(m.Layers)) * float64(m.KVHeads*m.HeadDim) * float64(length)
	return float64(slices.Max(opt.Batches)) * (2*keys*element + 4*float64(m.Vocab)), nil
}

// passTokens is how many tokens of prompts are computed in one pass, enough for full speed.
// A longer prompt takes several.
const passTokens = 1024

// Measure returns the results of all lengths and batch sizes, and what all repetitions
// drew together. An error of the engine ends it: a prompt and what is decoded after it may
// be too long for the model (*engine.LengthError).
func Measure(ctx context.Context, e engine.Engine, opt Options) ([]Result, energy.Reading, error) {
	if err := opt.check(); err != nil {
		return nil, energy.Reading{}, err
	}
	if opt.Progress == nil {
		opt.Progress = func(int, int) {}
	}
	r := runner{ctx: ctx, e: e, meter: opt.Meter}
	var stages []*stage
	for _, length := range opt.Contexts {
		for _, batch := range opt.Batches {
			stages = append(stages, &stage{kind: Prompt, context: length, batch: batch, tokens: length * batch})
			if opt.Decode > 0 {
				stages = append(stages, &stage{kind: Decode, context: length, batch: batch, tokens: opt.Decode * batch})
			}
		}
	}
	var all *energy.Span
	for turn := range opt.Repeat + 1 {
		if turn == 1 {
			all = opt.Meter.Start()
		}
		for i, s := range stages {
			if err := r.run(s, turn > 0); err != nil {
				return nil, energy.Reading{}, err
			}
			opt.Progress(turn*len(stages)+i+1, (opt.Repeat+1)*len(stages))
		}
	}
	drawn := all.Stop()
	var results []Result
	for _, s := range stages {
		results = append(results, s.result(opt.DType))
		drawn.Tokens += int64(s.tokens * len(s.runs))
	}
	return results, drawn, nil
}

// stage is one kind of work at one length and batch size, and what its runs took.
type stage struct {
	kind           string
	context, batch int
	tokens         int // of one run, all sequences together
	runs           []float64
	drawn          []energy.Reading
}

// result is the median of the runs, and joules over all of them.
func (s *stage) result(dtype string) Result {
	r := Result{Kind: s.kind, Context: s.context, Batch: s.batch, DType: dtype, TokensPS: median(s.runs), Runs: s.runs}
	joules, idle, rested := 0.0, 0.0, true
	for _, d := range s.drawn {
		if d.Joules == nil {
			r.Estimate = false
			return r
		}
		r.Estimate = r.Estimate || d.Estimate
		joules += *d.Joules
		if rested = rested && d.IdleWatts != nil; rested {
			idle += *d.IdleWatts * d.Seconds
		}
	}
	tokens := float64(s.tokens * len(s.runs))
	r.JoulesPT = new(joules / tokens)
	if net, ok := energy.Net(joules, idle); rested && ok {
		r.NetJoulesPT = new(net / tokens)
	}
	return r
}

// median of at least one value; of an even number, the mean of the two in the middle.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// runner runs stages on an engine, with the same caches for all.
type runner struct {
	ctx   context.Context
	e     engine.Engine
	meter *energy.Meter
	steps []engine.Step
}

// run runs a stage once. Decoding goes on where the prompts of its length ended.
func (r *runner) run(s *stage, record bool) error {
	for len(r.steps) < s.batch {
		r.steps = append(r.steps, engine.Step{Cache: r.e.NewCache(), Logits: make([]float32, r.e.Model().Vocab)})
	}
	steps, atOnce := r.steps[:s.batch], 1
	if s.kind == Prompt {
		for _, step := range steps {
			step.Cache.Truncate(0)
		}
		atOnce = max(1, passTokens/s.batch)
	}
	span, start := r.meter.Start(), time.Now()
	for left := s.tokens / s.batch; left > 0; left -= min(left, atOnce) {
		for i := range steps {
			steps[i].Tokens = tokens(i, len(steps[i].Cache.Tokens()), min(left, atOnce), r.e.Model().Vocab)
		}
		if err := r.e.Decode(r.ctx, steps); err != nil {
			return err
		}
	}
	if seconds := time.Since(start).Seconds(); record {
		s.runs = append(s.runs, float64(s.tokens)/seconds)
		s.drawn = append(s.drawn, span.Stop())
	}
	return nil
}

// tokens are n tokens of a sequence from a position on, spread over the vocabulary.
func tokens(sequence, from, n, vocab int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32((from + i + sequence) * 37 % vocab)
	}
	return ids
}
