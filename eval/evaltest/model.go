// Package evaltest helps to test evaluations: with a model that costs nothing (Model), and
// against recorded answers of lm-eval (Golden).
package evaltest

import (
	"context"
	"encoding/binary"
	"hash/fnv"
	"strings"
	"unicode/utf8"

	"github.com/coppice-lm/coppice/eval"
)

// The special tokens of Model.
const (
	BOS int32 = 1
	EOS int32 = 2
)

// Model is an eval.LM with a toy tokenizer and log-likelihoods that are a fixed function of
// the token ids, so that any two runs can be compared bit for bit.
//
// A token is a character with the space before it, or a character alone.
type Model struct {
	ModelInfo eval.ModelInfo
	AddBOS    bool // the tokenizer's post-processor prepends BOS, as Llama 3's does
	// Answer, if not nil, replaces the fixed function.
	Answer func(r eval.TokenRequest) eval.TokenResult
	// Reverse has Score answer in the reverse order.
	Reverse bool
	// Asked counts the requests that were answered.
	Asked int
}

// NewModel returns a model with both special tokens that adds none.
func NewModel() *Model {
	return &Model{ModelInfo: eval.ModelInfo{
		Name: "toy", Parameters: 1000, Bytes: 4000, DType: "f32", MaxLength: 4096,
		Weights: "w1", Tokenizer: "t1",
		BOS: &eval.Token{ID: BOS, Text: "<s>"}, EOS: &eval.Token{ID: EOS, Text: "</s>"},
	}}
}

// Info returns ModelInfo.
func (m *Model) Info() eval.ModelInfo { return m.ModelInfo }

// Encode implements eval.LM.
func (m *Model) Encode(text string, addSpecial bool) ([]int32, error) {
	var ids []int32
	if addSpecial && m.AddBOS {
		ids = append(ids, BOS)
	}
	for text != "" {
		switch {
		case strings.HasPrefix(text, "<s>"):
			ids, text = append(ids, BOS), text[3:]
		case text[0] == ' ' && len(text) > 1 && text[1] != ' ':
			r, size := utf8.DecodeRuneInString(text[1:])
			ids, text = append(ids, 1<<20+r), text[1+size:]
		default:
			r, size := utf8.DecodeRuneInString(text)
			ids, text = append(ids, 16+r), text[size:]
		}
	}
	return ids, nil
}

// Score implements eval.LM.
func (m *Model) Score(ctx context.Context, requests []eval.TokenRequest, done func(int, eval.TokenResult) error) error {
	for n := range requests {
		i := n
		if m.Reverse {
			i = len(requests) - 1 - n
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		answer := Answer
		if m.Answer != nil {
			answer = m.Answer
		}
		m.Asked++
		if err := done(i, answer(requests[i])); err != nil {
			return err
		}
	}
	return nil
}

// Answer is Model's fixed function: -0.5 to -1.5 a token, greedy for one request in four.
func Answer(r eval.TokenRequest) eval.TokenResult {
	h := fnv.New64a()
	for _, ids := range [][]int32{r.Context, r.Continuation} {
		for _, id := range ids {
			h.Write(binary.LittleEndian.AppendUint32(nil, uint32(id)))
		}
	}
	sum := h.Sum64()
	perToken := 0.5 + float64(sum>>11)/(1<<53)
	return eval.TokenResult{
		LogLikelihood: -perToken * float64(len(r.Continuation)),
		Greedy:        sum%4 == 0,
	}
}
