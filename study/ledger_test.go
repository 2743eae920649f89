package study

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/eval"
)

// testResult is an evaluation of n records: a multiple choice task of which the first right
// records are right, a cloze and a text.
func testResult(n, right int, shift float64) *eval.Result {
	choice := eval.TaskResult{
		Name: "arc_easy", Kind: eval.MultipleChoice, Version: 1, Source: "arc.jsonl", Records: 2 * n, Evaluated: n, Fingerprint: "aa",
		Metrics:  []eval.Metric{{Name: eval.Acc, Value: float64(right) / float64(n), StdErr: 0.1, Log: math.NaN()}},
		Guessing: &eval.Guessing{Chance: 0.25, Majority: 0.3, MajorityName: "A", Answers: []eval.AnswerRate{{Name: "A", Gold: 0.3, Chosen: 0.2}}},
	}
	cloze := eval.TaskResult{
		Name: "lambada_openai", Kind: eval.Cloze, Version: 1, Records: n, Evaluated: n, Fingerprint: "bb",
		Metrics: []eval.Metric{{Name: eval.Perplexity, Value: math.Exp(5 + shift), StdErr: 2, Log: 5 + shift}, {Name: eval.Acc, Value: 0, StdErr: 0, Log: math.NaN()}},
	}
	text := eval.TaskResult{
		Name: "wiki.txt", Kind: eval.Text, Version: 1, Records: n, Evaluated: n, Fingerprint: "cc", Window: 64,
		Metrics: []eval.Metric{{Name: eval.TokenPerplexity, Value: math.Inf(1), StdErr: math.NaN(), Log: 1000}},
	}
	for i := range n {
		hit := 0.0
		if i < right {
			hit = 1
		}
		noise := float64(i%7) / 10
		choice.Samples = append(choice.Samples, eval.Sample{DocID: i, Fingerprint: fmt.Sprint("r", i), Scores: []float64{hit}, Weights: []float64{1}})
		cloze.Samples = append(cloze.Samples, eval.Sample{DocID: i, Fingerprint: fmt.Sprint("l", i), Scores: []float64{-5 - shift*(1+noise) - noise, 0}, Weights: []float64{1, 1}})
		text.Samples = append(text.Samples, eval.Sample{DocID: i, Fingerprint: fmt.Sprint("t", i), Scores: []float64{-1000 * 63}, Weights: []float64{63}})
	}
	return &eval.Result{
		Model: eval.ModelInfo{Name: "m", DType: "f32", Weights: "sha256:w", Tokenizer: "sha256:t", MaxLength: 100},
		BOS:   eval.BOSTokenizer, MaxLength: 100, Limit: n, Tasks: []eval.TaskResult{choice, cloze, text},
		Groups: []eval.GroupResult{{Name: "g", Tasks: []string{"arc_easy"}, Records: n, Metrics: choice.Metrics, Chance: 0.25, Majority: 0.3}},
	}
}

func testRecord(id, method string, ratio float64, res *eval.Result) Record {
	r := Record{Version: LedgerVersion, Status: Done, Cell: Cell{ID: id, Model: "m", Method: method, Ratio: ratio, DType: "f32", Allocation: uniform}}
	r.AddResult(res)
	r.Run = &Run{Started: "2026-01-01T00:00:00Z", Seconds: 3}
	return r
}

// testLedger has the dense model, maxabs and best at 60 %, and a cell that failed.
func testLedger(t *testing.T) *Ledger {
	t.Helper()
	l := &Ledger{Study: "test"}
	l.addRecord(testRecord("d0", Dense, 0, testResult(20, 18, 0)))
	l.addRecord(testRecord("m6", maxAbs, 0.6, testResult(20, 9, 2)))
	l.addRecord(testRecord("b6", "best", 0.6, testResult(20, 15, 1)))
	l.addRecord(Record{Version: LedgerVersion, Status: Failed, Error: "why & <how>", Cell: Cell{ID: "f", Model: "m", Method: "obs", Ratio: 0.6, DType: "f32"}})
	for _, c := range l.missing() {
		l.addComparison(c)
	}
	return l
}

// A record in compact form gives the comparisons that the results themselves give.
func TestResult(t *testing.T) {
	a, b := testResult(20, 18, 0), testResult(20, 9, 2)
	ra, rb := testRecord("a", Dense, 0, a), testRecord("b", maxAbs, 0.6, b)
	got, want := eval.Compare(ra.Result(), rb.Result()), eval.Compare(a, b)
	if diff := cmp.Diff(want.Rows, got.Rows, cmp.Comparer(sameFloat)); diff != "" {
		t.Errorf("rows of records differ from those of results:\n%s", diff)
	}
	if got.Rows[1].Cells[1].Test == nil || got.Rows[1].Cells[1].Test.Records != 20 {
		t.Errorf("no paired test over the 20 records: %+v", got.Rows[1].Cells[1].Test)
	}
	// Records of tasks that asked something else are not paired.
	rb.Tasks[0].Fingerprint = "other"
	for _, row := range eval.Compare(ra.Result(), rb.Result()).Rows {
		if row.Task == "arc_easy" && row.Cells[1].Test != nil {
			t.Errorf("records of different tasks were paired: %+v", row.Cells[1].Test)
		}
	}
}

func sameFloat(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) }

// A ledger reads back as it was written.
func TestLedger(t *testing.T) {
	l := testLedger(t)
	b, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	path := writeTemp(t, b)
	got, err := ReadLedger(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Comparisons) != 3 { // maxabs and best against dense, best against maxabs
		t.Errorf("%d comparisons, want 3", len(got.Comparisons))
	}
	if again, err := got.Encode(); err != nil || string(again) != string(b) {
		t.Errorf("encoded again it differs (%v):\n%s", err, cmp.Diff(string(b), string(again)))
	}
	if r := got.Record("m6"); r == nil || r.Run == nil || r.Tasks[2].Metrics[0].Value != math.Inf(1) {
		t.Errorf("a record changed: %+v", r)
	}
	if bare, err := got.Canonical(); err != nil || strings.Contains(string(bare), "2026-01-01") || got.Records[0].Run == nil {
		t.Errorf("the canonical form has times, or took them away: %v\n%s", err, bare)
	}
	// A failed cell that was run again counts by its last record, a finished one stays.
	got.addRecord(testRecord("f", "obs", 0.6, testResult(20, 3, 1)))
	got.addRecord(Record{Version: 1, Status: Failed, Cell: Cell{ID: "d0"}})
	if got.Record("f").Status != Done || got.Record("d0").Status != Done || len(got.Records) != 4 {
		t.Errorf("the last finished record of a cell is not the one that counts")
	}
}

func writeTemp(t *testing.T, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ledger.jsonl")
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// Cut off anywhere, a ledger loses its last line and says so; every other damage is an
// error with the line's number.
func TestLedgerDamaged(t *testing.T) {
	b, err := testLedger(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(b), "\n")
	lines = lines[:len(lines)-1]
	for n := 0; n < len(b); n += 61 {
		l, err := ReadLedger(writeTemp(t, b[:n]))
		if err != nil {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
		whole := n == 0 || b[n-1] == '\n'
		if noted := len(l.Notes) == 1 && strings.Contains(l.Notes[0], "cut off"); noted == whole {
			t.Fatalf("cut to %d bytes: notes %q", n, l.Notes)
		}
	}
	join := func(ls ...string) string { return strings.Join(ls, "") }
	for _, c := range []struct{ name, text, want string }{
		{"the middle", join(lines[0], lines[1][:50]+"\n", lines[2]), ":2: "},
		{"not a ledger", "{\"a\":1}\n", ":1: this is not the ledger of a study"},
		{"not a ledger, without the end of a line", "{\"a\":1}", ":1: this is not the ledger of a study"},
		{"a record without status", join(lines[0], strings.Replace(lines[1], `"done"`, `""`, 1), lines[2]), `:2: cell d0: the status is ""`},
		{"columns", join(lines[0], strings.Replace(lines[1], `"docs":[0,`, `"docs":[`, 1), lines[2]), ":2: cell d0: task arc_easy: its columns have different lengths"},
		{"neither", join(lines[0], "{\"version\":1}\n", lines[2]), ":2: neither a record nor a comparison"},
		{"newer", strings.Replace(lines[0], `"ledger":1`, `"ledger":2`, 1), ":1: version 2 of the study's ledger is newer"},
		{"a newer line", join(lines[0], lines[1], strings.Replace(lines[2], `"version":1`, `"version":7`, 1)), ":3: version 7 of"},
	} {
		_, err := ReadLedger(writeTemp(t, []byte(c.text)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if newer := strings.Contains(c.name, "newer"); errors.As(err, new(*VersionError)) != newer {
			t.Errorf("%s: %T", c.name, err)
		}
	}
}

func TestCompareCells(t *testing.T) {
	cells := []Cell{
		{Model: "a", DType: "f32", Method: Dense},
		{Model: "a", DType: "f32", Method: maxAbs, Ratio: 0.2},
		{Model: "a", DType: "f32", Method: "activation", Ratio: 0.2},
		{Model: "a", DType: "f32", Method: "best", Ratio: 0.2},
		{Model: "a", DType: "f32", Method: "best", Ratio: 0.2, Seed: 1},
		{Model: "a", DType: "f32", Method: maxAbs, Ratio: 0.4},
		{Model: "a", DType: "f32", Method: maxAbs, Width: 500},
		{Model: "a", DType: "f32", Method: maxAbs, Width: 300},
		{Model: "a", DType: "bf16", Method: Dense},
		{Model: "b", DType: "f32", Method: Dense},
	}
	for i := 1; i < len(cells); i++ {
		if i != 6 && cells[i-1].Compare(&cells[i]) >= 0 { // ratios and widths are not in one study
			t.Errorf("%v does not come before %v", &cells[i-1], &cells[i])
		}
	}
	if s := cells[4].String(); s != "a best 20 % seed 1 f32" {
		t.Errorf("named %q", s)
	}
}

// A ledger of 500 cells of six tasks with 200 records each, and 30 layers.
func BenchmarkReadLedger(b *testing.B) {
	l := &Ledger{Study: "bench"}
	for i := range 500 {
		r := testRecord(fmt.Sprint("c", i), []string{Dense, maxAbs, "best"}[min(i, 1+i%2)], float64(i)/1000, testResult(200, 100, 1))
		r.Tasks = append(r.Tasks, r.Tasks...)
		r.Shape, r.Curves = &Shape{}, &Curves{}
		for range 30 {
			r.Shape.Kept = append(r.Shape.Kept, make([]byte, 192))
			r.Curves.Layers = append(r.Curves.Layers, LayerCurve{make([]int, curvePoints), make([]float64, curvePoints)})
		}
		l.Records = append(l.Records, r)
	}
	text, err := l.Encode()
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), "ledger.jsonl")
	if err := os.WriteFile(path, text, 0o666); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if l, err := ReadLedger(path); err != nil || len(l.Records) != 500 {
			b.Fatal(err)
		}
	}
}
