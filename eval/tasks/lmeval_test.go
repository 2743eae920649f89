package tasks

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/eval"
)

// lmevalAnswer is what lm-eval makes of a record (testdata/lmeval/make.py).
type lmevalAnswer struct {
	Pairs [][2]string `json:"pairs"`
	Gold  any         `json:"gold"`
}

// The texts of every kind of task are those of lm-eval 0.4.13, from JSON Lines and from
// Parquet, on random records full of what rules are about.
func TestTextsOfLMEval(t *testing.T) {
	dir := filepath.Join("testdata", "lmeval")
	data, err := os.ReadFile(filepath.Join(dir, "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	var expected map[string][]lmevalAnswer
	if err := json.Unmarshal(data, &expected); err != nil {
		t.Fatal(err)
	}
	if len(expected) != 9 {
		t.Fatalf("answers for %d tasks", len(expected))
	}
	for name, want := range expected {
		for _, ext := range []string{".jsonl", ".parquet"} {
			t.Run(name+ext, func(t *testing.T) {
				task, err := definition(t, name).Load(filepath.Join(dir, name+ext))
				if err != nil {
					t.Fatal(err)
				}
				var got []lmevalAnswer
				for _, d := range task.Docs {
					got = append(got, answerOf(task.Kind, d))
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

func definition(t *testing.T, name string) Definition {
	t.Helper()
	found, err := Find(name)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %d definitions, %v", name, len(found), err)
	}
	return found[0]
}

func answerOf(kind eval.Kind, d eval.Doc) lmevalAnswer {
	if kind == eval.Rolling {
		return lmevalAnswer{[][2]string{{d.Text, ""}}, []any{float64(d.Words), float64(d.Bytes)}}
	}
	a := lmevalAnswer{Gold: float64(d.Gold)}
	for _, p := range d.Pairs {
		a.Pairs = append(a.Pairs, [2]string{p.Context, p.Continuation})
	}
	return a
}
