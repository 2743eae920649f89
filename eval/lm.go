package eval

import (
	"context"
	"fmt"
)

// LM is the text model that tasks are put to. This package defines it and a higher
// layer implements it, so that tasks and metrics never depend on an engine.
//
// The methods are not called concurrently.
type LM interface {
	// Info describes the model and the way it is run. It does not change during a run.
	Info() ModelInfo

	// Encode returns the token ids of text. With addSpecial the tokenizer's
	// post-processor runs, which may add a BOS token (Llama 3) or nothing (SmolLM2);
	// without it no token is added, whatever the tokenizer's configuration says. The
	// empty text without addSpecial has no tokens.
	Encode(text string, addSpecial bool) ([]int32, error)

	// Score computes the log-likelihood of every request and calls done(i, r) once for
	// request i as soon as its result is known: in any order, never two calls at a time,
	// from any goroutine. Requests come sorted so that those with a common prefix are
	// neighbours. An error that done returns stops Score and is returned unchanged.
	//
	// A request that cannot be scored, or whose logits are NaN, stops Score with an error
	// that is, or wraps, a *RequestError. When ctx ends, Score returns its error soon.
	// Results must not depend on which requests are scored together nor on their order:
	// a run that is resumed has to give the bits of one that was not.
	Score(ctx context.Context, requests []TokenRequest, done func(i int, r TokenResult) error) error
}

// TokenRequest asks for the log-likelihood of Continuation after Context. The model's
// input is Context + Continuation[:len-1], at most ModelInfo.MaxLength tokens; the logits
// wanted are those of its last len(Continuation) positions. Neither slice is empty.
type TokenRequest struct {
	Context, Continuation []int32
}

// TokenResult answers a TokenRequest.
type TokenResult struct {
	// LogLikelihood is the natural logarithm of the probability of the continuation: the
	// sum over its tokens of the log-softmax over the whole vocabulary.
	LogLikelihood float64
	// Greedy is true where each token of the continuation has the largest logit at its
	// position; of equal logits the one with the lowest id counts as the largest.
	Greedy bool
}

// RequestError says which of the requests given to LM.Score failed. Run turns it into an
// error that names task and record.
type RequestError struct {
	Index int // index in the slice that Score was given
	Err   error
}

func (e *RequestError) Error() string { return fmt.Sprintf("request %d: %v", e.Index, e.Err) }

// Unwrap returns the cause.
func (e *RequestError) Unwrap() error { return e.Err }

// ModelInfo is what a result says about the model it was measured on.
type ModelInfo struct {
	Name       string `json:"name"`       // as the user named it: a directory, a file, owner/name
	Parameters int64  `json:"parameters"` // number of weights, tied embeddings counted once
	Bytes      int64  `json:"bytes"`      // size of the weights as stored in the file
	DType      string `json:"dtype"`      // precision of the computation: "f32" or "bf16"
	MaxLength  int    `json:"max_length"` // longest model input in tokens (max_position_embeddings)
	// Weights and Tokenizer are fingerprints: equal exactly where the weights (with the
	// config that shapes the computation) and the tokenizer are.
	Weights   string `json:"weights"`
	Tokenizer string `json:"tokenizer"`
	// BOS and EOS are the tokenizer's special tokens, nil where it has none.
	BOS *Token `json:"bos"`
	EOS *Token `json:"eos"`
}

// Token is a special token: its id and the text that stands for it.
type Token struct {
	ID   int32  `json:"id"`
	Text string `json:"text"`
}

// Prefix returns the token that stands where there is no context: BOS, else EOS, else nil.
func (m ModelInfo) Prefix() *Token {
	if m.BOS != nil {
		return m.BOS
	}
	return m.EOS
}
