package eval_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/eval/evaltest"
)

// scripted has two choices a record, of which the model prefers the first where right says
// so; the first is the gold answer.
func scripted(t *testing.T, name string, right []bool) *eval.Result {
	task := &eval.Task{Name: "yesno", Kind: eval.MultipleChoice, Metrics: []string{eval.Acc}, Source: "f", Answers: []string{"yes", "no"}}
	for i := range right {
		q := string(rune('a' + i))
		task.Docs = append(task.Docs, eval.Doc{ID: i, Lengths: []int{1, 1}, Record: []byte(`{}`),
			Pairs: []eval.Pair{{Context: q, Continuation: " y"}, {Context: q, Continuation: " n"}}})
	}
	m := evaltest.NewModel()
	m.ModelInfo.Name, m.ModelInfo.Weights = name, name
	m.Answer = func(r eval.TokenRequest) eval.TokenResult {
		if (r.Continuation[0] == sp('y')) == right[r.Context[0]-ch('a')] {
			return eval.TokenResult{LogLikelihood: -1}
		}
		return eval.TokenResult{LogLikelihood: -2}
	}
	return run(t, m, []*eval.Task{task}, eval.Options{})
}

func bools(s string) (out []bool) {
	for _, c := range s {
		out = append(out, c == '1')
	}
	return out
}

func TestCompareAccuracies(t *testing.T) {
	a := scripted(t, "whole", bools("1111111111110000"))
	b := scripted(t, "pruned", bools("1110000000000001"))
	c := eval.Compare(a, b)
	cell := c.Rows[0].Cells[1]
	// 9 records are right for a alone, 1 for b alone: p = 2 (1 + 10) / 2^10.
	want := &eval.PairedTest{Name: "mcnemar_exact", Records: 16, OnlyBaseline: 9, OnlyOther: 1}
	want.P = cell.Test.P
	if diff := cmp.Diff(want, cell.Test); diff != "" {
		t.Error(diff)
	}
	near(t, "p", cell.Test.P, 0.021484375, 1e-12)
	near(t, "change", *cell.Change, -0.5, 0)
	near(t, "relative change", *cell.Relative, -2.0/3, 1e-15)
	text := c.Text()
	for _, part := range []string{
		"0.7500", "0.2500", "-0.5000", "-66.67 %", "0.0215", "yes 25.0 %, no 75.0 %", "whole", "pruned",
		`yesno: B's acc of 0.2500 is below the majority rate of 1.0000 of always answering "yes"`,
	} {
		if !strings.Contains(text, part) {
			t.Errorf("the table lacks %q:\n%s", part, text)
		}
	}
	if strings.Contains(text, "not significant") {
		t.Errorf("p = 0.02 is called not significant:\n%s", text)
	}
	same := eval.Compare(a, scripted(t, "other", bools("1111111111100001"))).Text()
	if !strings.Contains(same, "yesno acc: the difference between A and B is not significant (McNemar's exact test, p = 1)") {
		t.Errorf("one record to either side:\n%s", same)
	}
}

func TestCompareAfterSaving(t *testing.T) {
	better := func(r eval.TokenRequest) eval.TokenResult {
		a := evaltest.Answer(r)
		a.LogLikelihood *= 0.8
		return a
	}
	m := evaltest.NewModel()
	m.ModelInfo.Name, m.Answer = "second", better
	a := run(t, evaltest.NewModel(), allTasks(), eval.Options{})
	b := run(t, m, allTasks(), eval.Options{})
	direct := eval.Compare(a, b)
	var loaded []*eval.Result
	for _, r := range []*eval.Result{a, b} {
		l, err := eval.Load(write(t, r, eval.WriteOptions{}))
		if err != nil {
			t.Fatal(err)
		}
		loaded = append(loaded, l)
	}
	saved := eval.Compare(loaded...)
	if diff := cmp.Diff(direct.Text(), saved.Text()); diff != "" {
		t.Error(diff)
	}
	want, err := direct.JSON()
	if err != nil {
		t.Fatal(err)
	}
	got, err := saved.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Error(diff)
	}
	for _, row := range direct.Rows {
		if test := row.Cells[1].Test; !eval.HigherIsBetter(row.Metric) && (test == nil || test.Name != "paired_bootstrap" || !test.Significant()) {
			t.Errorf("%s %s: a fifth less loss everywhere is tested as %+v", row.Task, row.Metric, test)
		}
	}
	if row := direct.Rows[2]; row.Task != "parts" || !row.Group || row.Cells[1].Test.Records != 15 {
		t.Errorf("the group is tested over %+v", row.Cells[1].Test)
	}
}

// Models may differ in tokenizer and options; the table says so, and tests only what both
// were asked.
func TestCompareConditions(t *testing.T) {
	m := evaltest.NewModel()
	m.ModelInfo.Tokenizer, m.ModelInfo.DType = "t2", "bf16"
	a := run(t, evaltest.NewModel(), allTasks(), eval.Options{})
	b := run(t, m, allTasks()[:5], eval.Options{BOS: eval.BOSNone, MaxLength: 8, Limit: 4})
	c := eval.Compare(a, b, run(t, m, allTasks()[5:], eval.Options{}))
	text := c.Text()
	for _, part := range []string{
		"A and B have different tokenizers", "--bos none", "maximum length of 4096 tokens, B with 8", "run in f32, B in bf16",
		"choices acc: the test of B against A is over the 4 records", "longer than 8 tokens",
		"text token_perplexity: not tested, since the tokenizers of A and C differ",
	} {
		if !strings.Contains(text, part) {
			t.Errorf("the table lacks %q:\n%s", part, text)
		}
	}
	narrow, wide := []*eval.Task{textTask(50, 8)}, []*eval.Task{textTask(50, 9)}
	windows := eval.Compare(run(t, m, narrow, eval.Options{}), run(t, m, wide, eval.Options{}))
	if test := windows.Rows[0].Cells[1].Test; test != nil {
		t.Errorf("windows of 8 and 9 tokens were paired: %+v", test)
	}
	other := clozeTask(5)
	for i := range other.Docs {
		other.Docs[i].Pairs[0].Context += "!"
	}
	changed := eval.Compare(run(t, m, []*eval.Task{clozeTask(5)}, eval.Options{}), run(t, m, []*eval.Task{other}, eval.Options{}))
	if test := changed.Rows[0].Cells[1].Test; test != nil {
		t.Errorf("records with other texts were paired: %+v", test)
	}
}

func TestCompareOne(t *testing.T) {
	c := eval.Compare(run(t, evaltest.NewModel(), allTasks(), eval.Options{}))
	text := c.Text()
	for _, part := range []string{"choices", "Chance", "Majority", "Answers chosen", "±", "word_perplexity"} {
		if !strings.Contains(text, part) {
			t.Errorf("the table lacks %q:\n%s", part, text)
		}
	}
	for _, part := range []string{"Change", "Relative"} {
		if strings.Contains(text, part) {
			t.Errorf("the table of one model has a column %q:\n%s", part, text)
		}
	}
	data, err := c.JSON()
	if err != nil || !json.Valid(data) {
		t.Errorf("%v: %s", err, data)
	}
}

func TestMarkdown(t *testing.T) {
	r := scripted(t, "a|b", bools("10"))
	for _, line := range strings.Split(strings.TrimSpace(eval.Compare(r, r).Markdown()), "\n") {
		if line != "" && !strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "- ") {
			t.Errorf("%q is neither a row nor an item", line)
		}
		if strings.HasPrefix(line, "| ") && strings.Contains(line, "a|b") {
			t.Errorf("%q has a name that breaks its row", line)
		}
	}
}
