package evaltest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/eval/tasks"
)

// Tolerances are how far a model's log-likelihoods may be from those that were recorded.
type Tolerances struct {
	Request float64 // of one request
	Page    float64 // of a page of wikitext, a sum over thousands of tokens
	Metric  float64 // of a perplexity, relative
}

// F32 are the tolerances for a computation in float32.
var F32 = Tolerances{Request: 1e-3, Page: 0.05, Metric: 1e-3}

// golden is a line of the recorded answers.
type golden struct {
	Task          string             `json:"task"`
	Doc           *int               `json:"doc"`
	Choice        int                `json:"choice"`
	Page          *int               `json:"page"`
	Window        int                `json:"window"`
	Context       []int32            `json:"context"`
	Continuation  []int32            `json:"continuation"`
	LogLikelihood float64            `json:"loglikelihood"`
	Greedy        *bool              `json:"greedy"`
	Words         int                `json:"words"`
	Bytes         int                `json:"bytes"`
	Summary       map[string]float64 `json:"summary"`
	Docs          []int              `json:"docs"`
}

// Golden runs the recorded records of the shared directory on a model, which must be the
// one that they were recorded with, and compares every token id, log-likelihood, greedy
// flag and metric. Greedy flags may differ where mayDiffer allows it; nil allows none.
func Golden(t *testing.T, lm eval.LM, sharedDir string, tol Tolerances, mayDiffer func(eval.TokenRequest) bool) {
	t.Helper()
	recorded := map[string][]golden{}
	for _, file := range []string{"smol.jsonl", "wikitext.jsonl"} {
		for _, g := range readGolden(t, filepath.Join(sharedDir, "golden", "eval", file)) {
			recorded[g.Task] = append(recorded[g.Task], g)
		}
	}
	for name, lines := range recorded {
		t.Run(name, func(t *testing.T) {
			opts := eval.Options{Samples: map[string][]int{}}
			if name == "wikitext" {
				opts.MaxLength = 1024 // that of the record
			}
			for _, g := range lines {
				if g.Docs != nil {
					opts.Samples[name] = g.Docs
				}
			}
			list, err := tasks.Open([]string{name}, tasks.Data{Dir: filepath.Join(sharedDir, "data")})
			if err != nil {
				t.Fatal(err)
			}
			result, err := eval.Run(context.Background(), lm, list, opts)
			if err != nil {
				t.Fatal(err)
			}
			c := comparer{t, tol, mayDiffer, &result.Tasks[0]}
			compared := 0
			for _, g := range lines {
				compared += c.compare(g)
			}
			if compared < 2 {
				t.Errorf("only %d recorded answers were compared", compared)
			}
		})
	}
}

func readGolden(t *testing.T, path string) []golden {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []golden
	scanner := bufio.NewScanner(bytes.NewReader(data))
	scanner.Buffer(nil, 1<<24)
	for scanner.Scan() {
		var g golden
		if err := json.Unmarshal(scanner.Bytes(), &g); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		out = append(out, g)
	}
	if err := scanner.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

type comparer struct {
	t         *testing.T
	tol       Tolerances
	mayDiffer func(eval.TokenRequest) bool
	result    *eval.TaskResult
}

// compare checks a recorded line and returns how many answers that were.
func (c comparer) compare(g golden) int {
	c.t.Helper()
	switch {
	case g.Summary != nil:
		for name, want := range g.Summary {
			m := c.result.Metric(name)
			if m == nil {
				c.t.Errorf("no metric %s", name)
			} else if math.Abs(m.Value-want) > c.tol.Metric*math.Abs(want) {
				c.t.Errorf("%s = %v, recorded %v", name, m.Value, want)
			}
		}
		return 1
	case g.Page != nil:
		c.answer(*g.Page, g.Window, g)
		return 1
	case g.Words != 0:
		s := c.sample(*g.Doc)
		if s.Weights[0] != float64(g.Words) || s.Weights[1] != float64(g.Bytes) {
			c.t.Errorf("page %d: %v words, %v bytes, recorded %d and %d", *g.Doc, s.Weights[0], s.Weights[1], g.Words, g.Bytes)
		}
		if math.Abs(s.Scores[0]-g.LogLikelihood) > c.tol.Page {
			c.t.Errorf("page %d: log-likelihood %v, recorded %v", *g.Doc, s.Scores[0], g.LogLikelihood)
		}
		return 1
	}
	c.answer(*g.Doc, g.Choice, g)
	return 1
}

func (c comparer) sample(doc int) *eval.Sample {
	c.t.Helper()
	i := slices.IndexFunc(c.result.Samples, func(s eval.Sample) bool { return s.DocID == doc })
	if i < 0 {
		c.t.Fatalf("record %d was not asked", doc)
	}
	return &c.result.Samples[i]
}

func (c comparer) answer(doc, request int, g golden) {
	c.t.Helper()
	answers := c.sample(doc).Answers
	if request >= len(answers) {
		c.t.Errorf("record %d: request %d of %d", doc, request, len(answers))
		return
	}
	a := answers[request]
	if !slices.Equal(a.Context, g.Context) || !slices.Equal(a.Continuation, g.Continuation) {
		c.t.Errorf("record %d, request %d: ids %v + %v, recorded %v + %v", doc, request, a.Context, a.Continuation, g.Context, g.Continuation)
		return
	}
	tol := c.tol.Request
	if g.Page != nil {
		tol = c.tol.Page
	}
	if math.Abs(a.LogLikelihood-g.LogLikelihood) > tol {
		c.t.Errorf("record %d, request %d: log-likelihood %v, recorded %v", doc, request, a.LogLikelihood, g.LogLikelihood)
	}
	if g.Greedy != nil && a.Greedy != *g.Greedy && (c.mayDiffer == nil || !c.mayDiffer(a.TokenRequest)) {
		c.t.Errorf("record %d, request %d: greedy %v, recorded %v", doc, request, a.Greedy, *g.Greedy)
	}
}
