package lm

import (
	"context"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/engine/enginetest"
)

// together has a batch of at most width texts continue the prompts.
func together(t *testing.T, m *Model, width, threads int, prompts []string, opt func(i int) GenerateOptions) []Generation {
	t.Helper()
	b := m.NewBatch(threads)
	all := make([]Generation, len(prompts))
	for next, made := 0, 0; made < len(all); {
		for b.Len() < width && next < len(prompts) {
			if err := b.Add(next, m.Prompt(prompts[next]), opt(next)); err != nil {
				t.Fatal(err)
			}
			next++
		}
		ended, err := b.Step(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range ended {
			all[e.ID] = e.Generation
			made++
		}
	}
	if b.Len() != 0 || b.Tokens() != 0 {
		t.Errorf("%d texts with %d tokens are left", b.Len(), b.Tokens())
	}
	return all
}

// Each text of a batch is what a session makes of it, however many are beside it and
// whichever ended before it; some end by a stop string or by their length, and prompts are
// of more tokens than a step takes.
func TestBatch(t *testing.T) {
	m := tinyModel(t, map[string]any{"max_position_embeddings": 1200}, nil)
	var prompts []string
	for i := range 9 {
		prompts = append(prompts, fmt.Sprintf("Text %d", i))
	}
	prompts[4], prompts[5] = strings.Repeat("long", 200), strings.Repeat("longer", 140)
	opt := func(i int) GenerateOptions {
		o := GenerateOptions{MaxTokens: 5 + 7*i%30, Sampling: Sampling{Temperature: 0.9, TopP: 0.95, Seed: uint64(i)}}
		if i%3 == 2 {
			o.Stop = []string{"e", "\ufffd"}
		}
		return o
	}
	var want []Generation
	reasons := map[Reason]bool{}
	for i, p := range prompts {
		g := generate(t, m.NewSession(), p, opt(i))
		g.PromptTime, g.DecodeTime = 0, 0
		want = append(want, g)
		reasons[g.Reason] = true
	}
	if !reasons[StopString] || !reasons[Length] {
		t.Fatalf("the texts ended by %v alone", reasons)
	}
	for _, width := range []int{1, 4, len(prompts)} {
		for _, threads := range []int{1, 3} {
			if got := together(t, m, width, threads, prompts, opt); !reflect.DeepEqual(got, want) {
				t.Errorf("%d at a time on %d threads: %+v, want %+v", width, threads, got, want)
			}
		}
	}
}

func TestBatchErrors(t *testing.T) {
	m := tinyModel(t, nil, nil)
	b := m.NewBatch(0)
	if err := b.Add(0, m.Prompt(strings.Repeat("x", 257)), GenerateOptions{}); err == nil || !strings.Contains(err.Error(), "257") || b.Len() != 0 {
		t.Errorf("a prompt that is too long: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := b.Add(0, m.Prompt("a"), GenerateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Step(ctx); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
	// The token b is not finite: the text that begins with it is named.
	broken := tinyModel(t, nil, func(m *enginetest.Model) {
		row := m.Weights["model.embed_tokens.weight"]
		width := len(row) / 258
		for i := range width {
			row['b'*width+i] = float32(math.NaN())
		}
	})
	b = broken.NewBatch(2)
	for i, p := range []string{"a", "b"} {
		if err := b.Add(7+i, broken.Prompt(p), GenerateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Step(context.Background()); err == nil || !strings.HasPrefix(err.Error(), "text 8: ") {
		t.Errorf("a token that is not a number: %v", err)
	}
}
