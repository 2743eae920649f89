package evaltest_test

import (
	"context"
	"math"
	"path/filepath"
	"testing"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/eval/evaltest"
	"github.com/coppice-lm/coppice/eval/tasks"
	"github.com/coppice-lm/coppice/internal/shared"
)

// A model that always says no reaches 0.378287 on BoolQ, where 62.17 % of the answers are
// yes: below the majority, which the table must say.
func TestBoolQAlwaysNo(t *testing.T) {
	list, err := tasks.Open([]string{"boolq"}, tasks.Data{Dir: filepath.Join(shared.Dir(t), "data")})
	if err != nil {
		t.Fatal(err)
	}
	m := evaltest.NewModel()
	m.Answer = func(r eval.TokenRequest) eval.TokenResult {
		return eval.TokenResult{LogLikelihood: -float64(len(r.Continuation))} // " no" is shorter
	}
	r, err := eval.Run(context.Background(), m, list, eval.Options{})
	if err != nil {
		t.Fatal(err)
	}
	task := r.Tasks[0]
	if acc := task.Metric(eval.Acc); math.Abs(acc.Value-0.378287) > 5e-7 || math.Abs(acc.StdErr-0.0084820) > 5e-8 {
		t.Errorf("acc %v ± %v", acc.Value, acc.StdErr)
	}
	g := task.Guessing
	if g.Chance != 0.5 || math.Abs(g.Majority-0.6217) > 5e-5 || g.MajorityName != "yes" || g.Answers[0].Chosen != 1 {
		t.Errorf("%+v", g)
	}
}

// Golden sees what differs: every record and metric, where a toy answers in the place of the
// recorded model. (That the right model passes is tested where there is one, in package lm.)
func TestDifferences(t *testing.T) {
	differences, compared, err := evaltest.Differences(evaltest.NewModel(), shared.Dir(t), evaltest.F32, nil)
	if err != nil {
		t.Fatal(err)
	}
	if compared != 787+14 {
		t.Errorf("%d recorded lines were compared", compared)
	}
	// 780 requests, 7 tasks with an acc, an acc_norm or a perplexity too, 14 lines of wikitext.
	if len(differences) < 795 {
		t.Errorf("a toy differs from the recorded model in only %d places", len(differences))
	}
}
