package main

import (
	"context"
	"fmt"
	"math"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/lm"
)

// measureDrift asks a part of a bf16 run's requests again in float32, and prints how far
// the log-likelihoods are apart. Requests are taken evenly from all tasks, up to a number
// of input tokens.
func (a *app) measureDrift(ctx context.Context, path string, r *eval.Result, budget int) error {
	var all []eval.Answer
	for _, t := range r.Tasks {
		for _, s := range t.Samples {
			all = append(all, s.Answers...)
		}
	}
	tokens := 0
	for _, x := range all {
		tokens += len(x.Context) + len(x.Continuation)
	}
	if tokens == 0 {
		return nil
	}
	step := max(1, tokens/budget)
	var asked []eval.Answer
	var requests []eval.TokenRequest
	used := 0
	for i := 0; i < len(all) && used < budget; i += step {
		q := all[i].TokenRequest
		if over := len(q.Context) + len(q.Continuation) - 1 - r.MaxLength; over > 0 {
			continue // was cut from the left when it was asked; one that was not is as good
		}
		asked, requests = append(asked, all[i]), append(requests, q)
		used += len(q.Context) + len(q.Continuation)
	}
	if len(requests) == 0 {
		return nil
	}
	m, err := lm.Open(ctx, path, lm.Options{Threads: a.threads})
	if err != nil {
		return err
	}
	var sum, worst float64
	var continuation, flips int
	err = m.Score(ctx, requests, func(i int, f32 eval.TokenResult) error {
		d := math.Abs(f32.LogLikelihood - asked[i].LogLikelihood)
		sum += d
		worst = max(worst, d/float64(len(asked[i].Continuation)))
		continuation += len(asked[i].Continuation)
		if f32.Greedy != asked[i].Greedy {
			flips++
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !a.quiet {
		fmt.Fprintf(a.stderr, "bf16 drift from float32, %d requests of %d tokens: log-likelihood %.4f a token on average, %.4f at most; greedy flag differs in %d\n",
			len(requests), used, sum/float64(continuation), worst, flips)
	}
	return nil
}
