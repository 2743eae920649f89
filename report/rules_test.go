package report

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/study"
)

// cellRecord is a record with accuracies of task "a" (four choices) and word perplexities of "t".
func cellRecord(id, method string, ratio float64, bytes int64, acc, ppl float64) study.Record {
	a := eval.TaskResult{Name: "a", Kind: eval.MultipleChoice, Evaluated: 400, Records: 400,
		Metrics:  []eval.Metric{{Name: eval.Acc, Value: acc, StdErr: 0.02, Log: math.NaN()}},
		Guessing: &eval.Guessing{Chance: 0.25, Majority: 0.3}}
	w := eval.TaskResult{Name: "t", Kind: eval.Rolling, Evaluated: 10, Records: 10,
		Metrics: []eval.Metric{{Name: eval.WordPerplexity, Value: ppl, StdErr: 0.1 * ppl, Log: math.Log(ppl)}}}
	return study.Record{
		Cell:   study.Cell{ID: id, Model: "m", Method: method, Ratio: ratio, DType: "f32", Seed: 0},
		Status: study.Done, Shape: &study.Shape{Parameters: bytes / 2, Bytes: bytes},
		Tasks: []study.Task{{TaskResult: a}, {TaskResult: w}},
	}
}

func ledgerOf(records ...study.Record) *study.Ledger { return &study.Ledger{Records: records} }

func mustNew(t *testing.T, l *study.Ledger, b Budget) *Report {
	t.Helper()
	r, err := New(l, b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestQuality(t *testing.T) {
	r := mustNew(t, ledgerOf(
		cellRecord("d", study.Dense, 0, 100, 0.7, 20),
		cellRecord("x", maxAbs, 0.5, 60, 0.5, 80), // (0.5-0.3)/(0.7-0.3) = 0.5; 20/80 = 0.25
		cellRecord("y", maxAbs, 0.6, 50, 0.2, 200),
	), Budget{})
	vs := r.Sets[0].Variants
	for i, want := range []float64{1, 0.375, 0.05} {
		if got := vs[i].Quality.Value; math.Abs(got-want) > 1e-12 {
			t.Errorf("quality of %s is %v, want %v", vs[i].Label, got, want)
		}
	}
	// The errors of the shares are 0.02/0.4 and 0.25*0.1.
	if got, want := *vs[1].Quality.StdErr, math.Hypot(0.05, 0.025)/2; math.Abs(got-want) > 1e-12 {
		t.Errorf("its error is %v, want %v", got, want)
	}
	if vs[0].Quality.StdErr != nil {
		t.Error("the reference's quality has an error")
	}
}

// A task in which the dense model does not do better than guessing has nothing to keep.
// What the standard error of quality leaves out is said beside it.
func TestQualityErrorSaysWhatItAssumes(t *testing.T) {
	r := mustNew(t, ledgerOf(cellRecord("d", study.Dense, 0, 100, 0.7, 20)), Budget{})
	if words := r.Quality.words(); !strings.Contains(words, "takes the tasks as independent and the dense model's values as exact") {
		t.Errorf("the words are %q", words)
	}
}

func TestQualityLeavesOut(t *testing.T) {
	for _, acc := range []float64{0.2, 0.3, 0.37} {
		r := mustNew(t, ledgerOf(cellRecord("d", study.Dense, 0, 100, acc, 20), cellRecord("x", maxAbs, 0.5, 60, 0.9, 40)), Budget{})
		if task := r.Quality.Tasks[0]; task.Used || task.Why == "" {
			t.Errorf("accuracy %v of the dense model: the task is %+v", acc, task)
		}
		if got := r.Sets[0].Variants[1].Quality.Value; got != 0.5 {
			t.Errorf("quality %v, want that of the other task, 0.5", got)
		}
	}
}

func TestMarks(t *testing.T) {
	x := cellRecord("x", maxAbs, 0.5, 60, 0.28, 80)
	y := cellRecord("y", maxAbs, 0.6, 50, 0.33, 80)
	l := ledgerOf(cellRecord("d", study.Dense, 0, 100, 0.7, 20), x, y)
	change := -0.42
	l.Comparisons = []study.Comparison{{Cell: "x", Against: "d", Rows: []eval.Row{{Task: "a", Metric: eval.Acc,
		Cells: []eval.Cell{{}, {Change: &change, Test: &eval.PairedTest{Name: "mcnemar_exact", P: 0.001}}}}}}}
	r := mustNew(t, l, Budget{})
	for i, want := range [][]Mark{nil, {Worse, BelowMajority}, {NotAboveGuess}} {
		if diff := cmp.Diff(want, r.Sets[0].Variants[i].Values[0].Marks); diff != "" {
			t.Errorf("%s: %s", r.Sets[0].Variants[i].Label, diff)
		}
	}
}

func TestFront(t *testing.T) {
	r := mustNew(t, ledgerOf(
		cellRecord("d", study.Dense, 0, 100, 0.7, 20),
		cellRecord("a", maxAbs, 0.2, 80, 0.4, 100),  // dominated by b
		cellRecord("b", "best", 0.2, 80, 0.6, 30),   // on the front
		cellRecord("c", "best", 0.3, 85, 0.55, 35),  // larger and worse than b
		cellRecord("e", "obs", 0.2, 80, 0.6, 30),    // equal to b: the first counts
		cellRecord("f", "best", 0.6, 40, 0.35, 200), // the smallest
	), Budget{})
	var got []string
	for _, v := range r.Sets[0].Variants {
		for _, f := range v.Front {
			if f == "bytes" {
				got = append(got, v.ID)
			}
		}
	}
	if diff := cmp.Diff([]string{"d", "b", "f"}, got); diff != "" {
		t.Error(diff)
	}
}

// A variant is faster than another where all its repetitions are: noise puts none on the
// front.
func TestFrontOfSpeed(t *testing.T) {
	speed := func(r study.Record, median, low, high float64) study.Record {
		r.Run = &study.Run{Speed: []study.Speed{{Kind: "decode", Context: 8, Batch: 1, TokensPS: median, Runs: []float64{low, median, high}}}}
		return r
	}
	r := mustNew(t, ledgerOf(
		speed(cellRecord("d", study.Dense, 0, 100, 0.7, 20), 100, 99, 101),
		speed(cellRecord("a", maxAbs, 0.2, 80, 0.31, 200), 123, 119, 124), // its median is above b's, its slowest below b's fastest
		speed(cellRecord("b", "best", 0.2, 80, 0.6, 30), 120, 118, 121),
		speed(cellRecord("c", "obs", 0.2, 80, 0.5, 40), 130, 122, 131), // always faster than b
		speed(cellRecord("e", "obs", 0.3, 80, 0.5, 40), 140, 122, 141), // as good as c: the faster median
	), Budget{})
	var got []string
	for _, v := range r.Sets[0].Variants {
		if slices.Contains(v.Front, "tokens per second") {
			got = append(got, v.ID)
		}
	}
	if diff := cmp.Diff([]string{"d", "b", "e"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestRecommend(t *testing.T) {
	records := []study.Record{
		cellRecord("dense", study.Dense, 0, 100e6, 0.7, 20),
		cellRecord("small", "best", 0.5, 60e6, 0.6, 40),
		cellRecord("tiny", "best", 0.8, 30e6, 0.4, 90),
	}
	good := cellRecord("good", "obs", 0.1, 95e6, 0.69, 21)
	for _, c := range []struct {
		name    string
		records []study.Record
		budget  Budget
		id      string
		says    string
	}{
		{"without a budget, none is good", records, Budget{}, "small", "No pruned variant keeps 90 %"},
		{"without a budget, one is good", append([]study.Record{good}, records...), Budget{}, "good", "smallest variant with at least 90 %"},
		{"without a budget, none is any good", []study.Record{records[0], records[2]}, Budget{}, "", ""},
		{"all fit", records, Budget{MaxBytes: 200e6}, "dense", "of 3 variants that keep to the budget (at most 200 MB)"},
		{"by bytes", records, Budget{MaxBytes: 60e6}, "small", "best quality"},
		{"by accuracy", records, Budget{MaxBytes: 60e6, MinAccuracy: []Floor{{"a", 0.6}}}, "small", "of 1 variant that keeps to"},
		{"none", records, Budget{MaxBytes: 50e6, MinAccuracy: []Floor{{"a", 0.6}}}, "", "small"},
		{"energy is not measured", records, Budget{MaxJoules: 1}, "", "its energy was not measured"},
	} {
		got := mustNew(t, ledgerOf(c.records...), c.budget).Recommendation
		if got.ID != c.id {
			t.Errorf("%s: recommended %q, want %q", c.name, got.ID, c.id)
		}
		if text := strings.Join(got.Reasons, " "); c.id != "" && !strings.Contains(text, c.says) {
			t.Errorf("%s: the reasons lack %q: %s", c.name, c.says, text)
		}
	}
	none := mustNew(t, ledgerOf(records...), Budget{MaxBytes: 50e6, MinAccuracy: []Floor{{"a", 0.6}}}).Recommendation
	if len(none.Nearest) != 3 || none.Nearest[0].ID != "small" {
		t.Fatalf("nearest are %+v", none.Nearest)
	}
	if diff := cmp.Diff([]string{"60 MB is 10 MB too large"}, none.Nearest[0].Misses); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"a 40.0 % is 20.0 points short of 60.0 %"}, none.Nearest[1].Misses); diff != "" {
		t.Error(diff)
	}
	var unknown *UnknownTaskError
	if _, err := New(ledgerOf(records...), Budget{MinAccuracy: []Floor{{"b", 0.5}}}); !errors.As(err, &unknown) {
		t.Errorf("error %v for a task that the ledger does not have", err)
	}
}

func TestOverlap(t *testing.T) {
	x, y := cellRecord("x", maxAbs, 0.5, 60, 0.5, 80), cellRecord("y", "best", 0.5, 60, 0.5, 80)
	x.Shape.DenseWidth, x.Shape.Kept = 8, [][]byte{{0b00001111}, {0b11111111}}
	y.Shape.DenseWidth, y.Shape.Kept = 8, [][]byte{{0b00111100}, {0b00000011}}
	got := mustNew(t, ledgerOf(x, y), Budget{}).Sets[0].Overlaps
	want := []Overlap{
		{Size: "50 %", A: "maxabs", B: "best", Jaccard: (2./6 + 2./8) / 2, Shared: (2./4 + 2./8) / 2, Chance: (4./8 + 2./8) / 2, Layers: []float64{0.5, 0.25}},
		{Size: "50 %", A: "best", B: "maxabs", Jaccard: (2./6 + 2./8) / 2, Shared: (2./4 + 1) / 2, Chance: (4./8 + 1) / 2, Layers: []float64{0.5, 1}},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateApprox(0, 1e-12)); diff != "" {
		t.Error(diff)
	}
	// Bit strings of another length are left alone.
	y.Shape.Kept[1] = []byte{1, 2}
	if got := mustNew(t, ledgerOf(x, y), Budget{}).Sets[0].Overlaps; got != nil {
		t.Errorf("overlaps %+v of bit strings that do not fit", got)
	}
}

// Variants of a set are never called alike.
func TestLabels(t *testing.T) {
	a := cellRecord("1", "best", 0.5, 60, 0.5, 80)
	b, c, d, e := a, a, a, a
	b.Cell.ID, b.Cell.Seed = "2", 1
	c.Cell.ID, c.Cell.Allocation = "3", "global"
	d.Cell.ID, d.Cell.Align = "4", 64
	e.Cell.ID = "5"
	r := mustNew(t, ledgerOf(a, b, c, d, e), Budget{})
	seen := map[string]bool{}
	for _, v := range r.Sets[0].Variants {
		if seen[v.Label] {
			t.Errorf("two variants are called %q", v.Label)
		}
		seen[v.Label] = true
	}
	if !seen["best (global) 50 %"] {
		t.Errorf("labels %v", seen)
	}
}

func TestMissing(t *testing.T) {
	y := cellRecord("y", "best", 0.6, 50, 0.5, 80)
	y.Tasks = y.Tasks[:1]
	r := mustNew(t, ledgerOf(cellRecord("d", study.Dense, 0, 100, 0.7, 20), cellRecord("x", maxAbs, 0.5, 60, 0.5, 80), y), Budget{})
	want := []string{
		"m, f32: maxabs was not measured at 60 %",
		"m, f32: best was not measured at 50 %",
		"m, f32: best 60 % has no result for t",
	}
	if diff := cmp.Diff(want, r.Missing); diff != "" {
		t.Error(diff)
	}
	if r.Sets[0].Variants[2].Quality != nil {
		t.Error("a variant has a quality though a task was not measured")
	}
}

func TestTicks(t *testing.T) {
	for _, c := range []struct {
		lo, hi float64
		want   []float64
	}{{0, 100, []float64{0, 20, 40, 60, 80, 100}}, {0.0091, 0.0124, []float64{0.01, 0.011, 0.012}}, {-3, 7, []float64{-2, 0, 2, 4, 6}}} {
		got := linearTicks(c.lo, c.hi, 5)
		if len(got) != len(c.want) {
			t.Errorf("ticks of %v to %v are %v", c.lo, c.hi, got)
			continue
		}
		for i := range got {
			if math.Abs(got[i]-c.want[i]) > 1e-9 {
				t.Errorf("ticks of %v to %v are %v", c.lo, c.hi, got)
			}
		}
	}
	if a := newAxis("", 5, 5, false, 5); !(a.at(5) > 0 && a.at(5) < 1) {
		t.Error("a single value is not on its axis")
	}
	if a := newAxis("", 30, 2e5, true, 5); len(a.ticks) < 3 || a.format(1e5) != "10⁵" {
		t.Errorf("ticks %v", a.ticks)
	}
}

func TestDigits(t *testing.T) {
	for x, want := range map[float64]string{
		0: "0", 0.01124: "0.0112", 0.5: "0.500", 7: "7.00", 50.63: "50.6", 199794.2: "199,794", 6.1e8: "6.1×10⁸",
		2.34e-5: "2.3×10⁻⁵", -12.34: "−12.3", math.Inf(1): "∞",
	} {
		if got := digits(x); got != want {
			t.Errorf("digits(%v) = %q, want %q", x, got, want)
		}
	}
}

// A model that comes to what a constant answer reaches has not become better.
func TestGuessingIsNeverBetter(t *testing.T) {
	c := Column{Task: "a", Metric: eval.Acc, Chance: finite(0.5), Majority: finite(0.62)}
	up, down := 0.2, -0.2
	test := &eval.PairedTest{Name: "mcnemar_exact", P: 1e-6}
	for _, x := range []struct {
		value, change float64
		want          Mark
	}{{0.62, up, ""}, {0.8, up, Better}, {0.62, down, Worse}, {0.8, down, Worse}} {
		v := &Value{Metric: &eval.Metric{Name: eval.Acc, Value: x.value, StdErr: 0.02}}
		if got := v.mark(c, &Change{Change: &x.change, Test: test}); got != x.want {
			t.Errorf("accuracy %v, changed by %v: mark %q, want %q", x.value, x.change, got, x.want)
		}
	}
}

// What a later cell was asked beyond an earlier one has its column.
func TestMoreMetrics(t *testing.T) {
	more := cellRecord("x", maxAbs, 0.5, 60, 0.5, 80)
	more.Tasks[0].Metrics = append(more.Tasks[0].Metrics, eval.Metric{Name: eval.AccNorm, Value: 0.45, StdErr: 0.02, Log: math.NaN()})
	r := mustNew(t, ledgerOf(cellRecord("d", study.Dense, 0, 100, 0.7, 20), more), Budget{})
	s := r.Sets[0]
	if len(s.Columns) != 3 || s.Columns[1].Metric != eval.AccNorm || s.Columns[1].Main || s.Columns[1].guess() != 0.3 {
		t.Fatalf("the columns are %+v", s.Columns)
	}
	if m := s.Variants[1].Values[1].Metric; m == nil || m.Value != 0.45 || s.Variants[0].Values[1].Metric != nil {
		t.Errorf("acc_norm is %v, and of the dense model %v", m, s.Variants[0].Values[1].Metric)
	}
}

// Two models of one name are not compared in silence.
func TestTwoModelsOfOneName(t *testing.T) {
	d, x := cellRecord("d", study.Dense, 0, 100, 0.7, 20), cellRecord("x", maxAbs, 0.5, 60, 0.5, 80)
	d.Cell.ModelFingerprint, x.Cell.ModelFingerprint = "sha256:aa", "sha256:bb"
	notes := strings.Join(mustNew(t, ledgerOf(d, x), Budget{}).Notes, "\n")
	if !strings.Contains(notes, "m, f32: its cells are of 2 models of one name (fingerprints sha256:aa and sha256:bb)") {
		t.Errorf("the notes are %q", notes)
	}
	x.Cell.ModelFingerprint = "sha256:aa"
	if notes := strings.Join(mustNew(t, ledgerOf(d, x), Budget{}).Notes, "\n"); strings.Contains(notes, "one name") {
		t.Errorf("the notes are %q", notes)
	}
}
