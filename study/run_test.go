package study

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var background = context.Background()

// A study measures each cell once, makes what cells share once, leaves no pruned model, and
// does nothing when it is run again.
func TestMeasure(t *testing.T) {
	s := fakeStudy(t, fakeFile)
	f := &fake{t: t}
	sum, err := Measure(background, s, f.options(nil))
	if err != nil {
		t.Fatal(err)
	}
	if sum.Cells != 11 || sum.Measured != 11 || len(sum.Failed) != 0 {
		t.Errorf("summary %+v", sum)
	}
	// Statistics and scores: one a seed. random and maxabs are pruned at once.
	want := map[string]int{"calib": 2, "score": 2, "plan": 4, "apply": 4, "prune": 6, "eval": 11, "speed": 11}
	if diff := cmp.Diff(want, f.verbs()); diff != "" {
		t.Errorf("commands:\n%s", diff)
	}
	l := mustLedger(t, s.LedgerPath())
	// 10 against dense, 8 against maxabs.
	if len(l.Records) != 11 || len(l.Comparisons) != 18 {
		t.Errorf("%d records and %d comparisons", len(l.Records), len(l.Comparisons))
	}
	r := &l.Records[2]
	if r.Cell.String() != "m best 25 % f32" || r.Cell.BaseModel != "owner/m" || r.Run.Seconds <= 0 || r.Run.LoadSeconds != 0.25 || r.Run.PeakMemory != 5000 || len(r.Run.Steps) != 6 {
		t.Errorf("the third record is %+v, run %+v", r.Cell, r.Run)
	}
	wantCommands := []string{
		"coppice calib m -o m-seed0.stats.safetensors --calib text.txt --tokens 100 --ctx 16 --seed 0",
		"coppice score m --method obs --stats m-seed0.stats.safetensors -o m-obs-seed0.scores.json",
		"coppice plan m --scores m-obs-seed0.scores.json --stats m-seed0.stats.safetensors -o plan.json --ratio 0.25 --align 1 --refit least-squares",
		"coppice apply m --plan plan.json -o m-best-25 --stats m-seed0.stats.safetensors",
		"coppice eval m-best-25 --tasks arc_easy --data-dir data --limit 5 --dtype f32 -o results",
		"coppice speed m-best-25 --prompt 8 --decode 32 --batch 1 --repeat 3 --dtype f32 --json",
	}
	if diff := cmp.Diff(wantCommands, r.Commands); diff != "" {
		t.Errorf("commands of the record:\n%s", diff)
	}
	if got := r.Curves.Layers[1]; got.Kept[16] != fakeWidth || got.Error[0] != 2*fakeWidth/4 || got.Error[16] != 0 { // held back, over its stream
		t.Errorf("curve %+v", got)
	}
	if sh := r.Shape; sh.Widths[0] != 48 || sh.DenseWidth != fakeWidth || len(sh.Kept) != 2 || sh.Kept[0][5] != 0 || sh.Kept[0][6] != 0xff || sh.MLPParameters != 2*3*64*48 || sh.StoredDType != "f32" {
		t.Errorf("shape %+v", sh)
	}
	if left, _ := filepath.Glob(filepath.Join(s.ScratchDir(), "*")); len(left) > 0 {
		t.Errorf("left in the scratch directory: %q", left)
	}
	before, asked := len(f.lines), f.asked
	if asked != 11*5*3 {
		t.Errorf("%d requests, want %d", asked, 11*5*3)
	}
	sum, err = Measure(background, s, f.options(nil))
	if err != nil || sum.Finished != 11 || sum.Measured != 0 || len(f.lines) != before {
		t.Errorf("again: %+v, %v, %d commands more", sum, err, len(f.lines)-before)
	}
}

// A cell that fails is recorded, the others go on, and the next run tries it again.
func TestFailedCell(t *testing.T) {
	s := fakeStudy(t, fakeFile)
	f := &fake{t: t, before: func(_ context.Context, line string) error {
		if strings.HasPrefix(line, "score") && strings.Contains(line, "obs") {
			return &CommandError{3, "stats: of another model"}
		}
		return nil
	}}
	for range 2 {
		sum, err := Measure(background, s, f.options(nil))
		if err != nil {
			t.Fatal(err)
		}
		if len(sum.Failed) != 4 || sum.Measured+sum.Finished != 7 || sum.Failed[0].Error != "score: stats: of another model" {
			t.Errorf("summary %+v", sum)
		}
	}
	// What failed is not tried again for each cell, and the same failure is one line.
	if n := f.verbs()["score"]; n != 4 {
		t.Errorf("score was run %d times, want 2 in each run", n)
	}
	b, err := os.ReadFile(s.LedgerPath())
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), `"status":"failed"`); n != 4 {
		t.Errorf("%d failed records, want 4", n)
	}
	f.before = nil
	sum, err := Measure(background, s, f.options(nil))
	if err != nil || sum.Measured != 4 || len(sum.Failed) != 0 {
		t.Errorf("mended: %+v, %v", sum, err)
	}
	whole := fakeStudy(t, fakeFile)
	if _, err := Measure(background, whole, (&fake{t: t}).options(nil)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(canonical(t, whole.LedgerPath()), canonical(t, s.LedgerPath())); diff != "" {
		t.Errorf("the ledger is not that of a study without failures:\n%s", diff)
	}
}

// A text or the records of a task that change while a study runs are not recorded under the
// fingerprints of what they were before.
func TestChangedInput(t *testing.T) {
	for _, test := range []struct {
		method, at, file, grow, want string
		failed                       int
	}{
		{"maxabs", "prune", "text.txt", "and more words of another kind\n", "the text text.txt changed while the study ran", 2},
		{"maxabs", "prune", "data/arc_easy/test.jsonl", "", "the records of task arc_easy changed while the study ran", 2},
		{"best", "calib", "text.txt", "and more words of another kind\n", "the calibration text changed while the study ran", 4},
	} {
		s := fakeStudy(t, strings.Replace(fakeFile, "methods: [best, maxabs, random]", "methods: ["+test.method+"]\ntext: {files: [text.txt], ctx: 4}", 1))
		file := filepath.Join(s.Dir(), test.file)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(string(b), "What is 0?", "What was 0?", 1) + test.grow
		f := &fake{t: t, before: func(_ context.Context, line string) error {
			if strings.HasPrefix(line, test.at) { // the dense model is measured by then
				return os.WriteFile(file, []byte(changed), 0o666)
			}
			return nil
		}}
		sum, err := Measure(background, s, f.options(nil))
		if err != nil {
			t.Fatal(err)
		}
		if sum.Measured != 1 || len(sum.Failed) != test.failed || !strings.Contains(sum.Failed[0].Error, test.want) {
			t.Errorf("%s: %+v, want %q", test.file, sum, test.want)
		}
	}
}

// Interrupted at any command a study goes on where it was, asks no request twice, and ends
// with the same ledger.
func TestInterrupted(t *testing.T) {
	whole := fakeStudy(t, fakeFile)
	f := &fake{t: t}
	if _, err := Measure(background, whole, f.options(nil)); err != nil {
		t.Fatal(err)
	}
	s := fakeStudy(t, fakeFile)
	g := &fake{t: t}
	r := rand.New(rand.NewPCG(1, 2))
	interrupted := 0
	for range 100 {
		ctx, cancel := context.WithCancel(background)
		left := r.IntN(6)
		g.before = func(ctx context.Context, _ string) error {
			if left--; left < 0 {
				cancel()
				return ctx.Err()
			}
			return nil
		}
		_, err := Measure(ctx, s, g.options(nil))
		cancel()
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		interrupted++
	}
	if interrupted < 10 {
		t.Errorf("interrupted %d times only", interrupted)
	}
	if g.asked != f.asked {
		t.Errorf("%d requests were answered, want %d", g.asked, f.asked)
	}
	if diff := cmp.Diff(canonical(t, whole.LedgerPath()), canonical(t, s.LedgerPath())); diff != "" {
		t.Error(diff)
	}
}

// Runs beside each other share the cells out, wait for those of others, and measure none
// twice; so do the same cells started twice by themselves.
func TestSideBySide(t *testing.T) {
	s := fakeStudy(t, fakeFile)
	f := &fake{t: t}
	var wg sync.WaitGroup
	total := make([]int, 3)
	for i := range 3 {
		wg.Go(func() {
			sum, err := Measure(background, s, f.options(nil))
			if err != nil || sum.Measured+sum.Finished != 11 {
				t.Errorf("%+v, %v", sum, err)
				return
			}
			total[i] = sum.Measured
		})
	}
	wg.Wait()
	if total[0]+total[1]+total[2] != 11 || f.verbs()["eval"] != 11 || f.verbs()["calib"] != 2 {
		t.Errorf("measured %v, commands %v", total, f.verbs())
	}
	if l := mustLedger(t, s.LedgerPath()); len(l.Records) != 11 || len(l.Comparisons) != 18 || l.Notes != nil {
		t.Errorf("%d records, %d comparisons, notes %q", len(l.Records), len(l.Comparisons), l.Notes)
	}
}

func TestSameCellTwice(t *testing.T) {
	s := fakeStudy(t, fakeFile)
	cells, err := Cells(s)
	if err != nil {
		t.Fatal(err)
	}
	began, goOn := make(chan bool, 1), make(chan bool)
	f := &fake{t: t, before: func(context.Context, string) error {
		select {
		case began <- true:
			<-goOn
		default:
		}
		return nil
	}}
	var notes []string
	var wg sync.WaitGroup
	wg.Go(func() {
		if sum, err := MeasureCell(background, s, cells[1].ID, f.options(nil)); err != nil || sum.Measured != 1 {
			t.Errorf("the first: %+v, %v", sum, err)
		}
	})
	<-began
	o := f.options(nil)
	o.Note = func(n string) {
		notes = append(notes, n)
		close(goOn) // it waits: the other one may go on
	}
	sum, err := MeasureCell(background, s, cells[1].ID, o)
	wg.Wait()
	if err != nil || sum.Finished != 1 || len(notes) != 1 || !strings.Contains(notes[0], "is being measured by process "+fmt.Sprint(os.Getpid())) {
		t.Errorf("the second: %+v, %v, notes %q", sum, err, notes)
	}
	if f.verbs()["eval"] != 1 {
		t.Errorf("commands %v", f.verbs())
	}
}

// A pruned model that a run was asked to keep stays when the study is run again, and so does
// one that a run with another ledger is measuring; what a killed run left goes.
func TestKeep(t *testing.T) {
	s := fakeStudy(t, fakeFile)
	cells, err := Cells(s)
	if err != nil {
		t.Fatal(err)
	}
	kept, busy, left := cells[1].ID, cells[2].ID, cells[3].ID
	o := (&fake{t: t}).options(nil)
	o.Keep = true
	if _, err := MeasureCell(background, s, kept, o); err != nil {
		t.Fatal(err)
	}
	o.Keep = false
	if _, err := Measure(background, s, o); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{busy, left} {
		if err := os.MkdirAll(filepath.Join(s.ScratchDir(), id, "model"), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	held, err := tryLock(filepath.Join(s.StateDir(), "cells", busy+".lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if _, err := Measure(background, s, o); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]bool{kept: true, busy: true, left: false} {
		if models, _ := filepath.Glob(filepath.Join(s.ScratchDir(), id, "m*")); len(models) == 1 != want {
			t.Errorf("cell %s has the models %q", id, models)
		}
	}
}

// A model that has another name than in the ledger is said to, before anything is measured:
// its new cells would be compared with none of the old ones.
func TestRenamed(t *testing.T) {
	s := fakeStudy(t, fakeFile)
	f := &fake{t: t}
	if _, err := Measure(background, s, f.options(nil)); err != nil {
		t.Fatal(err)
	}
	before := len(f.lines)
	s.Models[0].Name = "other"
	if _, err := Measure(background, s, f.options(nil)); err == nil || !strings.Contains(err.Error(), `the model "other" has cells in `+s.LedgerPath()+` under the name "m"`) || len(f.lines) != before {
		t.Errorf("%v, %d commands more", err, len(f.lines)-before)
	}
}

// Several ledgers join into the one that a single run makes.
func TestMerge(t *testing.T) {
	whole := fakeStudy(t, fakeFile)
	if _, err := Measure(background, whole, (&fake{t: t}).options(nil)); err != nil {
		t.Fatal(err)
	}
	s := fakeStudy(t, fakeFile)
	cells, err := Cells(s)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t}
	dir := t.TempDir()
	var parts []string
	for i, c := range cells {
		o := f.options(nil)
		o.Ledger = filepath.Join(dir, "parts", fmt.Sprint(10-i))
		if _, err := MeasureCell(background, s, c.ID, o); err != nil {
			t.Fatal(err)
		}
		parts = append(parts, o.Ledger)
	}
	slices.Reverse(parts)
	out := filepath.Join(dir, "all.jsonl")
	for range 2 { // what is there is kept
		l, err := Merge(out, parts[2:])
		if err != nil || l.Notes != nil {
			t.Fatal(l, err)
		}
		parts = append(parts, parts[:2]...)
	}
	if diff := cmp.Diff(canonical(t, whole.LedgerPath()), canonical(t, out)); diff != "" {
		t.Error(diff)
	}
	// A cell with other results is told of, and changes nothing.
	l := mustLedger(t, out)
	want, _ := l.Encode()
	l.Records[3].Tasks[0].Scores[0][0]++
	other, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	merged, err := Merge(out, []string{writeTemp(t, other)})
	if err != nil || len(merged.Notes) != 1 || !strings.Contains(merged.Notes[0], "cell "+l.Records[3].Cell.ID) {
		t.Errorf("%v, notes %q", err, merged.Notes)
	}
	if got, _ := os.ReadFile(out); string(got) != string(want) {
		t.Errorf("merging other results changed the ledger:\n%s", cmp.Diff(string(want), string(got)))
	}
}

// Of a cell with different results in two ledgers the comparisons are of those that stay,
// though only the other ledger had what it is compared with.
func TestMergeConflict(t *testing.T) {
	write := func(l *Ledger) string {
		l.Compare()
		b, err := l.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return writeTemp(t, b)
	}
	dense := testRecord("d0", Dense, 0, testResult(20, 18, 0))
	first := write(&Ledger{Records: []Record{testRecord("m6", maxAbs, 0.6, testResult(20, 9, 2))}})
	second := write(&Ledger{Records: []Record{dense, testRecord("m6", maxAbs, 0.6, testResult(20, 2, 2))}})
	l, err := Merge(filepath.Join(t.TempDir(), "out"), []string{first, second})
	if err != nil || len(l.Notes) != 1 {
		t.Fatalf("%v, notes %q", err, l.Notes)
	}
	stays := l.Record("m6")
	want := compare(stays, l.Record("d0"))
	got := l.Comparison("m6", "d0")
	if got == nil || got.Rows[0].Cells[1].Metric.Value != 0.45 || stays.Tasks[0].Metrics[0].Value != 0.45 {
		t.Errorf("the record has %v, the comparison %+v", stays.Tasks[0].Metrics[0].Value, got.Rows[0].Cells[1].Metric)
	}
	if diff := cmp.Diff(want, *got, cmp.Comparer(sameFloat)); diff != "" {
		t.Error(diff)
	}
}

// A record that a run appends while ledgers are joined into its ledger is not lost, whichever
// of the two comes first.
func TestMergeWhileAppending(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	st := &store{out, "s", func(string) {}}
	add := func(id string) func(*Ledger) []any {
		return func(*Ledger) []any { r := testRecord(id, Dense, 0, testResult(2, 1, 0)); return []any{&r} }
	}
	if err := st.update(background, add("a")); err != nil {
		t.Fatal(err)
	}
	merging, merged := make(chan bool), make(chan error)
	err := st.update(background, func(l *Ledger) []any {
		go func() {
			close(merging)
			_, err := Merge(out, []string{out})
			merged <- err
		}()
		<-merging
		time.Sleep(50 * time.Millisecond) // Merge is at the lock, or over
		return add("b")(l)
	})
	if err := errors.Join(err, <-merged); err != nil {
		t.Fatal(err)
	}
	// A run that waits for the lock of the file that Merge replaces appends to the new one.
	held, err := lockLedger(background, out)
	if err != nil {
		t.Fatal(err)
	}
	updated := make(chan error)
	go func() { updated <- st.update(background, add("c")) }()
	time.Sleep(50 * time.Millisecond)
	b, err := os.ReadFile(out)
	if err := errors.Join(err, replaceFile(out, b), held.Close(), <-updated); err != nil {
		t.Fatal(err)
	}
	if l := mustLedger(t, out); len(l.Records) != 3 {
		t.Errorf("%d records of 3", len(l.Records))
	}
}

// A ledger whose tail was cut off is mended by the run that goes on.
func TestTornLedger(t *testing.T) {
	s := fakeStudy(t, fakeFile)
	f := &fake{t: t}
	if _, err := Measure(background, s, f.options(nil)); err != nil {
		t.Fatal(err)
	}
	want := canonical(t, s.LedgerPath())
	b, err := os.ReadFile(s.LedgerPath())
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range 10 {
		n := r.IntN(len(b))
		if err := os.WriteFile(s.LedgerPath(), b[:n], 0o666); err != nil {
			t.Fatal(err)
		}
		var notes []string
		if _, err := Measure(background, s, f.options(&notes)); err != nil {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
		torn := n > 0 && b[n-1] != '\n'
		if said := strings.Contains(strings.Join(notes, "\n"), "was cut off by an interruption; it is removed"); said != torn {
			t.Errorf("cut to %d bytes: notes %q", n, notes)
		}
		if diff := cmp.Diff(want, canonical(t, s.LedgerPath())); diff != "" {
			t.Errorf("cut to %d bytes:\n%s", n, diff)
		}
	}
	if f.asked != 11*5*3 { // evaluations keep what they finished
		t.Errorf("%d requests were asked", f.asked)
	}
	// A newer one is left alone.
	newer := strings.Replace(string(b), `"ledger":1`, `"ledger":9`, 1)
	if err := os.WriteFile(s.LedgerPath(), []byte(newer), 0o666); err != nil {
		t.Fatal(err)
	}
	var version *VersionError
	if _, err := Measure(background, s, f.options(nil)); !errors.As(err, &version) || version.Version != 9 {
		t.Errorf("a newer ledger: %v", err)
	}
	if got, _ := os.ReadFile(s.LedgerPath()); string(got) != newer {
		t.Error("a newer ledger was changed")
	}
}

// A file without the end of a line that is no ledger is left alone, by runs and by Merge.
func TestForeignLedger(t *testing.T) {
	s := fakeStudy(t, fakeFile)
	const text = `{"precious":true}`
	o := (&fake{t: t}).options(nil)
	o.Ledger = writeTemp(t, []byte(text))
	_, err := Measure(background, s, o)
	_, mergeErr := Merge(o.Ledger, []string{o.Ledger})
	for _, err := range []error{err, mergeErr} {
		if err == nil || !strings.Contains(err.Error(), "ledger.jsonl:1: this is not the ledger of a study") {
			t.Errorf("error %v", err)
		}
	}
	if got, err := os.ReadFile(o.Ledger); err != nil || string(got) != text {
		t.Errorf("the file was changed to %d bytes, %v", len(got), err)
	}
}

// A disk that is too small is said before anything is done.
func TestSpace(t *testing.T) {
	s := fakeStudy(t, fakeFile)
	f := &fake{t: t}
	o := f.options(nil)
	o.Free = func(string) (int64, error) { return 1000, nil }
	var space *SpaceError
	if _, err := Measure(background, s, o); !errors.As(err, &space) || space.Need <= 1000 || !strings.Contains(err.Error(), "--scratch") {
		t.Errorf("%v", err)
	}
	if len(f.lines) > 0 {
		t.Errorf("commands were run: %q", f.lines)
	}
	e, err := NewEstimate(s, o)
	if err != nil || len(e.Disks) != 1 || !e.Disks[0].Short() || e.Disks[0].Need != space.Need {
		t.Errorf("the estimate: %+v, %v", e, err)
	}
	// Of the study's own disk no other one for pruned models is of help.
	state := &SpaceError{Disk{Dir: "x", Need: 2, Free: 1, state: true}}
	if strings.Contains(state.Error(), "scratch") {
		t.Error(state)
	}
	// Models that are kept need the room of all.
	o.Keep = true
	kept, err := NewEstimate(s, o)
	if err != nil || kept.Disks[0].Need <= e.Disks[0].Need {
		t.Errorf("kept: %+v, %v", kept, err)
	}
}

// Numbers that no machine carries out are estimated as what they are.
func TestEstimateAbsurd(t *testing.T) {
	text := strings.Replace(fakeFile, "ratios: [0.25, 0.5]", "expansions: [1e300]", 1)
	text = strings.Replace(text, "{prompts: [8]}", "{repeat: 9000000000000000000, decode: 9000000000000000000, batch: [9000000000000000000]}", 1)
	e, err := NewEstimate(fakeStudy(t, text), (&fake{t: t}).options(nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range e.Cells { // all are as wide as the dense one
		if c.Seconds < 1e30 || c.Seconds != e.Cells[0].Seconds {
			t.Errorf("%v: %v s", &c.Cell, c.Seconds)
		}
	}
}

// Times go by finished cells of the same work.
func TestEstimate(t *testing.T) {
	s := fakeStudy(t, fakeFile)
	f := &fake{t: t}
	cells, err := Cells(s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := MeasureCell(background, s, cells[0].ID, f.options(nil)); err != nil {
		t.Fatal(err)
	}
	l := mustLedger(t, s.LedgerPath())
	l.Records[0].Run.Seconds = 100
	b, _ := l.Encode()
	if err := os.WriteFile(s.LedgerPath(), b, 0o666); err != nil {
		t.Fatal(err)
	}
	e, err := NewEstimate(s, f.options(nil))
	if err != nil {
		t.Fatal(err)
	}
	dense, half := e.Cells[0], e.Cells[len(e.Cells)-1]
	if dense.Status != Done || !half.Measured || half.Seconds >= 100 || half.Seconds <= 10 {
		t.Errorf("dense %+v, half %+v", dense, half)
	}
	total := 0.0
	for _, c := range e.Cells[1:] {
		total += c.Seconds
	}
	if e.Seconds != total {
		t.Errorf("%v s in all, the pending cells add up to %v", e.Seconds, total)
	}
}
