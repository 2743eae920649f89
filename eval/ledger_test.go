package eval_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/eval/evaltest"
)

func ledgerPath(dir string) string { return filepath.Join(dir, eval.LedgerName) }

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// finishedLedger runs a task with 5 requests and returns its directory.
func finishedLedger(t *testing.T) string {
	dir := t.TempDir()
	run(t, evaltest.NewModel(), []*eval.Task{clozeTask(5)}, eval.Options{Dir: dir})
	return dir
}

// Wherever the file ends (tried at every third byte), whole lines are kept, the rest is cut and reported, and the
// ledger that comes out is the same.
func TestLedgerTornAnywhere(t *testing.T) {
	whole := readFile(t, ledgerPath(finishedLedger(t)))
	header := strings.IndexByte(whole, '\n') + 1
	for size := 0; size < len(whole); size += 3 {
		dir := t.TempDir()
		if err := os.WriteFile(ledgerPath(dir), []byte(whole[:size]), 0o666); err != nil {
			t.Fatal(err)
		}
		var warnings []string
		m := evaltest.NewModel()
		r := run(t, m, []*eval.Task{clozeTask(5)}, eval.Options{Dir: dir, Warn: func(w string) { warnings = append(warnings, w) }})
		kept := max(0, strings.Count(whole[:size], "\n")-1)
		if m.Asked != 5-kept || r.Usage.Resumed != kept {
			t.Errorf("%d bytes: %d asked, %d resumed, want %d resumed", size, m.Asked, r.Usage.Resumed, kept)
		}
		torn := size > header && whole[size-1] != '\n'
		if (len(warnings) == 1) != torn || torn && !strings.Contains(warnings[0], ledgerPath(dir)) {
			t.Errorf("%d bytes: warnings %q", size, warnings)
		}
		if got := readFile(t, ledgerPath(dir)); got != whole {
			t.Errorf("%d bytes: the ledger became\n%s", size, got)
		}
	}
}

// A last line that has its end but not its sense, as after a power failure, is torn too.
func TestLedgerLastLineDamaged(t *testing.T) {
	dir := finishedLedger(t)
	whole := readFile(t, ledgerPath(dir))
	damaged := whole[:len(whole)-20] + strings.Repeat("\x00", 19) + "\n"
	if err := os.WriteFile(ledgerPath(dir), []byte(damaged), 0o666); err != nil {
		t.Fatal(err)
	}
	m := evaltest.NewModel()
	run(t, m, []*eval.Task{clozeTask(5)}, eval.Options{Dir: dir})
	if m.Asked != 1 || readFile(t, ledgerPath(dir)) != whole {
		t.Errorf("%d asked, ledger\n%s", m.Asked, readFile(t, ledgerPath(dir)))
	}
}

func TestLedgerDamagedWithin(t *testing.T) {
	for name, damage := range map[string]func(string) string{
		"a line":     func(s string) string { return strings.Replace(s, `"doc":1`, `"doc":x`, 1) },
		"a field":    func(s string) string { return strings.Replace(s, `"greedy"`, `"greed"`, 1) },
		"the header": func(s string) string { return strings.Replace(s, "coppice", "copy", 1) },
		"a version":  func(s string) string { return strings.Replace(s, `"version":1`, `"version":2`, 1) },
	} {
		dir := finishedLedger(t)
		if err := os.WriteFile(ledgerPath(dir), []byte(damage(readFile(t, ledgerPath(dir)))), 0o666); err != nil {
			t.Fatal(err)
		}
		_, err := eval.Run(context.Background(), evaltest.NewModel(), []*eval.Task{clozeTask(5)}, eval.Options{Dir: dir})
		if err == nil || !strings.Contains(err.Error(), ledgerPath(dir)) || !strings.Contains(err.Error(), "line ") || !strings.Contains(err.Error(), "--force") {
			t.Errorf("%s: error %v", name, err)
		}
		m := evaltest.NewModel()
		run(t, m, []*eval.Task{clozeTask(5)}, eval.Options{Dir: dir, Force: true})
		if m.Asked != 5 {
			t.Errorf("%s: with force %d asked", name, m.Asked)
		}
	}
}

// A ledger belongs to weights, tokenizer, dtype, BOS rule, maximum length and the text of
// the records.
func TestLedgerBelongsToARun(t *testing.T) {
	other := clozeTask(5)
	other.Docs[3].Pairs[0].Context += "!"
	for name, change := range map[string]func(m *evaltest.Model, opts *eval.Options, tasks *[]*eval.Task){
		"weights":        func(m *evaltest.Model, _ *eval.Options, _ *[]*eval.Task) { m.ModelInfo.Weights = "w2" },
		"tokenizer":      func(m *evaltest.Model, _ *eval.Options, _ *[]*eval.Task) { m.ModelInfo.Tokenizer = "t2" },
		"dtype":          func(m *evaltest.Model, _ *eval.Options, _ *[]*eval.Task) { m.ModelInfo.DType = "bf16" },
		"BOS rule":       func(_ *evaltest.Model, o *eval.Options, _ *[]*eval.Task) { o.BOS = eval.BOSNone },
		"maximum length": func(_ *evaltest.Model, o *eval.Options, _ *[]*eval.Task) { o.MaxLength = 100 },
		"records of":     func(_ *evaltest.Model, _ *eval.Options, t *[]*eval.Task) { *t = []*eval.Task{other} },
		"task choices":   func(_ *evaltest.Model, _ *eval.Options, t *[]*eval.Task) { *t = append(*t, choiceTask("choices", 2)) },
		"task cloze":     func(_ *evaltest.Model, _ *eval.Options, t *[]*eval.Task) { *t = []*eval.Task{choiceTask("choices", 2)} },
	} {
		dir := finishedLedger(t)
		before := readFile(t, ledgerPath(dir))
		m, opts, tasks := evaltest.NewModel(), eval.Options{Dir: dir}, []*eval.Task{clozeTask(5)}
		change(m, &opts, &tasks)
		_, err := eval.Run(context.Background(), m, tasks, opts)
		usage := new(eval.UsageError)
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "--force") {
			t.Errorf("%s: error %v", name, err)
		}
		if m.Asked != 0 || readFile(t, ledgerPath(dir)) != before {
			t.Errorf("%s: the refused run changed the ledger", name)
		}
		opts.Force = true
		if r := run(t, m, tasks, opts); r.Usage.Resumed != 0 {
			t.Errorf("%s: with force %d results of the other run were taken", name, r.Usage.Resumed)
		}
	}
}
