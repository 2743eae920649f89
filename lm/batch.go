package lm

import (
	"context"
	"errors"
	"fmt"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/internal/parallel"
)

// Batch generates several texts side by side, a token of each at a time, so that the
// weights are read once for all of them. What else is in the batch changes no text: each is
// what a Session makes of its prompt. A batch is not for concurrent use.
type Batch struct {
	m       *Model
	threads int
	texts   []*inBatch
	free    []*inBatch // of texts that ended; their caches and logits are used again
}

// inBatch is a text of a batch.
type inBatch struct {
	id     int
	cache  engine.Cache
	logits []float32
	next   []int32 // tokens to run: the prompt, then the one that was chosen last
	text   *continuation
}

// Ended is a text that a batch has finished. Its times are zero: they were those of all.
type Ended struct {
	ID int // that Add was given
	Generation
}

// NewBatch returns a batch without texts, whose next tokens are chosen on so many threads.
func (m *Model) NewBatch(threads int) *Batch { return &Batch{m: m, threads: threads} }

// Add begins a text, which Step will name by id. It is an error where Generate would refuse
// the prompt or the options.
func (b *Batch) Add(id int, prompt []int32, opt GenerateOptions) error {
	text, err := b.m.continuation(prompt, opt, nil)
	if err != nil {
		return err
	}
	t := &inBatch{cache: b.m.engine.NewCache(), logits: make([]float32, b.m.engine.Model().Vocab)}
	if last := len(b.free) - 1; last >= 0 {
		t, b.free = b.free[last], b.free[:last]
		t.cache.Truncate(0)
	}
	t.id, t.next, t.text = id, prompt, text
	b.texts = append(b.texts, t)
	return nil
}

// Len is the number of texts that have not ended.
func (b *Batch) Len() int { return len(b.texts) }

// Tokens is how many tokens these have so far, prompts included.
func (b *Batch) Tokens() int {
	n := 0
	for _, t := range b.texts {
		n += t.text.PromptTokens + len(t.text.Tokens)
	}
	return n
}

// Step takes the texts a token further, and returns those that it ended. Where there are
// many tokens of new prompts some wait for the next step. After an error, which names the
// text where it is one's alone, the batch is of no more use.
func (b *Batch) Step(ctx context.Context) ([]Ended, error) {
	var steps []engine.Step
	var stepped []*inBatch
	tokens := 0
	for _, t := range b.texts {
		if tokens > 0 && tokens+len(t.next) > batchTokens {
			continue
		}
		tokens += len(t.next)
		steps = append(steps, engine.Step{Cache: t.cache, Tokens: t.next, Logits: t.logits})
		stepped = append(stepped, t)
	}
	if err := b.m.engine.Decode(ctx, steps); err != nil {
		var bad *engine.NonFiniteError
		if errors.As(err, &bad) {
			err = fmt.Errorf("text %d: %w", stepped[bad.Node].id, err)
		}
		return nil, err
	}
	if err := parallel.Each(ctx, b.threads, len(stepped), func(_, i int) error {
		t := stepped[i]
		err := t.text.choose(t.logits)
		t.next = t.text.Tokens[len(t.text.Tokens)-1:]
		return err
	}); err != nil {
		return nil, err
	}
	return b.ended()
}

// ended takes out the texts that have a reason to end.
func (b *Batch) ended() ([]Ended, error) {
	var ended []Ended
	going := b.texts[:0]
	for _, t := range b.texts {
		if t.text.Reason == "" {
			going = append(going, t)
			continue
		}
		if err := t.text.finish(); err != nil {
			return nil, err
		}
		t.text.Text = t.text.out.text()
		ended = append(ended, Ended{t.id, t.text.Generation})
		b.free = append(b.free, t)
	}
	b.texts = going
	return ended, nil
}
