package calib

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/internal/synth"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/tensor"
)

const (
	tinyWidth  = 40
	tinyLayers = 3
)

// tinyDir makes a small random Llama whose tokens are bytes.
func tinyDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tiny")
	if err := synth.Write(dir, synth.Config(32, tinyWidth, tinyLayers, 4, 2, synth.VocabSize, true), tensor.F32, 1, checkpoint.DefaultShardBytes); err != nil {
		t.Fatal(err)
	}
	if err := synth.WriteTokenizer(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func openTiny(t *testing.T, dir string) *lm.Layerwise { return openThreads(t, dir, 2) }

func openThreads(t *testing.T, dir string, threads int) *lm.Layerwise {
	t.Helper()
	c, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	m, err := lm.NewLayerwise(context.Background(), c, lm.Options{Threads: threads})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// writeText makes a JSON Lines file of n documents of different lengths.
func writeText(t *testing.T, n int) string {
	t.Helper()
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{\"text\": \"document %d %s\"}\n", i, strings.Repeat(fmt.Sprintf("some words %d and more of them. ", i*i), 3+i%5))
	}
	path := filepath.Join(t.TempDir(), "text.jsonl")
	if err := os.WriteFile(path, []byte(b.String()), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func options() Options {
	return Options{Model: "sha256:tiny", Tokens: 3000, Context: 128, Rows: Packed, Threads: 2}
}

// little is text enough for what goes over it often.
func little() Options {
	opt := options()
	opt.Tokens, opt.Context = 1200, 48
	return opt
}

// collect runs Collect into a new file and returns its path.
func collect(t *testing.T, m *lm.Layerwise, text string, opt Options) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "stats")
	st, err := Collect(context.Background(), m, []string{text}, out, opt)
	if err != nil {
		t.Fatal(err)
	}
	st.Close()
	return out
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func openStats(t *testing.T, path string) *score.Stats {
	t.Helper()
	st, err := score.OpenStats(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

// naive adds up in float64 what an observer of the whole model sees of single rows run
// alone.
func naive(t *testing.T, dir string, l *layout) []*score.LayerStats {
	t.Helper()
	m, err := lm.Open(context.Background(), dir, lm.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	layers := make([]*score.LayerStats, tinyLayers)
	for i := range layers {
		layers[i] = score.NewLayerStats(tinyWidth)
	}
	for _, r := range l.rows {
		_, err := m.Engine().Score(context.Background(), batchOf([]row{r}), func(mlp engine.MLP) error {
			for i, at := range mlp.Rows {
				s := layers[mlp.Layer]
				to := &s.Body
				if r.held {
					to = &s.Held
				}
				if r.first[at.Index] {
					to = &s.First
				}
				to.N++
				x := mlp.Activations[i*mlp.Width:][:mlp.Width]
				for j := range x {
					to.Sum[j] += float64(x[j])
					for k := 0; k <= j; k++ {
						to.Gram[j*(j+1)/2+k] += float64(x[j]) * float64(x[k])
					}
				}
				energy := 0.0
				for j, v := range mlp.Residual[i*mlp.Hidden:][:mlp.Hidden] {
					v += mlp.Output[i*mlp.Hidden+j]
					energy += float64(v) * float64(v)
				}
				to.Stream.Energy += energy
				to.Stream.Weights += float64(mlp.Hidden) / energy
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return layers
}

func near(got, want float64) bool { return math.Abs(got-want) <= 1e-12*want }

// sameMoments compares sums with those of a plain loop in float64: products to 2e-6 of
// the two neurons' own sums of squares, which bound them.
func sameMoments(got, want *score.Moments) error {
	if got.N != want.N {
		return fmt.Errorf("%d tokens, want %d", got.N, want.N)
	}
	if !near(got.Stream.Energy, want.Stream.Energy) || !near(got.Stream.Weights, want.Stream.Weights) {
		return fmt.Errorf("residual stream %v, want %v", got.Stream, want.Stream)
	}
	square := func(i int) float64 { return want.Gram[i*(i+1)/2+i] }
	for i := range want.Sum {
		for j := 0; j <= i; j++ {
			at := i*(i+1)/2 + j
			if math.Abs(got.Gram[at]-want.Gram[at]) > 2e-6*math.Sqrt(square(i)*square(j)) {
				return fmt.Errorf("product %d, %d is %v, want %v", i, j, got.Gram[at], want.Gram[at])
			}
		}
		if math.Abs(got.Sum[i]-want.Sum[i]) > 1e-6*math.Sqrt(square(i)*float64(want.N)) {
			return fmt.Errorf("sum %d is %v, want %v", i, got.Sum[i], want.Sum[i])
		}
	}
	return nil
}

// Sums are those of a plain loop in float64 over rows that the engine ran one by one.
func TestSumsAgainstFloat64(t *testing.T) {
	dir, text := tinyDir(t), writeText(t, 60)
	m := openTiny(t, dir)
	for _, mode := range []RowMode{Packed, Padded} {
		opt := options()
		opt.Rows = mode
		documents, err := readSources([]string{text})
		if err != nil {
			t.Fatal(err)
		}
		l, err := layRows(m, documents, &opt)
		if err != nil {
			t.Fatal(err)
		}
		if l.tokens() != 3000 || l.held != 300-countFirst(l, true) {
			t.Fatalf("%s: %d tokens, %d held back", mode, l.tokens(), l.held)
		}
		st := openStats(t, collect(t, m, text, opt))
		for i, want := range naive(t, dir, l) {
			got, err := st.Layer(i)
			if err != nil {
				t.Fatal(err)
			}
			pairs := [][2]*score.Moments{{&got.Body, &want.Body}, {&got.First, &want.First}, {&got.Held, &want.Held}}
			for c, p := range pairs {
				if err := sameMoments(p[0], p[1]); err != nil || p[0].N == 0 {
					t.Errorf("%s, layer %d, class %d of %d tokens: %v", mode, i, c, p[0].N, err)
				}
			}
		}
	}
}

func countFirst(l *layout, held bool) int64 {
	n := int64(0)
	for _, r := range l.rows {
		for _, f := range r.first {
			if f && r.held == held {
				n++
			}
		}
	}
	return n
}

// The same bytes at any number of threads, with residual streams in memory or in files.
func TestSameBytes(t *testing.T) {
	dir, text := tinyDir(t), writeText(t, 60)
	want := read(t, collect(t, openThreads(t, dir, 1), text, options()))
	for _, memory := range []int64{0, 1} {
		m := openThreads(t, dir, 3)
		opt := options()
		opt.Threads, opt.Memory = 3, memory
		names := map[string]bool{}
		out := filepath.Join(t.TempDir(), "stats")
		opt.Progress = func(int64, int64) {
			left, _ := filepath.Glob(filepath.Join(filepath.Dir(out), ".stats.coppice-*"))
			for _, name := range left {
				names[name] = true
			}
		}
		st, err := Collect(context.Background(), m, []string{text}, out, opt)
		if err != nil {
			t.Fatal(err)
		}
		st.Close()
		if !bytes.Equal(read(t, out), want) {
			t.Errorf("memory %d: other bytes", memory)
		}
		if spilled := names[out[:len(out)-5]+".stats.coppice-streams-0"] && names[out[:len(out)-5]+".stats.coppice-streams-1"]; spilled != (memory == 1) {
			t.Errorf("memory %d: the files were %v", memory, names)
		}
	}
}

// A run that dies between any two batches, without a word, is continued by the next, which
// runs only what is left and ends with the same bytes.
func TestContinuesAfterDeath(t *testing.T) {
	m, text := openTiny(t, tinyDir(t)), writeText(t, 60)
	want := read(t, collect(t, m, text, options()))
	t.Run("in memory", func(t *testing.T) { testDeath(t, m, text, want, 0) })
	t.Run("in files", func(t *testing.T) { testDeath(t, m, text, want, 1) })
}

// Where the partial output of a run that died is gone, or its streams are, the next begins
// anew.
func TestContinuesWithoutFiles(t *testing.T) {
	m, text := openTiny(t, tinyDir(t)), writeText(t, 60)
	want := read(t, collect(t, m, text, options()))
	for _, ending := range []string{"part", "streams-1"} {
		out := filepath.Join(t.TempDir(), "stats")
		opt := options()
		opt.Memory, opt.Save = 1, 1
		reports := 0
		opt.Progress = func(int64, int64) {
			if reports++; reports == 8 {
				panic("dead")
			}
		}
		func() {
			defer func() { _ = recover() }()
			_, _ = Collect(context.Background(), m, []string{text}, out, opt)
		}()
		if err := os.Remove(filepath.Join(filepath.Dir(out), ".stats.coppice-"+ending)); err != nil {
			t.Fatal(err)
		}
		opt.Progress = nil
		st, err := Collect(context.Background(), m, []string{text}, out, opt)
		if err != nil {
			t.Fatalf("without %s: %v", ending, err)
		}
		st.Close()
		if !bytes.Equal(read(t, out), want) {
			t.Errorf("without %s: other bytes", ending)
		}
	}
}

func testDeath(t *testing.T, m *lm.Layerwise, text string, want []byte, memory int64) {
	opt := options()
	opt.Memory = memory
	type death struct{}
	next := 1
	if testing.Short() {
		next = 3 // once after each of the four batches of a layer
	}
	for die := 1; ; die += next {
		out := filepath.Join(t.TempDir(), "stats")
		opt.Save = 1 // after each batch
		reports := 0
		opt.Progress = func(int64, int64) {
			if reports++; reports == die {
				panic(death{})
			}
		}
		died := func() (died bool) {
			defer func() {
				if p := recover(); p != nil {
					if _, died = p.(death); !died {
						panic(p)
					}
				}
			}()
			st, err := Collect(context.Background(), m, []string{text}, out, opt)
			if err != nil {
				t.Fatal(err)
			}
			st.Close()
			return false
		}()
		if !died {
			if die < 4*tinyLayers {
				t.Fatalf("only %d batches: the test dies nowhere", die)
			}
			return
		}
		if _, err := os.Stat(out); err == nil {
			t.Fatal("a run that died left an output")
		}
		again := 0
		var total, first int64
		opt.Progress = func(done, all int64) {
			if again++; again == 1 {
				first = done
			}
			total = all
		}
		st, err := Collect(context.Background(), m, []string{text}, out, opt)
		if err != nil {
			t.Fatal(err)
		}
		st.Close()
		if !bytes.Equal(read(t, out), want) {
			t.Errorf("died after batch %d: other bytes", die)
		}
		if die > 2 && (again == 0 || first < total*int64(die-2)/(5*tinyLayers)) {
			t.Errorf("died after batch %d: the next run began at %d of %d tokens", die, first, total)
		}
		left, err := filepath.Glob(filepath.Join(filepath.Dir(out), ".*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

func TestInterruption(t *testing.T) {
	m, text := openTiny(t, tinyDir(t)), writeText(t, 60)
	want := read(t, collect(t, m, text, options()))
	out := filepath.Join(t.TempDir(), "stats")
	ctx, cancel := context.WithCancel(context.Background())
	opt := options()
	opt.Progress = func(int64, int64) { cancel() }
	if _, err := Collect(ctx, m, []string{text}, out, opt); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	var began int64
	opt.Progress = func(done, total int64) {
		if began == 0 {
			began = done
		}
	}
	st, err := Collect(context.Background(), m, []string{text}, out, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if began <= batchTokens || !bytes.Equal(read(t, out), want) {
		t.Errorf("went on at %d tokens", began)
	}
}

func TestFinishedIsNotRunAgain(t *testing.T) {
	m, text := openTiny(t, tinyDir(t)), writeText(t, 60)
	out := collect(t, m, text, options())
	opt := options()
	opt.Progress = func(int64, int64) { t.Error("ran again") }
	st, err := Collect(context.Background(), m, []string{text}, out, opt)
	if err != nil {
		t.Fatal(err)
	}
	st.Close()
	opt = options()
	opt.Seed = 5
	if _, err := Collect(context.Background(), m, []string{text}, out, opt); err == nil || !strings.Contains(err.Error(), "other statistics") {
		t.Errorf("another seed: %v", err)
	}
	opt.Replace = true
	st, err = Collect(context.Background(), m, []string{text}, out, opt)
	if err != nil || st.Seed != 5 {
		t.Fatalf("replacing: %v", err)
	}
	st.Close()
}

// Two machines' statistics add up to those of both texts.
func TestMergeAddsUp(t *testing.T) {
	m := openTiny(t, tinyDir(t))
	var st [2]*score.Stats
	for i := range st {
		opt := options()
		opt.Seed = uint64(i)
		st[i] = openStats(t, collect(t, m, writeText(t, 50+i), opt))
	}
	out := filepath.Join(t.TempDir(), "both")
	if err := score.MergeStats(out, st[0], st[1]); err != nil {
		t.Fatal(err)
	}
	both := openStats(t, out)
	if both.Tokens() != st[0].Tokens()+st[1].Tokens() {
		t.Errorf("%d tokens", both.Tokens())
	}
	a, _ := st[0].Layer(1)
	b, _ := st[1].Layer(1)
	c, err := both.Layer(1)
	if err != nil {
		t.Fatal(err)
	}
	for i := range c.Held.Gram {
		if c.Held.Gram[i] != a.Held.Gram[i]+b.Held.Gram[i] {
			t.Fatalf("element %d does not add up", i)
		}
	}
}
