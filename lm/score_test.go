package lm

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/enginetest"
	"github.com/coppice-lm/coppice/eval"
)

// someRequests are requests with prefixes in common, equal ones and nested ones.
func someRequests(n int) []eval.TokenRequest {
	r := rand.New(rand.NewPCG(1, 2))
	random := func(n int) []int32 {
		t := make([]int32, n)
		for i := range t {
			t[i] = int32(r.IntN(258))
		}
		return t
	}
	var contexts [][]int32
	var requests []eval.TokenRequest
	for i := range n {
		if i%4 == 0 || len(contexts) == 0 {
			c := random(1 + r.IntN(40))
			if len(contexts) > 0 && i%8 == 0 {
				c = append(slices.Clone(contexts[r.IntN(len(contexts))]), c...)
			}
			contexts = append(contexts, c)
		}
		c := contexts[r.IntN(len(contexts))]
		requests = append(requests, eval.TokenRequest{Context: c, Continuation: random(1 + r.IntN(6))})
	}
	return append(requests, requests[0], eval.TokenRequest{Context: requests[0].Context, Continuation: append(slices.Clone(requests[0].Continuation), 3)})
}

// run scores requests and returns the results in their order.
func run(t *testing.T, m *Model, requests []eval.TokenRequest) []eval.TokenResult {
	t.Helper()
	results := make([]eval.TokenResult, len(requests))
	calls := 0
	if err := m.Score(context.Background(), requests, func(i int, r eval.TokenResult) error {
		results[i] = r
		calls++
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if calls != len(requests) {
		t.Fatalf("%d results for %d requests", calls, len(requests))
	}
	return results
}

func TestScoreTogetherIsScoreAlone(t *testing.T) {
	for name, keys := range map[string]map[string]any{
		"plain": nil,
		"dynamic": {"max_position_embeddings": 256,
			"rope_scaling": map[string]any{"rope_type": "longrope", "original_max_position_embeddings": 20,
				"short_factor": []float64{1, 1, 1, 1}, "long_factor": []float64{1, 2, 3, 4}}},
	} {
		m := tinyModel(t, keys, nil)
		requests := someRequests(60)
		together := run(t, m, requests)
		for i, r := range requests {
			alone := run(t, m, []eval.TokenRequest{r})[0]
			if alone != together[i] {
				t.Fatalf("%s: request %d: %v together, %v alone", name, i, together[i], alone)
			}
			if !(alone.LogLikelihood < 0) {
				t.Fatalf("%s: request %d has the log-likelihood %v", name, i, alone.LogLikelihood)
			}
		}
		order := rand.New(rand.NewPCG(3, 4)).Perm(len(requests))
		shuffled := make([]eval.TokenRequest, len(requests))
		for i, k := range order {
			shuffled[i] = requests[k]
		}
		for i, r := range run(t, m, shuffled) {
			if r != together[order[i]] {
				t.Fatalf("%s: request %d: another result in another order", name, order[i])
			}
		}
	}
}

// The tree holds each distinct prefix once and asks for the right predictions.
func TestTree(t *testing.T) {
	requests := someRequests(60)
	tr := grow(requests, func(int) int { return 0 })
	if err := tr.batch.Validate(258); err != nil {
		t.Fatal(err)
	}
	prefixes := map[string]bool{}
	for i, r := range requests {
		in := input(r)
		for n := range in {
			var key strings.Builder
			for _, v := range in[:n+1] {
				key.WriteRune(rune(v) + 0x4e00)
			}
			prefixes[key.String()] = true
		}
		for j, p := range tr.places[i] {
			n := tr.batch.Nodes[p.node]
			target := n.Targets[p.target]
			path := tr.batch.Path(p.node)
			path = path[:len(path)-len(n.Tokens)+target.Index+1]
			if want := append(slices.Clone(r.Context), r.Continuation[:j]...); !slices.Equal(path, want) || target.Token != r.Continuation[j] {
				t.Fatalf("request %d, token %d: asked for %d after %v, expected %d after %v", i, j, target.Token, path, r.Continuation[j], want)
			}
		}
	}
	if got := tr.batch.Tokens(); got != len(prefixes) {
		t.Errorf("%d tokens in the tree, %d distinct prefixes", got, len(prefixes))
	}
}

func TestBatchSize(t *testing.T) {
	long := func(first int32, n int) eval.TokenRequest {
		c := make([]int32, n)
		c[0] = first
		return eval.TokenRequest{Context: c, Continuation: []int32{1}}
	}
	for _, tt := range []struct {
		name     string
		requests []eval.TokenRequest
		want     int
	}{
		{"one that is too long", []eval.TokenRequest{long(1, 5000), long(2, 10)}, 1},
		{"cut before the bound", []eval.TokenRequest{long(1, 600), long(2, 600)}, 1},
		{"shared all the way", []eval.TokenRequest{long(1, 1000), long(1, 1010), long(1, 1020), long(1, 1030)}, 4},
		{"small ones", slices.Repeat([]eval.TokenRequest{long(1, 300), long(2, 300), long(3, 300)}, 2), 3},
	} {
		if got := batchSize(tt.requests); got != tt.want {
			t.Errorf("%s: %d requests in a batch, expected %d", tt.name, got, tt.want)
		}
	}
}

func TestScoreErrors(t *testing.T) {
	good := eval.TokenRequest{Context: []int32{1, 2}, Continuation: []int32{3}}
	nan := func(m *enginetest.Model) {
		m.Weights["model.embed_tokens.weight"][99*m.Transformer.Hidden] = float32(math.NaN())
	}
	for name, tt := range map[string]struct {
		bad  eval.TokenRequest
		want string
	}{
		"no context":       {eval.TokenRequest{Continuation: []int32{1}}, "at least one token"},
		"no continuation":  {eval.TokenRequest{Context: []int32{1}}, "at least one token"},
		"unknown token":    {eval.TokenRequest{Context: []int32{258}, Continuation: []int32{1}}, "258"},
		"unknown token, 2": {eval.TokenRequest{Context: []int32{1}, Continuation: []int32{-1}}, "-1"},
		"too long":         {eval.TokenRequest{Context: make([]int32, 256), Continuation: []int32{1, 1}}, "257"},
		"NaN":              {eval.TokenRequest{Context: []int32{99}, Continuation: []int32{1}}, "embedding"},
	} {
		m := tinyModel(t, nil, nan)
		err := m.Score(context.Background(), []eval.TokenRequest{good, tt.bad, good}, func(int, eval.TokenResult) error { return nil })
		var bad *eval.RequestError
		if !errors.As(err, &bad) || bad.Index != 1 || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, expected request 1 and %q", name, err, tt.want)
		}
	}
	m := tinyModel(t, nil, nil)
	stop := errors.New("stop")
	if err := m.Score(context.Background(), []eval.TokenRequest{good}, func(int, eval.TokenResult) error { return stop }); err != stop {
		t.Errorf("the error of done came back as %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := m.Score(ctx, []eval.TokenRequest{good}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	// Exactly the model's length is not too long.
	run(t, m, []eval.TokenRequest{{Context: make([]int32, 256), Continuation: []int32{1}}})
}

// The tiny model's answers are those of its engine: nothing is lost between tokens and
// targets.
func TestScoreIsTheEngines(t *testing.T) {
	m := tinyModel(t, nil, nil)
	r := eval.TokenRequest{Context: []int32{5, 6}, Continuation: []int32{7, 8}}
	got, err := m.engine.Score(context.Background(), engine.Batch{Nodes: []engine.Node{{
		Parent: -1, Tokens: []int32{5, 6, 7}, Targets: []engine.Target{{Index: 1, Token: 7}, {Index: 2, Token: 8}},
	}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := eval.TokenResult{
		LogLikelihood: float64(got[0][0].LogProb) + float64(got[0][1].LogProb),
		Greedy:        got[0][0].Greedy && got[0][1].Greedy,
	}
	if d := run(t, m, []eval.TokenRequest{r})[0]; math.Abs(d.LogLikelihood-want.LogLikelihood) > 1e-12 || d.Greedy != want.Greedy {
		t.Errorf("%v, expected %v", d, want)
	}
}
