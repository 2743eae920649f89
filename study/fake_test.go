package study

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/eval/evaltest"
	"github.com/coppice-lm/coppice/eval/tasks"
	"github.com/coppice-lm/coppice/internal/synth"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/tensor"
)

// fake carries commands out without an engine: models are of random weights, answers of a
// toy, and statistics a word. What eval leaves behind is real.
type fake struct {
	t *testing.T
	// before, if not nil, is called before a command; its error is the command's.
	before func(ctx context.Context, line string) error

	mu    sync.Mutex
	lines []string // of commands, in the order in which they began
	asked int      // requests answered
}

const fakeWidth = 96

func writeModel(t *testing.T, dir string, width int, seed uint64) {
	t.Helper()
	if err := errors.Join(synth.Write(dir, synth.Config(64, width, 2, 4, 2, synth.VocabSize, true), tensor.F32, seed, 1<<30), synth.WriteTokenizer(dir)); err != nil {
		t.Fatal(err)
	}
}

// run is a Runner.
func (f *fake) run(ctx context.Context, c Command) (Outcome, error) {
	line := strings.Join(c.Args, " ")
	f.mu.Lock()
	f.lines = append(f.lines, line)
	f.mu.Unlock()
	if f.before != nil {
		if err := f.before(ctx, line); err != nil {
			return Outcome{Seconds: 0.5}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return Outcome{}, err
	}
	path := func(name string) string {
		if filepath.IsAbs(name) {
			return name
		}
		return filepath.Join(c.Dir, name)
	}
	flag := func(name string) string {
		if i := slices.Index(c.Args, name); i >= 0 {
			return c.Args[i+1]
		}
		return ""
	}
	out := Outcome{Seconds: 0.5, Peak: 1000}
	switch c.Args[0] {
	case "prune", "apply":
		ratio := 0.5
		if text := flag("--ratio"); text != "" {
			ratio, _ = strconv.ParseFloat(text, 64)
		}
		f.prune(path(c.Args[1]), path(flag("-o")), plan.WidthAt(ratio, fakeWidth, 1))
	case "calib", "plan":
		f.write(path(flag("-o")), []byte("made"))
	case "score":
		f.score(path(flag("-o")), score.Method(flag("--method")))
	case "eval":
		text := flag("--text")
		if text != "" {
			text = path(text)
		}
		f.eval(ctx, path(c.Args[1]), path(flag("-o")), path(flag("--data-dir")), flag("--tasks"), text, flag("--ctx"), flag("--limit"), flag("--dtype"))
	case "speed":
		b, err := json.Marshal(map[string]any{"load_seconds": 0.25, "peak_memory_bytes": 5000, "speed": []Speed{{Kind: "prompt", Context: 8, Batch: 1, DType: "f32", TokensPS: 9, Runs: []float64{9}}}})
		if err != nil {
			f.t.Error(err)
		}
		out.Stdout = b
	default:
		return out, &CommandError{2, "unknown verb " + c.Args[0]}
	}
	return out, nil
}

func (f *fake) write(path string, b []byte) {
	if err := os.WriteFile(path, b, 0o666); err != nil {
		f.t.Error(err)
	}
}

func (f *fake) prune(model, dir string, width int) {
	writeModel(f.t, dir, width, 2)
	c, err := checkpoint.Open(model)
	if err != nil {
		f.t.Error(err)
		return
	}
	defer c.Close()
	p := plan.KeepAll("sha256:x", &c.Spec)
	for l := range p.Layers {
		p.Layers[l].Keep, p.Layers[l].Width = p.Layers[l].Keep[fakeWidth-width:], width
	}
	b, err := p.Encode()
	if err != nil {
		f.t.Error(err)
	}
	f.write(filepath.Join(dir, checkpoint.PlanName), b)
}

func (f *fake) score(path string, method score.Method) {
	s := &score.Scores{Version: score.Version, Method: method, Model: "sha256:x", Calibration: &score.Calibration{}, Curves: &score.Curves{}}
	for range 2 {
		curve := score.Curve{BodyStream: 2, HeldStream: 4}
		for k := range fakeWidth + 1 {
			e := float32(fakeWidth - k)
			curve.Fit, curve.Held, curve.Cut = append(curve.Fit, e), append(curve.Held, 2*e), append(curve.Cut, 3*e)
		}
		s.Layers, s.Curves.Layers = append(s.Layers, make([]float32, fakeWidth)), append(s.Curves.Layers, curve)
	}
	b, err := s.Encode()
	if err != nil {
		f.t.Error(err)
	}
	f.write(path, b)
}

func (f *fake) eval(ctx context.Context, model, dir, data, names, text, window, limit, dtype string) {
	var all []*eval.Task
	var err error
	if names != "" {
		all, err = tasks.Open(strings.Split(names, ","), tasks.Data{Dir: data})
	}
	if text != "" && err == nil {
		var t *eval.Task
		n, _ := strconv.Atoi(window)
		t, err = tasks.TextTask(text, n)
		all = append(all, t)
	}
	if err != nil {
		f.t.Error(err)
		return
	}
	m := evaltest.NewModel()
	m.ModelInfo.DType, m.ModelInfo.Weights = dtype, filepath.Base(model)
	n, _ := strconv.Atoi(limit)
	r, err := eval.Run(ctx, m, all, eval.Options{Limit: n, Dir: dir})
	if err != nil {
		f.t.Error(err)
		return
	}
	f.mu.Lock()
	f.asked += r.Usage.Requests
	f.mu.Unlock()
	if _, err := eval.Write(dir, r, eval.WriteOptions{Time: time.Now()}); err != nil {
		f.t.Error(err)
	}
}

// verbs are how often each verb was called.
func (f *fake) verbs() map[string]int {
	n := map[string]int{}
	for _, line := range f.lines {
		verb, _, _ := strings.Cut(line, " ")
		n[verb]++
	}
	return n
}

const fakeFile = `version: 1
models: [{path: m, base_model: owner/m}]
methods: [best, maxabs, random]
ratios: [0.25, 0.5]
seeds: [0, 7]
tasks: [arc_easy]
data: data
limit: 5
calibration: {text: [text.txt], tokens: 100, ctx: 16}
speed: {prompts: [8]}
`

// fakeStudy is a study of 1 + 2 * (1 + 2 + 2) cells.
func fakeStudy(t *testing.T, text string) *Study {
	t.Helper()
	path := place(t, text)
	dir := filepath.Dir(path)
	writeModel(t, filepath.Join(dir, "m"), fakeWidth, 1)
	var b strings.Builder
	for i := range 8 {
		fmt.Fprintf(&b, `{"question":"What is %d?","choices":{"text":["one","two","three"],"label":["A","B","C"]},"answerKey":"%c"}`+"\n", i, 'A'+i%3)
	}
	if err := os.MkdirAll(filepath.Join(dir, "data", "arc_easy"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data", "arc_easy", "test.jsonl"), []byte(b.String()), 0o666); err != nil {
		t.Fatal(err)
	}
	s, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// options run a study with a fake and keep what is noted.
func (f *fake) options(notes *[]string) Options {
	var mu sync.Mutex
	return Options{Runner: f.run, Threads: 1, Program: "test", Note: func(n string) {
		mu.Lock()
		defer mu.Unlock()
		if notes != nil {
			*notes = append(*notes, n)
		}
	}}
}

func mustLedger(t *testing.T, path string) *Ledger {
	t.Helper()
	l, err := ReadLedger(path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func canonical(t *testing.T, path string) string {
	t.Helper()
	b, err := mustLedger(t, path).Canonical()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
