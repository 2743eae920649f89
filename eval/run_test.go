package eval_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/eval/evaltest"
)

// choiceTask has n questions with two to four choices.
func choiceTask(name string, n int) *eval.Task {
	t := &eval.Task{
		Name: name, Kind: eval.MultipleChoice, Metrics: []string{eval.Acc, eval.AccNorm},
		Version: 1, Source: "dir/" + name + ".jsonl",
	}
	for i := range n {
		d := eval.Doc{
			ID: i, Line: i + 1, Gold: i % 2, Target: fmt.Sprint(i % 2),
			Record: fmt.Appendf(nil, `{"n":%d,"html":"<b>"}`, i),
		}
		for c := range 2 + i%3 {
			choice := strings.Repeat("é", c+1)
			d.Pairs = append(d.Pairs, eval.Pair{Context: fmt.Sprintf("Question %d:", i), Continuation: " " + choice})
			d.Lengths = append(d.Lengths, c+1)
		}
		t.Docs = append(t.Docs, d)
	}
	return t
}

func clozeTask(n int) *eval.Task {
	t := &eval.Task{Name: "cloze", Kind: eval.Cloze, Metrics: []string{eval.Perplexity, eval.Acc}, Version: 1, Source: "cloze.jsonl"}
	for i := range n {
		t.Docs = append(t.Docs, eval.Doc{
			ID: i, Line: i + 1, Record: []byte(`{}`), Target: " w",
			Pairs: []eval.Pair{{Context: fmt.Sprintf("text %d", i), Continuation: " w"}},
		})
	}
	return t
}

func rollingTask(n int) *eval.Task {
	t := &eval.Task{
		Name: "pages", Kind: eval.Rolling, Metrics: []string{eval.WordPerplexity, eval.BytePerplexity, eval.BitsPerByte},
		Version: 1, Source: "pages.raw",
	}
	for i := range n {
		text := strings.Repeat(fmt.Sprintf("page %d ", i), 4+i)
		t.Docs = append(t.Docs, eval.Doc{
			ID: i, Line: i + 1, Record: []byte(`{}`), Target: text, Text: text,
			Words: eval.CountWords(text), Bytes: len(text),
		})
	}
	return t
}

func textTask(tokens, window int) *eval.Task {
	text := strings.Repeat("x", tokens)
	return &eval.Task{
		Name: "text", Kind: eval.Text, Metrics: eval.Text.Metrics(), Version: 1, Source: "text.txt", Window: window,
		Docs: []eval.Doc{{Text: text, Words: 10, Bytes: tokens}},
	}
}

func allTasks() []*eval.Task {
	a, b := choiceTask("part_a", 9), choiceTask("part_b", 6)
	a.Group, b.Group = "parts", "parts"
	return []*eval.Task{choiceTask("choices", 7), a, b, clozeTask(5), rollingTask(4), textTask(50, 8)}
}

func run(t *testing.T, lm eval.LM, tasks []*eval.Task, opts eval.Options) *eval.Result {
	t.Helper()
	r, err := eval.Run(context.Background(), lm, tasks, opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestMultipleChoiceMetrics(t *testing.T) {
	task := &eval.Task{
		Name: "t", Kind: eval.MultipleChoice, Metrics: []string{eval.Acc, eval.AccNorm}, Source: "f", Answers: []string{"no", "yes"},
	}
	// The log-likelihoods of the choices, and their lengths in code points.
	lls := [][]float64{{-2, -3}, {-2, -2}, {-4, -3}, {-1, -2}}
	lengths := [][]int{{1, 3}, {2, 2}, {4, 2}, {1, 1}}
	gold := []int{0, 0, 0, 1}
	for i := range lls {
		q := fmt.Sprintf("q%d", i)
		task.Docs = append(task.Docs, eval.Doc{
			ID: i, Gold: gold[i], Lengths: lengths[i], Record: []byte(`{}`),
			Pairs: []eval.Pair{{Context: q, Continuation: " a"}, {Context: q, Continuation: " b"}},
		})
	}
	m := evaltest.NewModel()
	m.Answer = func(r eval.TokenRequest) eval.TokenResult {
		return eval.TokenResult{LogLikelihood: lls[r.Context[1]-ch('0')][r.Continuation[0]-sp('a')]}
	}
	got := run(t, m, []*eval.Task{task}, eval.Options{}).Tasks[0]
	// acc: right, right (the first of equals), wrong, wrong. acc_norm: -2 against -1 wrong,
	// equal right, -1 against -1.5 right, wrong.
	near(t, "acc", got.Metric(eval.Acc).Value, 0.5, 0)
	near(t, "acc_norm", got.Metric(eval.AccNorm).Value, 0.5, 0)
	near(t, "stderr", got.Metric(eval.Acc).StdErr, math.Sqrt(1.0/3)/2, 1e-15)
	want := &eval.Guessing{
		Chance: 0.5, Majority: 0.75, MajorityName: "no",
		Answers: []eval.AnswerRate{{Name: "no", Gold: 0.75, Chosen: 0.75}, {Name: "yes", Gold: 0.25, Chosen: 0.25}},
	}
	if diff := cmp.Diff(want, got.Guessing); diff != "" {
		t.Error(diff)
	}
	var scores [][]float64
	for _, s := range got.Samples {
		scores = append(scores, s.Scores)
	}
	if diff := cmp.Diff([][]float64{{1, 0}, {1, 1}, {0, 1}, {0, 0}}, scores); diff != "" {
		t.Error(diff)
	}
}

func TestClozeMetrics(t *testing.T) {
	m := evaltest.NewModel()
	m.Answer = func(r eval.TokenRequest) eval.TokenResult {
		i := float64(r.Context[len(r.Context)-1] - sp('0'))
		return eval.TokenResult{LogLikelihood: -1 - i, Greedy: i == 0}
	}
	got := run(t, m, []*eval.Task{clozeTask(4)}, eval.Options{}).Tasks[0]
	near(t, "perplexity", got.Metric(eval.Perplexity).Value, math.Exp(2.5), 1e-12)
	near(t, "its logarithm", got.Metric(eval.Perplexity).Log, 2.5, 0)
	near(t, "acc", got.Metric(eval.Acc).Value, 0.25, 0)
	// The mean of four resampled values of variance 1.25 has the standard deviation
	// sqrt(1.25/4) = 0.56, and exp of a normal of that width about the mean 2.5 has
	// exp(2.5 + 0.156) * sqrt(exp(0.3125) - 1) = 8.6.
	near(t, "bootstrapped stderr", got.Metric(eval.Perplexity).StdErr, 8.6, 1.2)
}

func TestRollingMetrics(t *testing.T) {
	m := evaltest.NewModel()
	m.Answer = func(r eval.TokenRequest) eval.TokenResult {
		return eval.TokenResult{LogLikelihood: -0.5 * float64(len(r.Continuation))}
	}
	task := &eval.Task{Name: "t", Kind: eval.Rolling, Metrics: eval.Rolling.Metrics(), Source: "f", Docs: []eval.Doc{
		{ID: 0, Text: "abcdefgh", Words: 2, Bytes: 16},
		{ID: 1, Text: "abcd", Words: 4, Bytes: 32},
	}}
	got := run(t, m, []*eval.Task{task}, eval.Options{MaxLength: 3}).Tasks[0]
	near(t, "word perplexity", got.Metric(eval.WordPerplexity).Value, math.Exp(6.0/6), 1e-15)
	near(t, "byte perplexity", got.Metric(eval.BytePerplexity).Value, math.Exp(6.0/48), 1e-15)
	near(t, "bits per byte", got.Metric(eval.BitsPerByte).Value, 6.0/48/math.Ln2, 1e-15)
	if n := len(got.Samples[0].Answers); n != 3 {
		t.Errorf("8 tokens in windows of 3 are %d windows", n)
	}
}

// In rolling tasks the tokenizer's BOS is the prefix alone, but for --bos lm-eval, which
// has it predicted after itself.
func TestRollingBOS(t *testing.T) {
	for rule, want := range map[eval.BOSRule]int{eval.BOSTokenizer: 4, eval.BOSNone: 4, eval.BOSLMEval: 5} {
		m := evaltest.NewModel()
		m.AddBOS = true
		task := &eval.Task{Name: "t", Kind: eval.Rolling, Metrics: eval.Rolling.Metrics(), Source: "f",
			Docs: []eval.Doc{{Text: "abcd", Words: 1, Bytes: 4}}}
		a := run(t, m, []*eval.Task{task}, eval.Options{BOS: rule}).Tasks[0].Samples[0].Answers[0]
		if len(a.Continuation) != want || a.Context[0] != evaltest.BOS {
			t.Errorf("%s: context %v, %d tokens predicted, want %d", rule, a.Context, len(a.Continuation), want)
		}
	}
}

func TestTextMetrics(t *testing.T) {
	m := evaltest.NewModel()
	m.Answer = func(r eval.TokenRequest) eval.TokenResult {
		return eval.TokenResult{LogLikelihood: -0.5 * float64(len(r.Continuation))}
	}
	got := run(t, m, []*eval.Task{textTask(50, 8)}, eval.Options{}).Tasks[0]
	if got.Records != 6 || got.Evaluated != 6 {
		t.Errorf("50 tokens give %d windows of 8, %d asked", got.Records, got.Evaluated)
	}
	near(t, "token perplexity", got.Metric(eval.TokenPerplexity).Value, math.Exp(0.5), 1e-12)
	// 0.5 a token, 50 tokens in 10 words and 50 bytes.
	near(t, "word perplexity", got.Metric(eval.WordPerplexity).Value, math.Exp(2.5), 1e-12)
	near(t, "bits per byte", got.Metric(eval.BitsPerByte).Value, 0.5/math.Ln2, 1e-12)
	if limited := run(t, m, []*eval.Task{textTask(50, 8)}, eval.Options{Limit: 2}).Tasks[0]; limited.Evaluated != 2 || limited.Records != 6 {
		t.Errorf("limit 2: %d of %d", limited.Evaluated, limited.Records)
	}
}

func TestGroup(t *testing.T) {
	r := run(t, evaltest.NewModel(), allTasks(), eval.Options{})
	g := r.Groups[0]
	a, b := r.Task("part_a"), r.Task("part_b")
	want := (9*a.Metric(eval.AccNorm).Value + 6*b.Metric(eval.AccNorm).Value) / 15
	near(t, "size-weighted mean", g.Metrics[1].Value, want, 1e-15)
	near(t, "pooled stderr", g.Metrics[1].StdErr,
		eval.PooledStdErr([]float64{a.Metric(eval.AccNorm).StdErr, b.Metric(eval.AccNorm).StdErr}, []int{9, 6}), 0)
	if g.Name != "parts" || g.Records != 15 || !cmp.Equal(g.Tasks, []string{"part_a", "part_b"}) {
		t.Errorf("%+v", g)
	}
}

func TestLimitAndSamples(t *testing.T) {
	ids := func(opts eval.Options) (out []int) {
		for _, s := range run(t, evaltest.NewModel(), []*eval.Task{choiceTask("t", 6)}, opts).Tasks[0].Samples {
			out = append(out, s.DocID)
		}
		return out
	}
	for _, c := range []struct {
		opts eval.Options
		want []int
	}{
		{eval.Options{}, []int{0, 1, 2, 3, 4, 5}},
		{eval.Options{Limit: 2}, []int{0, 1}},
		{eval.Options{Limit: 100}, []int{0, 1, 2, 3, 4, 5}},
		{eval.Options{Samples: map[string][]int{"t": {5, 0, 5}}}, []int{0, 5}},
	} {
		if diff := cmp.Diff(c.want, ids(c.opts)); diff != "" {
			t.Errorf("%+v: %s", c.opts, diff)
		}
	}
	got := run(t, evaltest.NewModel(), []*eval.Task{choiceTask("t", 6)}, eval.Options{Limit: 2}).Tasks[0]
	if got.Records != 6 || got.Evaluated != 2 {
		t.Errorf("%d of %d records", got.Evaluated, got.Records)
	}
}

// A context that is too long loses its begin, which is counted; the recorded ids are whole.
func TestTruncation(t *testing.T) {
	m := evaltest.NewModel()
	var longest int
	m.Answer = func(r eval.TokenRequest) eval.TokenResult {
		longest = max(longest, len(r.Context)+len(r.Continuation)-1)
		if r.Context[len(r.Context)-1] != ch(':') {
			t.Errorf("the context %v lost its end", r.Context)
		}
		return evaltest.Answer(r)
	}
	got := run(t, m, []*eval.Task{choiceTask("t", 3)}, eval.Options{MaxLength: 6}).Tasks[0]
	// The contexts "Question 0:" have 10 tokens in the toy tokenizer; with a continuation of
	// 1, 2, 3, 4 tokens the input has 10, 11, 12, 13.
	if longest != 6 || got.Truncated != 9 || got.TruncatedTokens != 3*4+3*5+2*6+7 {
		t.Errorf("longest input %d, %d requests cut by %d tokens", longest, got.Truncated, got.TruncatedTokens)
	}
	if n := len(got.Samples[0].Answers[0].Context); n != 10 {
		t.Errorf("the recorded context has %d tokens", n)
	}
}

func TestRunErrors(t *testing.T) {
	nan := evaltest.NewModel()
	nan.Answer = func(r eval.TokenRequest) eval.TokenResult {
		if r.Context[len(r.Context)-2] == sp('4') {
			return eval.TokenResult{LogLikelihood: math.NaN()}
		}
		return evaltest.Answer(r)
	}
	empty := choiceTask("t", 3)
	empty.Docs[1].Pairs[1].Continuation = ""
	mixed := []*eval.Task{choiceTask("a", 2), clozeTask(2)}
	mixed[0].Group, mixed[1].Group = "g", "g"
	one := []*eval.Task{choiceTask("t", 6)}
	for _, c := range []struct {
		name  string
		lm    eval.LM
		tasks []*eval.Task
		opts  eval.Options
		usage bool
		want  []string
	}{
		{"NaN", nan, one, eval.Options{}, false, []string{"task t, record 4 (dir/t.jsonl:5)", "choice 0", "NaN"}},
		{"failed request", failing{evaltest.NewModel()}, one, eval.Options{}, false, []string{"task t, record", "layer 7"}},
		{"silent model", silent{evaltest.NewModel()}, one, eval.Options{}, false, []string{"answered 0 of"}},
		{"empty continuation", evaltest.NewModel(), []*eval.Task{empty}, eval.Options{}, false, []string{"task t, record 1 (dir/t.jsonl:2): choice 1", "empty"}},
		{"continuation too long", evaltest.NewModel(), one, eval.Options{MaxLength: 1}, false, []string{"task t, record 0", "more than the maximum length 1"}},
		{"beyond the model", evaltest.NewModel(), one, eval.Options{MaxLength: 5000}, true, []string{"5000", "4096"}},
		{"bad rule", evaltest.NewModel(), one, eval.Options{BOS: "both"}, true, []string{"both"}},
		{"both limits", evaltest.NewModel(), one, eval.Options{Limit: 1, Samples: map[string][]int{"t": {1}}}, true, []string{"--limit", "--samples"}},
		{"record that is not there", evaltest.NewModel(), one, eval.Options{Samples: map[string][]int{"t": {6}}}, true, []string{"record 6", "task t", "0 to 5"}},
		{"negative record", evaltest.NewModel(), one, eval.Options{Samples: map[string][]int{"t": {-1}}}, true, []string{"record -1"}},
		{"no record", evaltest.NewModel(), one, eval.Options{Samples: map[string][]int{"t": {}}}, true, []string{"task t"}},
		{"unknown task", evaltest.NewModel(), one, eval.Options{Samples: map[string][]int{"u": {1}}}, true, []string{"task u"}},
		{"twice", evaltest.NewModel(), []*eval.Task{one[0], one[0]}, eval.Options{}, true, []string{"task t", "twice"}},
		{"none", evaltest.NewModel(), nil, eval.Options{}, true, []string{"no task"}},
		{"mixed group", evaltest.NewModel(), mixed, eval.Options{}, false, []string{"cloze", "group"}},
		{"short text", evaltest.NewModel(), []*eval.Task{textTask(5, 8)}, eval.Options{}, true, []string{"5 tokens", "8"}},
	} {
		_, err := eval.Run(context.Background(), c.lm, c.tasks, c.opts)
		if err == nil {
			t.Errorf("%s: no error", c.name)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %q lacks %q", c.name, err, want)
			}
		}
		if usage := new(eval.UsageError); errors.As(err, &usage) != c.usage {
			t.Errorf("%s: usage error %v, want %v: %v", c.name, !c.usage, c.usage, err)
		}
	}
}

// failing reports the third request as one that it cannot score.
type failing struct{ *evaltest.Model }

func (failing) Score(context.Context, []eval.TokenRequest, func(int, eval.TokenResult) error) error {
	return fmt.Errorf("scoring: %w", &eval.RequestError{Index: 2, Err: errors.New("NaN in layer 7")})
}

// silent answers nothing and reports no error.
type silent struct{ *evaltest.Model }

func (silent) Score(context.Context, []eval.TokenRequest, func(int, eval.TokenResult) error) error {
	return nil
}

// Requests come with common prefixes side by side: no request lies between two that share
// more with each other than with it.
func TestOrder(t *testing.T) {
	m := evaltest.NewModel()
	var order []string
	m.Answer = func(r eval.TokenRequest) eval.TokenResult {
		order = append(order, fmt.Sprint(r.Context))
		return evaltest.Answer(r)
	}
	run(t, m, []*eval.Task{choiceTask("t", 30)}, eval.Options{})
	seen := map[string]bool{}
	for i, c := range order {
		if i > 0 && c != order[i-1] && seen[c] {
			t.Fatalf("the context of request %d came before, with others between", i)
		}
		seen[c] = true
	}
}

func TestProgress(t *testing.T) {
	var last eval.Progress
	calls := 0
	r := run(t, evaltest.NewModel(), []*eval.Task{choiceTask("t", 9)}, eval.Options{Progress: func(p eval.Progress) {
		calls++
		if p.Requests != calls || p.Task != "t" || p.Name != eval.Acc {
			t.Errorf("call %d: %+v", calls, p)
		}
		last = p
	}})
	if last.Requests != last.Total || last.Tokens != last.TotalTokens || last.Finished != 9 || last.Total != 27 {
		t.Errorf("at the end: %+v", last)
	}
	near(t, "running accuracy at the end", last.Metric, r.Tasks[0].Metric(eval.Acc).Value, 0)
	if r.Usage.Tokens != last.Tokens || r.Usage.Requests != 27 || r.Usage.Resumed != 0 {
		t.Errorf("usage %+v", r.Usage)
	}
}

// A run that is killed after any number of requests, in any order, and started again gives
// the result, and the bytes, of one that was not.
func TestResume(t *testing.T) {
	whole := evaltest.NewModel()
	uninterrupted := run(t, whole, allTasks(), eval.Options{})
	wantResult, wantFiles := resultJSON(t, uninterrupted), writtenFiles(t, uninterrupted)
	for kill := range whole.Asked {
		dir := t.TempDir()
		m := evaltest.NewModel()
		m.Reverse = kill%2 == 1
		ctx, cancel := context.WithCancel(context.Background())
		opts := eval.Options{Dir: dir, Progress: func(p eval.Progress) {
			if p.Requests == kill {
				cancel()
			}
		}}
		if kill == 0 {
			cancel()
		}
		if _, err := eval.Run(ctx, m, allTasks(), opts); !errors.Is(err, context.Canceled) {
			t.Fatalf("killed after %d requests: error %v", kill, err)
		}
		cancel()
		again := evaltest.NewModel()
		r := run(t, again, allTasks(), eval.Options{Dir: dir})
		if again.Asked != whole.Asked-kill || r.Usage.Resumed != kill {
			t.Errorf("killed after %d of %d requests: %d were asked again, %d resumed", kill, whole.Asked, again.Asked, r.Usage.Resumed)
		}
		if diff := cmp.Diff(wantResult, resultJSON(t, r)); diff != "" {
			t.Fatalf("killed after %d requests: %s", kill, diff)
		}
		if kill%20 != 0 {
			continue // writing takes long, for it waits for the disk
		}
		if diff := cmp.Diff(wantFiles, writtenFiles(t, r)); diff != "" {
			t.Fatalf("killed after %d requests: %s", kill, diff)
		}
	}
}

// resultJSON is everything in a result but its usage.
func resultJSON(t *testing.T, r *eval.Result) string {
	t.Helper()
	var samples [][]eval.Sample
	for _, task := range r.Tasks {
		samples = append(samples, task.Samples)
	}
	data, err := json.Marshal([]any{r, samples})
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// writtenFiles are the contents of the files of a result by their names, but for its usage.
func writtenFiles(t *testing.T, r *eval.Result) map[string]string {
	t.Helper()
	r.Usage = eval.Usage{}
	date := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	paths, err := eval.Write(t.TempDir(), r, eval.WriteOptions{Time: date, Samples: true, Tokens: true})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, p := range paths {
		out[filepath.Base(p)] = readFile(t, p)
	}
	return out
}
