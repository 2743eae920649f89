package main

import (
	"context"
	"fmt"
	"math"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/lm"
)

// measureDrift asks a part of a bf16 run's requests again in float32, and says how far the
// log-likelihoods are apart. Requests are taken evenly from all tasks, up to a number of
// input tokens. Those whose context was cut are left out.
func (a *app) measureDrift(ctx context.Context, path string, r *eval.Result, budget int) (string, error) {
	var all []eval.Answer
	tokens := 0
	for _, t := range r.Tasks {
		for _, s := range t.Samples {
			for _, x := range s.Answers {
				if n := len(x.Context) + len(x.Continuation); n-1 <= r.MaxLength {
					all = append(all, x)
					tokens += n
				}
			}
		}
	}
	if len(all) == 0 {
		return fmt.Sprintf("%s: the drift of bf16 from float32 was not measured, as every request was cut to the maximum length", path), nil
	}
	var asked []eval.Answer
	var requests []eval.TokenRequest
	used := 0
	for i, step := 0, max(1, tokens/budget); i < len(all) && used < budget; i += step {
		asked, requests = append(asked, all[i]), append(requests, all[i].TokenRequest)
		used += len(all[i].Context) + len(all[i].Continuation)
	}
	m, err := lm.Open(ctx, path, lm.Options{Threads: a.threads})
	if err != nil {
		return "", err
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
		return "", err
	}
	return fmt.Sprintf("%s: drift of bf16 from float32 over %d requests of %d tokens: log-likelihood %.4f a token on average, %.4f at most; the greedy flag differs in %d",
		path, len(requests), used, sum/float64(continuation), worst, flips), nil
}
