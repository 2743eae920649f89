package lm

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/engine/enginetest"
	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/tokenizer"
)

func generate(t *testing.T, s *Session, prompt string, opt GenerateOptions) Generation {
	t.Helper()
	var parts strings.Builder
	g, err := s.Complete(context.Background(), prompt, opt, func(text string) error {
		parts.WriteString(text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if parts.String() != g.Text {
		t.Errorf("streamed %q, returned %q", parts.String(), g.Text)
	}
	return g
}

// Greedy generation takes at each step the token that scoring calls greedy.
func TestGenerateGreedy(t *testing.T) {
	m := tinyModel(t, nil, nil)
	g := generate(t, m.NewSession(), "Hello", GenerateOptions{MaxTokens: 40})
	if len(g.Tokens) != 40 || g.Reason != Length {
		t.Fatalf("%d tokens, %q, expected 40 and the reason length", len(g.Tokens), g.Reason)
	}
	r := eval.TokenRequest{Context: m.tokenizer.Encode("Hello", true), Continuation: g.Tokens}
	if !run(t, m, []eval.TokenRequest{r})[0].Greedy {
		t.Errorf("the tokens %v are not greedy", g.Tokens)
	}
	if want := m.tokenizer.Decode(g.Tokens, true); g.Text != want {
		t.Errorf("text %q, the tokens decode to %q", g.Text, want)
	}
}

func TestGenerateEnds(t *testing.T) {
	m := tinyModel(t, nil, nil)
	all := generate(t, m.NewSession(), "Hello", GenerateOptions{})
	if n := m.info.MaxLength - len("Hello") + 1; len(all.Tokens) != n || all.Reason != Length {
		t.Errorf("%d tokens, %q, expected %d, as many as the model takes", len(all.Tokens), all.Reason, n)
	}
	stop := all.Text[20:24]
	want := all.Text[:strings.Index(all.Text, stop)]
	if g := generate(t, m.NewSession(), "Hello", GenerateOptions{Stop: []string{"never to come", stop}}); g.Text != want || g.Reason != StopString {
		t.Errorf("stopped at %q: %q, %q, expected %q", stop, g.Text, g.Reason, want)
	}

	// With a head of zeros all logits are equal and the first token is greedy.
	end := tinyModel(t, nil, func(m *enginetest.Model) { clear(m.Weights["lm_head.weight"]) })
	end.ends = []int32{0}
	if g := generate(t, end.NewSession(), "Hello", GenerateOptions{}); g.Text != "" || g.Reason != EndOfText || len(g.Tokens) != 1 {
		t.Errorf("text %q, %d tokens, %q, expected an end at once", g.Text, len(g.Tokens), g.Reason)
	}
}

// A session that reuses its cache says what a new one says.
func TestSessionReuse(t *testing.T) {
	m := tinyModel(t, nil, nil)
	s := m.NewSession()
	messages := []tokenizer.Message{{Role: "user", Content: "Hi"}}
	opt := GenerateOptions{MaxTokens: 12, Sampling: Sampling{Temperature: 0.9, TopK: 20, Seed: 5}}
	reused := 0
	for turn := range 3 {
		got, err := s.Chat(context.Background(), messages, opt, nil)
		if err != nil {
			t.Fatal(err)
		}
		fresh, err := m.NewSession().Chat(context.Background(), messages, opt, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Tokens, fresh.Tokens) {
			t.Errorf("turn %d: %v with the cache, %v without", turn, got.Tokens, fresh.Tokens)
		}
		if turn > 0 && got.Reused <= reused {
			t.Errorf("turn %d reuses %d tokens, the turn before %d", turn, got.Reused, reused)
		}
		reused = got.Reused
		messages = append(messages, tokenizer.Message{Role: "assistant", Content: got.Text}, tokenizer.Message{Role: "user", Content: "And?"})
	}
	again := generate(t, s, "Hello", opt)
	if g := generate(t, s, "Hello", opt); !slices.Equal(g.Tokens, again.Tokens) || g.Reused != len("Hello")-1 {
		t.Errorf("the same prompt again: %v, then %v with %d reused", again.Tokens, g.Tokens, g.Reused)
	}
}

func TestGenerateErrors(t *testing.T) {
	s := tinyModel(t, nil, nil).NewSession()
	for want, opt := range map[string]GenerateOptions{
		"temperature": {Sampling: Sampling{Temperature: -1}},
		"top-k":       {Sampling: Sampling{TopK: -1}},
		"top-p":       {Sampling: Sampling{TopP: 1.5}},
		"min-p":       {Sampling: Sampling{MinP: math.NaN()}},
		"repetition":  {Sampling: Sampling{RepetitionPenalty: -2}},
		"max-tokens":  {MaxTokens: -1},
		"stop string": {Stop: []string{""}},
	} {
		if _, err := s.Complete(context.Background(), "Hello", opt, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v", want, err)
		}
	}
	if _, err := s.Complete(context.Background(), strings.Repeat("x", 257), GenerateOptions{}, nil); err == nil || !strings.Contains(err.Error(), "257") {
		t.Errorf("a prompt that is too long: %v", err)
	}
	full := errors.New("pipe closed")
	if _, err := s.Complete(context.Background(), "Hello", GenerateOptions{}, func(string) error { return full }); !errors.Is(err, full) {
		t.Errorf("the error of emit came back as %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := 0
	g, err := s.Complete(ctx, "Hello", GenerateOptions{}, func(string) error {
		if n++; n == 3 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || g.Text == "" || len(g.Tokens) > 40 {
		t.Errorf("cancelled after some text: %v, %d tokens, %q", err, len(g.Tokens), g.Text)
	}
}

// Stop strings are found across pieces, and nothing of them is handed on.
func TestOutput(t *testing.T) {
	tok := tinyTokenizer(t)
	for _, tt := range []struct {
		text, want string
		stop       []string
		stopped    bool
	}{
		{"hello world", "hello world", nil, false},
		{"hello world", "hello ", []string{"wor"}, true},
		{"aaab", "a", []string{"aab"}, true},
		{"ab", "ab", []string{"abc"}, false},
		{"one\n\ntwo", "one", []string{"two", "\n\n"}, true},
		{"é!", "é", []string{"!"}, true},
		{"\xc3", "\uFFFD", nil, false},
	} {
		var pieces []string
		o := newOutput(tok.Stream(true), tt.stop, func(s string) error { pieces = append(pieces, s); return nil })
		stopped := false
		for _, b := range []byte(tt.text) {
			var err error
			if stopped, err = o.add(int32(b)); err != nil {
				t.Fatal(err)
			} else if stopped {
				break
			}
		}
		if err := o.flush(!stopped); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(pieces, ""); got != tt.want || stopped != tt.stopped || o.text() != got {
			t.Errorf("%q, stop at %q: %q, stopped %v, expected %q, %v", tt.text, tt.stop, got, stopped, tt.want, tt.stopped)
		}
	}
}
