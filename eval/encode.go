package eval

import (
	"errors"
	"fmt"
	"strings"
)

// BOSRule says whether the beginning-of-sequence token stands before a context.
type BOSRule string

const (
	// BOSTokenizer leaves it to the tokenizer's own post-processor, as lm-eval does from
	// 0.4.9.2 on, except that a rolling document begins with the token once, not twice.
	BOSTokenizer BOSRule = "tokenizer"
	// BOSNone never adds a token: lm-eval up to 0.4.9.1, with which the published cards
	// were made.
	BOSNone BOSRule = "none"
	// BOSLMEval is lm-eval from 0.4.9.2 on to the letter: in rolling tasks the token
	// stands twice where the tokenizer adds one, and the second is predicted.
	BOSLMEval BOSRule = "lm-eval"
)

// ParseBOSRule returns the rule of that name.
func ParseBOSRule(name string) (BOSRule, error) {
	switch rule := BOSRule(name); rule {
	case BOSTokenizer, BOSNone, BOSLMEval:
		return rule, nil
	}
	return "", fmt.Errorf("unknown BOS rule %q: it is tokenizer, none or lm-eval", name)
}

var (
	errNoContinuation = errors.New("no token of the continuation is left after the context's: " +
		"the continuation is empty, or merges into the context's last token")
	errNoPrefix = errors.New("the context is empty and the tokenizer has neither a BOS nor an EOS token to stand for it")
)

// EncodePair returns the token ids of a context and its continuation, uncut.
//
// White space at the end of the context belongs to the continuation, as it does in text
// that tokenizers were trained on. The continuation's tokens are those of the joined text
// beyond the number of the context's tokens: where the two are encoded differently at the
// seam, the context is taken as it is alone. An empty context becomes the tokenizer's
// prefix token (ModelInfo.Prefix), unless the continuation begins with that token, which
// then serves as the context. (lm-eval: TemplateLM._encode_pair and loglikelihood.)
func EncodePair(lm LM, rule BOSRule, context, continuation string) (TokenRequest, error) {
	context, space := splitTrailingSpace(context)
	continuation = space + continuation
	if context == "" {
		return encodeAlone(lm, continuation)
	}
	whole, err := encode(lm, rule, context+continuation)
	if err != nil {
		return TokenRequest{}, err
	}
	ctx, err := encode(lm, rule, context)
	if err != nil {
		return TokenRequest{}, err
	}
	if len(ctx) == 0 { // a normalizer may drop all of it
		return encodeAlone(lm, continuation)
	}
	if len(whole) <= len(ctx) {
		return TokenRequest{}, errNoContinuation
	}
	return TokenRequest{Context: ctx, Continuation: whole[len(ctx):]}, nil
}

// encodeAlone encodes a continuation that has no context.
func encodeAlone(lm LM, continuation string) (TokenRequest, error) {
	tokens, err := lm.Encode(continuation, false)
	if err != nil {
		return TokenRequest{}, err
	}
	prefix := lm.Info().Prefix()
	if prefix == nil {
		return TokenRequest{}, errNoPrefix
	}
	r := TokenRequest{Context: []int32{prefix.ID}, Continuation: tokens}
	if len(tokens) > 0 && tokens[0] == prefix.ID {
		r.Continuation = tokens[1:]
	}
	if len(r.Continuation) == 0 {
		return TokenRequest{}, errNoContinuation
	}
	return r, nil
}

// encode encodes a text that may get special tokens by the rule. A text that already
// begins with the prefix token's text gets none, lest the token stand twice.
func encode(lm LM, rule BOSRule, text string) ([]int32, error) {
	prefix := lm.Info().Prefix()
	begins := prefix != nil && prefix.Text != "" && strings.HasPrefix(text, prefix.Text)
	return lm.Encode(text, rule != BOSNone && !begins)
}

// encodeRolling encodes a document that RollingWindows puts its own prefix before.
func encodeRolling(lm LM, rule BOSRule, text string) ([]int32, error) {
	if rule == BOSLMEval {
		return encode(lm, rule, text)
	}
	return lm.Encode(text, false)
}

// cut shortens a request from the left so that the model's input has at most maxLength
// tokens, and returns how many tokens of the context went. The continuation stays whole
// and keeps at least one token before it; one that is longer than maxLength is an error.
func (r TokenRequest) cut(maxLength int) (TokenRequest, int, error) {
	if len(r.Continuation) > maxLength {
		return r, 0, fmt.Errorf("the continuation has %d tokens, more than the maximum length %d", len(r.Continuation), maxLength)
	}
	drop := max(0, r.inputTokens()-maxLength)
	r.Context = r.Context[drop:]
	return r, drop, nil
}

// inputTokens is the length of the model's input: all tokens but the last.
func (r TokenRequest) inputTokens() int { return len(r.Context) + len(r.Continuation) - 1 }
