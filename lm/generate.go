package lm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/tokenizer"
)

// GenerateOptions says how a text is continued and when it ends.
type GenerateOptions struct {
	Sampling
	MaxTokens int      // at most this many new tokens; 0: up to the model's length
	Stop      []string // the text ends before the first of these that would be in it
}

// Reason is why a text ended.
type Reason string

// The reasons: the model ended it; a stop string came; MaxTokens or the model's length
// was reached.
const (
	EndOfText  Reason = "end"
	StopString Reason = "stop"
	Length     Reason = "length"
)

// Generation is a generated text and what it cost.
type Generation struct {
	Text   string  // without the prompt
	Tokens []int32 // that were chosen, the one that ended the text included
	Reason Reason

	PromptTokens int // of which
	Reused       int // were in the cache already
	PromptTime   time.Duration
	DecodeTime   time.Duration // of the tokens after the first
}

// PromptSpeed is the prompt's tokens a second, those that had to be computed.
func (g Generation) PromptSpeed() float64 {
	return rate(g.PromptTokens-g.Reused, g.PromptTime)
}

// DecodeSpeed is the generated tokens a second, after the first.
func (g Generation) DecodeSpeed() float64 { return rate(len(g.Tokens)-1, g.DecodeTime) }

func rate(n int, d time.Duration) float64 {
	if n <= 0 || d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

// Session generates texts one after another, and computes only what the next prompt
// does not have in common with prompt and text before it. It is not for concurrent use.
type Session struct {
	m      *Model
	cache  engine.Cache
	logits []float32
}

// NewSession returns a session that remembers nothing yet.
func (m *Model) NewSession() *Session {
	return &Session{m: m, cache: m.engine.NewCache(), logits: make([]float32, m.engine.Model().Vocab)}
}

// Generate continues a prompt. emit, if not nil, is called with pieces of the text as
// soon as they are certain; an error that it returns ends the generation. When ctx
// ends, the text so far is returned with its error.
func (s *Session) Generate(ctx context.Context, prompt []int32, opt GenerateOptions, emit func(text string) error) (Generation, error) {
	c, err := s.m.continuation(prompt, opt, emit)
	if err != nil {
		return Generation{PromptTokens: len(prompt)}, err
	}
	g := &c.Generation
	g.Reused = min(commonPrefix(s.cache.Tokens(), prompt), len(prompt)-1)
	s.cache.Truncate(g.Reused)
	begin := time.Now()
	if err := s.cache.Append(ctx, prompt[g.Reused:], s.logits); err != nil {
		return *g, err
	}
	decode := time.Now()
	g.PromptTime = decode.Sub(begin)
	err = s.decode(ctx, c)
	g.DecodeTime = time.Since(decode)
	if err == nil || ctx.Err() != nil {
		err = errors.Join(err, c.finish())
	}
	g.Text = c.out.text()
	return *g, err
}

// decode chooses tokens until the text ends.
func (s *Session) decode(ctx context.Context, c *continuation) error {
	for {
		if err := c.choose(s.logits); err != nil || c.Reason != "" {
			return err
		}
		if err := s.cache.Append(ctx, c.Tokens[len(c.Tokens)-1:], s.logits); err != nil {
			return err
		}
	}
}

// continuation is a text while it is made.
type continuation struct {
	Generation
	m       *Model
	sampler *sampler
	out     *output
	limit   int // most tokens
}

func (m *Model) continuation(prompt []int32, opt GenerateOptions, emit func(string) error) (*continuation, error) {
	if err := m.checkPrompt(prompt, opt); err != nil {
		return nil, err
	}
	limit := m.info.MaxLength - len(prompt) + 1
	if opt.MaxTokens > 0 {
		limit = min(limit, opt.MaxTokens)
	}
	return &continuation{
		Generation: Generation{PromptTokens: len(prompt)}, m: m, limit: limit,
		sampler: newSampler(opt.Sampling, prompt), out: newOutput(m.tokenizer.Stream(true), opt.Stop, emit),
	}, nil
}

// choose takes the next token by its logits, which it changes. Where it is the last, the
// text has a Reason.
func (c *continuation) choose(logits []float32) error {
	token := c.sampler.next(logits)
	c.Tokens = append(c.Tokens, token)
	if slices.Contains(c.m.ends, token) {
		c.Reason = EndOfText
		return nil
	}
	stopped, err := c.out.add(token)
	switch {
	case err != nil:
		return err
	case stopped:
		c.Reason = StopString
	case len(c.Tokens) >= c.limit:
		c.Reason = Length
	}
	return nil
}

// finish hands on what is held back.
func (c *continuation) finish() error { return c.out.flush(c.Reason != StopString) }

func (m *Model) checkPrompt(prompt []int32, opt GenerateOptions) error {
	if err := opt.Sampling.validate(); err != nil {
		return err
	}
	switch {
	case opt.MaxTokens < 0:
		return fmt.Errorf("max-tokens is %d, expected 0 or more", opt.MaxTokens)
	case slices.Contains(opt.Stop, ""):
		return errors.New("a stop string is empty")
	case len(prompt) == 0:
		return errors.New("the prompt has no tokens, and the tokenizer adds none; give the model a first word")
	case len(prompt) > m.info.MaxLength:
		return fmt.Errorf("a prompt of %d tokens is longer than the %d that the model takes", len(prompt), m.info.MaxLength)
	}
	return nil
}

// Complete continues a text. The tokenizer's post-processor runs on it, which may add a
// BOS token.
func (s *Session) Complete(ctx context.Context, text string, opt GenerateOptions, emit func(text string) error) (Generation, error) {
	return s.Generate(ctx, s.m.Prompt(text), opt, emit)
}

// Prompt is the tokens from which Complete goes on.
func (m *Model) Prompt(text string) []int32 {
	prompt := m.tokenizer.Encode(text, true)
	if len(prompt) == 0 {
		if first := m.info.Prefix(); first != nil {
			prompt = []int32{first.ID}
		}
	}
	return prompt
}

// Chat answers the last of the messages, laid out by the model's chat template. A model
// without one is an error (tokenizer.ErrNoChatTemplate).
func (s *Session) Chat(ctx context.Context, messages []tokenizer.Message, opt GenerateOptions, emit func(text string) error) (Generation, error) {
	text, err := s.m.tokenizer.Chat(messages, true)
	if err != nil {
		return Generation{}, err
	}
	return s.Generate(ctx, s.m.tokenizer.Encode(text, false), opt, emit)
}
