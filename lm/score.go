package lm

import (
	"context"
	"errors"
	"fmt"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/eval"
)

// batchTokens is the size that batches grow to, in tokens computed: enough rows for the
// matrix products to run at full speed, few enough that results come often.
const batchTokens = 1024

// Score implements eval.LM.
func (m *Model) Score(ctx context.Context, requests []eval.TokenRequest, done func(i int, r eval.TokenResult) error) error {
	for i, r := range requests {
		if err := m.checkRequest(r); err != nil {
			return &eval.RequestError{Index: i, Err: err}
		}
	}
	for first := 0; first < len(requests); {
		end := first + batchSize(requests[first:])
		if err := m.scoreBatch(ctx, requests[first:end], first, done); err != nil {
			return err
		}
		first = end
	}
	return nil
}

// checkRequest reports what the engine would refuse, in the request's own terms.
func (m *Model) checkRequest(r eval.TokenRequest) error {
	if len(r.Context) == 0 || len(r.Continuation) == 0 {
		return errors.New("context and continuation need at least one token each")
	}
	if n := len(r.Context) + len(r.Continuation) - 1; n > m.info.MaxLength {
		return fmt.Errorf("an input of %d tokens is longer than the %d that the model takes", n, m.info.MaxLength)
	}
	vocab := m.engine.Model().Vocab
	for _, part := range [][]int32{r.Context, r.Continuation} {
		for _, t := range part {
			if t < 0 || int(t) >= vocab {
				return fmt.Errorf("token %d is not in the model's vocabulary of %d: the tokenizer belongs to another model", t, vocab)
			}
		}
	}
	return nil
}

// batchSize is how many of the requests go into the next batch: as many as have about
// batchTokens tokens that are not shared with the request before. A batch is not cut
// between requests that share half of their input or more, unless it doubles.
func batchSize(requests []eval.TokenRequest) int {
	total := 0
	var last []int32
	for i, r := range requests {
		in := input(r)
		shared := commonPrefix(last, in)
		if i > 0 && total+len(in)-shared > batchTokens && (2*shared < len(in) || total > 2*batchTokens) {
			return i
		}
		total += len(in) - shared
		last = in
	}
	return len(requests)
}

func (m *Model) scoreBatch(ctx context.Context, requests []eval.TokenRequest, first int, done func(int, eval.TokenResult) error) error {
	t := grow(requests, m.engine.Model().Regime)
	scores, err := m.engine.Score(ctx, t.batch, nil)
	var bad *engine.NonFiniteError
	if errors.As(err, &bad) {
		if i := t.requestAt(bad.Node, bad.Index); i >= 0 {
			return &eval.RequestError{Index: first + i, Err: err}
		}
	}
	if err != nil {
		return err
	}
	for i := range requests {
		if err := done(first+i, t.result(i, scores)); err != nil {
			return err
		}
	}
	return nil
}
