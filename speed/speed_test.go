package speed

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/energy"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu"
	"github.com/coppice-lm/coppice/engine/enginetest"
)

// recorder is an engine that writes down what it is asked to decode: how many sequences,
// how many tokens of each, after how many.
type recorder struct {
	engine.Engine
	passes []string
	before func(pass int) // is called in each
}

func (r *recorder) Decode(ctx context.Context, steps []engine.Step) error {
	for _, s := range steps {
		if a, b := len(s.Cache.Tokens()), len(steps[0].Cache.Tokens()); a != b || len(s.Tokens) != len(steps[0].Tokens) {
			return fmt.Errorf("sequences of %d and %d tokens in a pass", a, b)
		}
	}
	if r.before != nil {
		r.before(len(r.passes))
	}
	r.passes = append(r.passes, fmt.Sprintf("%d x %d after %d", len(steps), len(steps[0].Tokens), len(steps[0].Cache.Tokens())))
	return r.Engine.Decode(ctx, steps)
}

func tiny(t *testing.T) *recorder {
	t.Helper()
	m, err := enginetest.NewModel(enginetest.With(enginetest.TinyLlama, map[string]any{"max_position_embeddings": 2000}))
	if err != nil {
		t.Fatal(err)
	}
	e, err := cpu.New(context.Background(), m.Transformer, m, cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	return &recorder{Engine: e}
}

// meter reads the counter of a package.
func meter(t *testing.T) (m *energy.Meter, set func(microjoules string)) {
	t.Helper()
	t.Setenv("PATH", "") // no GPU plays a part
	root := t.TempDir()
	zone := filepath.Join(root, "intel-rapl:0")
	write := func(file, text string) {
		path := filepath.Join(zone, file)
		if err := os.WriteFile(path+".new", []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(zone, 0o777); err != nil {
		t.Fatal(err)
	}
	write("name", "package-0")
	write("energy_uj", "0")
	m = energy.Open(context.Background(), energy.Options{Powercap: root})
	t.Cleanup(m.Close)
	return m, func(microjoules string) { write("energy_uj", microjoules) }
}

// TestMeasure: what is run is what the results say: every prompt from an empty cache, in
// passes of bounded size, and decoding one token a pass for all sequences together.
func TestMeasure(t *testing.T) {
	e := tiny(t)
	m, set := meter(t)
	e.before = func(pass int) {
		switch pass {
		case 5: // of the warm-up, which is not measured
			set("1000000")
		case 14: // the first token after the first prompt of 3
			set("1500000")
		}
	}
	var progress []int
	results, drawn, err := Measure(context.Background(), e, Options{
		Contexts: []int{3, 600}, Batches: []int{1, 2}, Decode: 2, Repeat: 2, DType: "f32", Meter: m,
		Progress: func(done, total int) {
			if progress = append(progress, done); total != 24 {
				t.Errorf("%d turns in all, expected 24", total)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	round := []string{
		"1 x 3 after 0", "1 x 1 after 3", "1 x 1 after 4",
		"2 x 3 after 0", "2 x 1 after 3", "2 x 1 after 4",
		"1 x 600 after 0", "1 x 1 after 600", "1 x 1 after 601",
		"2 x 512 after 0", "2 x 88 after 512", "2 x 1 after 600", "2 x 1 after 601",
	}
	if diff := cmp.Diff(slices.Concat(round, round, round), e.passes); diff != "" {
		t.Errorf("passes (-want +got):\n%s", diff)
	}
	var got []string
	for _, r := range results {
		got = append(got, fmt.Sprintf("%s %d %d %s", r.Kind, r.Context, r.Batch, r.DType))
		if len(r.Runs) != 2 || r.TokensPS != (r.Runs[0]+r.Runs[1])/2 || slices.Min(r.Runs) <= 0 {
			t.Errorf("%s: %v tokens a second, of the runs %v", got[len(got)-1], r.TokensPS, r.Runs)
		}
		joules := 0.0
		if r.Kind == Decode && r.Context == 3 && r.Batch == 1 {
			joules = 0.5 / 4
		}
		if r.JoulesPT == nil || *r.JoulesPT != joules || r.NetJoulesPT != nil {
			t.Errorf("%s: %v joules a token, expected %v and none above idle power", got[len(got)-1], r.JoulesPT, joules)
		}
	}
	want := []string{
		"prompt 3 1 f32", "decode 3 1 f32", "prompt 3 2 f32", "decode 3 2 f32",
		"prompt 600 1 f32", "decode 600 1 f32", "prompt 600 2 f32", "decode 600 2 f32",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	if len(progress) != 24 || progress[23] != 24 {
		t.Errorf("progress %v", progress)
	}
	if n := 2 * (3 + 2 + 6 + 4 + 600 + 2 + 1200 + 4); drawn.Tokens != int64(n) {
		t.Errorf("%d tokens, expected %d", drawn.Tokens, n)
	}
	if drawn.Meter != "rapl" || *drawn.Joules != 0.5 {
		t.Errorf("drawn: %+v", drawn)
	}
}

// TestNet: idle power is subtracted over the time of the runs, and what is not known of
// one run is not known of all.
func TestNet(t *testing.T) {
	reading := func(joules, idle, seconds float64) energy.Reading {
		return energy.Reading{Joules: &joules, IdleWatts: &idle, Seconds: seconds}
	}
	s := stage{tokens: 5, runs: []float64{1, 4, 2}}
	for name, test := range map[string]struct {
		drawn       []energy.Reading
		joules, net string
		estimate    bool
	}{
		"known":            {[]energy.Reading{reading(100, 10, 3), reading(50, 10, 6), reading(0, 10, 0)}, "10", "4", false},
		"no meter":         {[]energy.Reading{reading(100, 10, 3), {}, reading(0, 10, 0)}, "none", "none", false},
		"no idle":          {[]energy.Reading{reading(100, 10, 3), {Joules: new(50.0)}, reading(0, 10, 0)}, "10", "none", false},
		"part an estimate": {[]energy.Reading{reading(100, 10, 3), {Joules: new(50.0), Estimate: true}}, "10", "none", true},
		"less than idle":   {[]energy.Reading{reading(100, 100, 3), reading(50, 100, 6), reading(0, 100, 0)}, "10", "none", false},
	} {
		s.drawn = test.drawn
		r := s.result("f32")
		text := func(v *float64) string {
			if v == nil {
				return "none"
			}
			return fmt.Sprint(*v)
		}
		if text(r.JoulesPT) != test.joules || text(r.NetJoulesPT) != test.net || r.TokensPS != 2 || r.Estimate != test.estimate {
			t.Errorf("%s: %s and %s joules a token, %v tokens a second, estimate %v; expected %s, %s, 2 and %v", name,
				text(r.JoulesPT), text(r.NetJoulesPT), r.TokensPS, r.Estimate, test.joules, test.net, test.estimate)
		}
	}
}

// TestMemory: what is said to be needed at least is what the caches and logits take.
func TestMemory(t *testing.T) {
	e := tiny(t)
	m := e.Model()
	opt := Options{Contexts: []int{100, 3}, Batches: []int{2, 5}, Decode: 29, Repeat: 1}
	values := float64(2 * len(m.Layers) * m.KVHeads * m.HeadDim * 256) // 129 tokens take two blocks
	for dtype, want := range map[string]float64{
		"f32": 5 * (4*values + 4*float64(m.Vocab)), "bf16": 5 * (2*values + 4*float64(m.Vocab)),
	} {
		opt.DType = dtype
		if got, err := Memory(e, opt); got != want || err != nil {
			t.Errorf("%s: %v bytes, %v, expected %v", dtype, got, err, want)
		}
	}
	opt.Batches = []int{math.MaxInt}
	if got, err := Memory(e, opt); err == nil {
		t.Errorf("an endless batch takes %v bytes", got)
	}
}

// TestRefused: options without meaning, and what the engine refuses.
func TestRefused(t *testing.T) {
	m, _ := meter(t)
	good := Options{Contexts: []int{3}, Batches: []int{1}, Decode: 1, Repeat: 1, Meter: m}
	for name, change := range map[string]func(*Options){
		"no context":         func(o *Options) { o.Contexts = nil },
		"an empty prompt":    func(o *Options) { o.Contexts = []int{3, 0} },
		"no batch":           func(o *Options) { o.Batches = nil },
		"an empty batch":     func(o *Options) { o.Batches = []int{-1} },
		"no repetition":      func(o *Options) { o.Repeat = 0 },
		"less than no token": func(o *Options) { o.Decode = -1 },
		"an endless prompt":  func(o *Options) { o.Contexts, o.Batches = []int{math.MaxInt}, []int{4} },
		"an endless batch":   func(o *Options) { o.Batches = []int{math.MaxInt} },
		"endless decoding":   func(o *Options) { o.Decode = math.MaxInt },
		"no end":             func(o *Options) { o.Repeat = math.MaxInt },
	} {
		o := good
		change(&o)
		if _, _, err := Measure(context.Background(), tiny(t), o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	long := good
	long.Contexts = []int{2000}
	var tooLong *engine.LengthError
	if _, _, err := Measure(context.Background(), tiny(t), long); !errors.As(err, &tooLong) {
		t.Errorf("2001 tokens for a model of 2000: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := Measure(ctx, tiny(t), good); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	good.Decode = 0
	results, _, err := Measure(context.Background(), tiny(t), good)
	if err != nil || len(results) != 1 || results[0].Kind != Prompt {
		t.Errorf("nothing to decode: %v, %v", results, err)
	}
}
