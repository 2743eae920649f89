package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/internal/shared"
)

// recordedAnswer is a line of the recorded answers of lm-eval.
type recordedAnswer struct {
	Task                  string
	Doc                   *int
	Choice                int
	Context, Continuation []int32
	LogLikelihood         float64
	Greedy                bool
}

// The samples that eval writes about some records of each task are those of lm-eval: the
// same ids, log-likelihoods within 1e-3, the same greedy flags. (Package lm compares all
// that was recorded; here it is the way from the flags to the files.)
func TestRealEval(t *testing.T) {
	dir := shared.Dir(t)
	b, err := os.ReadFile(filepath.Join(dir, "golden", "eval", "smol.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	most := map[string]int{"arc_easy": 5, "boolq": 3, "lambada_openai": 5, "lambada_standard": 5, "musr_team_allocation": 1}
	picked := map[string][]int{}
	want := map[string]recordedAnswer{}
	for line := range strings.Lines(string(b)) {
		var r recordedAnswer
		decode(t, line, &r)
		if r.Doc == nil || most[r.Task] == 0 {
			continue
		}
		if !slices.Contains(picked[r.Task], *r.Doc) {
			if len(picked[r.Task]) == most[r.Task] {
				continue
			}
			picked[r.Task] = append(picked[r.Task], *r.Doc)
		}
		want[fmt.Sprint(r.Task, *r.Doc, r.Choice)] = r
	}
	samples, err := json.Marshal(picked)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	succeed(t, "eval", filepath.Join(dir, filepath.FromSlash(realModel)), "--data-dir", filepath.Join(dir, "data"), "-o", out, "--quiet",
		"--tasks", "arc_easy,boolq,lambada_openai,lambada_standard,musr_team_allocation", "--samples", string(samples), "--log-tokens")
	for task := range picked {
		found, err := filepath.Glob(filepath.Join(out, "samples_"+task+"_*.jsonl"))
		if err != nil || len(found) != 1 {
			t.Fatal(task, found, err)
		}
		b, err := os.ReadFile(found[0])
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			var s struct {
				DocID        int           `json:"doc_id"`
				Resps        [][][2]string `json:"resps"`
				Context      [][]int32     `json:"context_ids"`
				Continuation [][]int32     `json:"continuation_ids"`
			}
			decode(t, line, &s)
			for i, resp := range s.Resps {
				key := fmt.Sprint(task, s.DocID, i)
				w, ok := want[key]
				if !ok {
					t.Errorf("%s was not recorded", key)
					continue
				}
				delete(want, key)
				if !cmp.Equal(s.Context[i], w.Context) || !cmp.Equal(s.Continuation[i], w.Continuation) {
					t.Errorf("%s: other ids", key)
				}
				ll, err := strconv.ParseFloat(resp[0][0], 64)
				if err != nil {
					t.Fatal(err)
				}
				if !(math.Abs(ll-w.LogLikelihood) <= 1e-3) {
					t.Errorf("%s: log-likelihood %v, lm-eval has %v", key, ll, w.LogLikelihood)
				}
				if greedy := resp[0][1] == "True"; greedy != w.Greedy {
					t.Errorf("%s: greedy %v, lm-eval has %v", key, greedy, w.Greedy)
				}
			}
		}
	}
	for key := range want {
		t.Errorf("%s is missing", key)
	}
}
