package evaltest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
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
// one that they were recorded with, and reports every token id, log-likelihood, greedy flag
// and metric that differs. Greedy flags may differ where mayDiffer allows it; nil allows
// none.
func Golden(t *testing.T, lm eval.LM, sharedDir string, tol Tolerances, mayDiffer func(eval.TokenRequest) bool) {
	t.Helper()
	differences, compared, err := Differences(lm, sharedDir, tol, mayDiffer)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range differences {
		t.Error(d)
	}
	t.Logf("%d recorded answers compared", compared)
}

// Differences is Golden without a test: the differences in words, and how many recorded
// lines were compared.
func Differences(lm eval.LM, sharedDir string, tol Tolerances, mayDiffer func(eval.TokenRequest) bool) (differences []string, compared int, err error) {
	recorded := map[string][]golden{}
	var names []string
	for _, file := range []string{"smol.jsonl", "wikitext.jsonl"} {
		lines, err := readGolden(filepath.Join(sharedDir, "golden", "eval", file))
		if err != nil {
			return nil, 0, err
		}
		for _, g := range lines {
			if recorded[g.Task] == nil {
				names = append(names, g.Task)
			}
			recorded[g.Task] = append(recorded[g.Task], g)
		}
	}
	for _, name := range names {
		opts := eval.Options{Samples: map[string][]int{}}
		if name == "wikitext" {
			opts.MaxLength = 1024 // that of the record
		}
		for _, g := range recorded[name] {
			if g.Docs != nil {
				opts.Samples[name] = g.Docs
			}
		}
		list, err := tasks.Open([]string{name}, tasks.Data{Dir: filepath.Join(sharedDir, "data")})
		if err != nil {
			return nil, 0, err
		}
		result, err := eval.Run(context.Background(), lm, list, opts)
		if err != nil {
			return nil, 0, err
		}
		c := comparer{tol: tol, mayDiffer: mayDiffer, result: &result.Tasks[0]}
		for _, g := range recorded[name] {
			c.compare(g)
			compared++
		}
		differences = append(differences, c.differences...)
	}
	return differences, compared, nil
}

func readGolden(path string) ([]golden, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []golden
	for number, line := range bytes.Split(bytes.TrimSpace(data), []byte("\n")) {
		var g golden
		if err := json.Unmarshal(line, &g); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, number+1, err)
		}
		out = append(out, g)
	}
	return out, nil
}

type comparer struct {
	tol         Tolerances
	mayDiffer   func(eval.TokenRequest) bool
	result      *eval.TaskResult
	differences []string
}

func (c *comparer) differ(format string, args ...any) {
	c.differences = append(c.differences, c.result.Name+": "+fmt.Sprintf(format, args...))
}

// compare checks a recorded line.
func (c *comparer) compare(g golden) {
	switch {
	case g.Summary != nil:
		for name, want := range g.Summary {
			m := c.result.Metric(name)
			if m == nil {
				c.differ("no metric %s", name)
			} else if math.Abs(m.Value-want) > c.tol.Metric*math.Abs(want) {
				c.differ("%s = %v, recorded %v", name, m.Value, want)
			}
		}
	case g.Page != nil:
		c.answer(*g.Page, g.Window, g)
	case g.Words != 0:
		s := c.sample(*g.Doc)
		if s == nil {
			return
		}
		if s.Weights[0] != float64(g.Words) || s.Weights[1] != float64(g.Bytes) {
			c.differ("page %d: %v words, %v bytes, recorded %d and %d", *g.Doc, s.Weights[0], s.Weights[1], g.Words, g.Bytes)
		}
		if math.Abs(s.Scores[0]-g.LogLikelihood) > c.tol.Page {
			c.differ("page %d: log-likelihood %v, recorded %v", *g.Doc, s.Scores[0], g.LogLikelihood)
		}
	default:
		c.answer(*g.Doc, g.Choice, g)
	}
}

func (c *comparer) sample(doc int) *eval.Sample {
	i := slices.IndexFunc(c.result.Samples, func(s eval.Sample) bool { return s.DocID == doc })
	if i < 0 {
		c.differ("record %d was not asked", doc)
		return nil
	}
	return &c.result.Samples[i]
}

func (c *comparer) answer(doc, request int, g golden) {
	s := c.sample(doc)
	if s == nil {
		return
	}
	if request >= len(s.Answers) {
		c.differ("record %d has no request %d, only %d", doc, request, len(s.Answers))
		return
	}
	a := s.Answers[request]
	if !slices.Equal(a.Context, g.Context) || !slices.Equal(a.Continuation, g.Continuation) {
		c.differ("record %d, request %d: ids %v + %v, recorded %v + %v", doc, request, a.Context, a.Continuation, g.Context, g.Continuation)
		return
	}
	tol := c.tol.Request
	if g.Page != nil {
		tol = c.tol.Page
	}
	if math.Abs(a.LogLikelihood-g.LogLikelihood) > tol {
		c.differ("record %d, request %d: log-likelihood %v, recorded %v", doc, request, a.LogLikelihood, g.LogLikelihood)
	}
	if g.Greedy != nil && a.Greedy != *g.Greedy && (c.mayDiffer == nil || !c.mayDiffer(a.TokenRequest)) {
		c.differ("record %d, request %d: greedy %v, recorded %v", doc, request, a.Greedy, *g.Greedy)
	}
}
