package eval_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/eval/evaltest"
	"github.com/coppice-lm/coppice/internal/filelock"
)

var date = time.Date(2026, 11, 25, 13, 14, 15, 123456000, time.UTC)

const dateText = "2026-11-25T13-14-15.123456"

func write(t *testing.T, r *eval.Result, opts eval.WriteOptions) string {
	t.Helper()
	dir := t.TempDir()
	opts.Time = date
	if _, err := eval.Write(dir, r, opts); err != nil {
		t.Fatal(err)
	}
	return dir
}

// at follows keys and indices into decoded JSON.
func at(t *testing.T, value any, path ...any) any {
	t.Helper()
	for i, p := range path {
		switch p := p.(type) {
		case string:
			object, ok := value.(map[string]any)
			if value, ok = object[p], ok && object[p] != nil; !ok {
				t.Fatalf("nothing at %v", path[:i+1])
			}
		case int:
			list, ok := value.([]any)
			if !ok || p >= len(list) {
				t.Fatalf("nothing at %v", path[:i+1])
			}
			value = list[p]
		}
	}
	return value
}

func decode(t *testing.T, data string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(data), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestWriteResults(t *testing.T) {
	r := run(t, evaltest.NewModel(), allTasks(), eval.Options{})
	dir := write(t, r, eval.WriteOptions{Program: "coppice 0.0"})
	text := readFile(t, filepath.Join(dir, "results_"+dateText+".json"))
	results := decode(t, text)
	acc := r.Task("choices").Metric(eval.Acc)
	for _, c := range []struct {
		want any
		path []any
	}{
		{acc.Value, []any{"results", "choices", "acc,none"}},
		{acc.StdErr, []any{"results", "choices", "acc_stderr,none"}},
		{"choices", []any{"results", "choices", "alias"}},
		{r.Groups[0].Metrics[0].Value, []any{"results", "parts", "acc,none"}},
		{r.Groups[0].Metrics[0].StdErr, []any{"groups", "parts", "acc_stderr,none"}},
		{"part_b", []any{"group_subtasks", "parts", 1}},
		{7.0, []any{"n-samples", "choices", "effective"}},
		{0.0, []any{"n-shot", "choices"}},
		{true, []any{"higher_is_better", "choices", "acc"}},
		{false, []any{"higher_is_better", "pages", "word_perplexity"}},
		{"multiple_choice", []any{"configs", "choices", "output_type"}},
		{1.0, []any{"versions", "choices"}},
		{1000.0, []any{"config", "model_num_parameters"}},
		{"f32", []any{"config", "model_dtype"}},
		{"tokenizer", []any{"config", "bos"}},
		{"<s>", []any{"tokenizer_bos_token", 0}},
		{"toy", []any{"model_name"}},
		{float64(date.UnixMicro()) / 1e6, []any{"date"}},
	} {
		if got := at(t, results, c.path...); got != c.want {
			t.Errorf("%v = %v, want %v", c.path, got, c.want)
		}
	}
	// Tables made of the file follow the order of the run, the group before its tasks.
	if !(strings.Index(text, `"parts": {`) < strings.Index(text, `"part_a": {`)) {
		t.Error("the group does not stand before its tasks")
	}
}

// What a killed run was writing is removed, what another run is writing is not.
func TestWriteClearsLeftovers(t *testing.T) {
	dir := t.TempDir()
	paths := map[string]bool{".coppice-tmp-left": false, ".coppice-tmp-held": true, ".tmp-of-others": true}
	for name := range paths {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if name != ".coppice-tmp-held" {
			f.Close()
		} else if err := filelock.Try(f); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := eval.Write(dir, run(t, evaltest.NewModel(), allTasks(), eval.Options{}), eval.WriteOptions{Time: date}); err != nil {
		t.Fatal(err)
	}
	for name, stays := range paths {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != stays {
			t.Errorf("%s: %v, want it to stay: %v", name, err, stays)
		}
	}
}

func TestWriteSamples(t *testing.T) {
	r := run(t, evaltest.NewModel(), allTasks(), eval.Options{Samples: map[string][]int{"choices": {2, 5}}})
	dir := write(t, r, eval.WriteOptions{Samples: true, Tokens: true})
	lines := strings.Split(strings.TrimSpace(readFile(t, filepath.Join(dir, "samples_choices_"+dateText+".jsonl"))), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines", len(lines))
	}
	if !strings.Contains(lines[1], `"html":"<b>"`) {
		t.Errorf("the record is not as it was read: %s", lines[1])
	}
	sample := decode(t, lines[1])
	answers := r.Task("choices").Samples[1].Answers
	for i, a := range answers {
		arg := fmt.Sprintf("gen_args_%d", i)
		if got := at(t, sample, "arguments", arg, "arg_0"); got != "Question 5:" {
			t.Errorf("context %q", got)
		}
		if got := at(t, sample, "arguments", arg, "arg_1"); got != " "+strings.Repeat("é", i+1) {
			t.Errorf("continuation %q", got)
		}
		for _, path := range [][]any{{"resps", i, 0}, {"filtered_resps", i}} {
			pair := at(t, sample, path...)
			ll, err := strconv.ParseFloat(at(t, pair, 0).(string), 64)
			if err != nil || ll != a.LogLikelihood {
				t.Errorf("%v: log-likelihood %v, want exactly %v", path, at(t, pair, 0), a.LogLikelihood)
			}
			if greedy := at(t, pair, 1); greedy != map[bool]string{true: "True", false: "False"}[a.Greedy] {
				t.Errorf("%v: greedy %v", path, greedy)
			}
		}
		if got := at(t, sample, "continuation_ids", i, 0); got != float64(a.Continuation[0]) {
			t.Errorf("continuation_ids %v", got)
		}
		if got := len(at(t, sample, "context_ids", i).([]any)); got != len(a.Context) {
			t.Errorf("%d context_ids", got)
		}
	}
	for path, want := range map[string]any{"doc_id": 5.0, "target": "1", "filter": "none"} {
		if got := at(t, sample, path); got != want {
			t.Errorf("%s = %v, want %v", path, got, want)
		}
	}
	if got := at(t, sample, "acc"); got != r.Task("choices").Samples[1].Scores[0] {
		t.Errorf("acc = %v", got)
	}
	for _, name := range []string{"part_a", "part_b", "cloze", "pages", "text"} {
		if _, err := os.Stat(filepath.Join(dir, "samples_"+name+"_"+dateText+".jsonl")); err != nil {
			t.Error(err)
		}
	}
	page := decode(t, strings.SplitN(readFile(t, filepath.Join(dir, "samples_pages_"+dateText+".jsonl")), "\n", 2)[0])
	if got := at(t, page, "word_perplexity", 0); got != r.Task("pages").Samples[0].Scores[0] {
		t.Errorf("word_perplexity of a page is %v", got)
	}
}

// A perplexity too large for a number is marked, its logarithm kept, and no file holds
// Infinity or NaN.
func TestOverflowIsStrictJSON(t *testing.T) {
	m := evaltest.NewModel()
	m.Answer = func(eval.TokenRequest) eval.TokenResult { return eval.TokenResult{LogLikelihood: -800.25} }
	r := run(t, m, []*eval.Task{clozeTask(3), choiceTask("one", 1)}, eval.Options{})
	if p := r.Task("cloze").Metric(eval.Perplexity); !p.Overflow() || p.Log != 800.25 {
		t.Errorf("%+v", p)
	}
	dir := write(t, r, eval.WriteOptions{Samples: true})
	found, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(found) != 5 {
		t.Fatalf("%v, %v", found, err)
	}
	for _, path := range found {
		scanner := bufio.NewScanner(strings.NewReader(readFile(t, path)))
		for scanner.Scan() {
			if bytes.Contains(scanner.Bytes(), []byte("Infinity")) || bytes.Contains(scanner.Bytes(), []byte("NaN")) {
				t.Errorf("%s: %s", path, scanner.Text())
			}
		}
	}
	results := decode(t, readFile(t, filepath.Join(dir, "results_"+dateText+".json")))
	if got := at(t, results, "results", "cloze", "perplexity,none"); got != "overflow" {
		t.Errorf("perplexity,none = %v", got)
	}
	if got := at(t, results, "results", "cloze", "perplexity_log,none"); got != 800.25 {
		t.Errorf("perplexity_log,none = %v", got)
	}
	if got := at(t, results, "results", "one", "acc_stderr,none"); got != "N/A" {
		t.Errorf("the standard error of one record is %v", got)
	}
	loaded, err := eval.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if p := loaded.Task("cloze").Metric(eval.Perplexity); !p.Overflow() || p.Log != 800.25 {
		t.Errorf("loaded: %+v", p)
	}
	c := eval.Compare(loaded, loaded)
	if !strings.Contains(c.Text(), "e^800.25") || !strings.Contains(c.Text(), "too large for a number") {
		t.Error(c.Text())
	}
	if data, err := c.JSON(); err != nil || !json.Valid(data) {
		t.Errorf("%v\n%s", err, data)
	}
}

// What Load reads is what Write wrote, but for the answers.
func TestLoad(t *testing.T) {
	r := run(t, evaltest.NewModel(), allTasks(), eval.Options{Limit: 4})
	r.Usage.PeakMemory = 1 << 30
	dir := write(t, r, eval.WriteOptions{})
	opts := cmp.Options{
		cmpopts.IgnoreUnexported(eval.TaskResult{}), cmpopts.IgnoreFields(eval.Sample{}, "Answers"), cmpopts.EquateNaNs(),
	}
	for _, path := range []string{dir, filepath.Join(dir, "results_"+dateText+".json")} {
		got, err := eval.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, got, opts); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
	// The latest of several.
	later := *r
	later.Model.Name = "later"
	if _, err := eval.Write(dir, &later, eval.WriteOptions{Time: date.Add(time.Second)}); err != nil {
		t.Fatal(err)
	}
	if got, err := eval.Load(dir); err != nil || got.Model.Name != "later" {
		t.Errorf("%v, %v", got, err)
	}
	// Without its records file a result still has its values.
	if err := os.Remove(filepath.Join(dir, "records_"+dateText+".json")); err != nil {
		t.Fatal(err)
	}
	got, err := eval.Load(filepath.Join(dir, "results_"+dateText+".json"))
	if err != nil || got.Tasks[0].Samples != nil {
		t.Fatal(err)
	}
	near(t, "acc", got.Tasks[0].Metrics[0].Value, r.Tasks[0].Metrics[0].Value, 0)
	if _, err := eval.Write(t.TempDir(), got, eval.WriteOptions{Time: date, Samples: true}); err == nil {
		t.Error("samples were written of a result that has none")
	}
}

func TestLoadErrors(t *testing.T) {
	good := write(t, run(t, evaltest.NewModel(), []*eval.Task{clozeTask(3)}, eval.Options{}), eval.WriteOptions{})
	broken := func(name, old, new string) string {
		dir := t.TempDir()
		for _, n := range []string{"results_", "records_", "usage_"} {
			text := readFile(t, filepath.Join(good, n+dateText+".json"))
			if n == name {
				if changed := strings.Replace(text, old, new, 1); changed != text {
					text = changed
				} else {
					t.Fatalf("%s holds no %q", n, old)
				}
			}
			if err := os.WriteFile(filepath.Join(dir, n+dateText+".json"), []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	for name, c := range map[string]struct{ path, want string }{
		"missing":     {filepath.Join(good, "no"), "no such file"},
		"empty":       {t.TempDir(), "holds no results_*.json"},
		"other":       {broken("results_", `"coppice": {`, `"copse": {`), `no section "coppice"`},
		"version":     {broken("results_", `"version": 1,`, `"version": 9,`), "version is 9"},
		"syntax":      {broken("results_", `{`, `[`), "invalid character"},
		"columns":     {broken("records_", `"doc_ids":[0,`, `"doc_ids":[`), "different lengths"},
		"metrics":     {broken("records_", `"scores":[[`, `"scores":[[],[`), "where the results have 2"},
		"not records": {broken("records_", "coppice eval records", "else"), "not a records file"},
	} {
		if _, err := eval.Load(c.path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
}

func TestSanitizeName(t *testing.T) {
	// As lm_eval.utils.sanitize_model_name.
	for name, want := range map[string]string{
		"meta-llama/Llama-3.2-1B": "meta-llama__Llama-3.2-1B", "./a//b": ".__a__b", `c:\x`: "c__x", "plain": "plain",
	} {
		if got := eval.SanitizeName(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// Digits read back exactly and look like Python's, whose str makes the reference's files.
func TestFloatDigits(t *testing.T) {
	want := map[float64]string{
		-10.767449378967285: "-10.767449378967285", -3: "-3.0", 1e-5: "1e-05", 0.0001: "0.0001", -1.5e-7: "-1.5e-07",
		1e16: "1e+16", 123456789012345.0: "123456789012345.0", math.Copysign(0, 1): "0.0",
	}
	for x, text := range want {
		m := evaltest.NewModel()
		m.Answer = func(eval.TokenRequest) eval.TokenResult { return eval.TokenResult{LogLikelihood: x} }
		dir := write(t, run(t, m, []*eval.Task{clozeTask(1)}, eval.Options{}), eval.WriteOptions{Samples: true})
		sample := decode(t, readFile(t, filepath.Join(dir, "samples_cloze_"+dateText+".jsonl")))
		if got := at(t, sample, "resps", 0, 0, 0); got != text {
			t.Errorf("%v is written %v, in Python %s", x, got, text)
		}
	}
}
