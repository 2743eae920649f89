package calib

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/surgery"
	"github.com/coppice-lm/coppice/tensor"
)

// dense is a model to refit: its checkpoint, and how it runs layer by layer.
type dense struct {
	*checkpoint.Checkpoint
	m *lm.Layerwise
}

func openDense(t *testing.T, dir string) dense {
	t.Helper()
	c, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	m, err := lm.NewLayerwise(context.Background(), c, lm.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	return dense{c, m}
}

// thirds is a plan that keeps 24 of the 40 neurons of all layers but the first, which it
// leaves whole and pads to nothing.
func (d dense) thirds(t *testing.T) *plan.Plan {
	t.Helper()
	f, err := d.Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	p := plan.KeepAll(f, &d.Spec)
	for l := 1; l < tinyLayers; l++ {
		p.Layers[l].Keep = nil
		for j := range tinyWidth {
			if (j+l)%5 < 3 {
				p.Layers[l].Keep = append(p.Layers[l].Keep, j)
			}
		}
	}
	return p
}

func (d dense) options(target plan.Target) RefitOptions {
	return RefitOptions{Options: little(), Target: target, Cap: 1, Damping: 1e-3}
}

// refit runs Refit into a new file.
func (d dense) refit(t *testing.T, p *plan.Plan, text string, opt RefitOptions) (*surgery.Weights, string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "weights")
	w, err := Refit(context.Background(), d.m, d.Checkpoint, p, []string{text}, out, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w, out
}

// prune makes the checkpoint of a refitted plan, which verifies.
func (d dense) prune(t *testing.T, p *plan.Plan, w *surgery.Weights) string {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	prog, err := surgery.Compile(p, d.Checkpoint, tensor.Invalid)
	must(err)
	must(prog.AttachWeights(w))
	dir := filepath.Join(t.TempDir(), "pruned")
	sink, err := checkpoint.Create(dir, d.Path, false)
	must(err)
	defer sink.Abort()
	opt := surgery.Options{Threads: 2, ShardBytes: checkpoint.DefaultShardBytes}
	must(prog.Run(context.Background(), d.Checkpoint, sink, nil, opt))
	made, err := checkpoint.Open(dir)
	must(err)
	defer made.Close()
	must(prog.Verify(context.Background(), d.Checkpoint, made, opt))
	return dir
}

// shown is what an observer of a whole model is shown of a text, layer by layer.
func shown(t *testing.T, dir string, l *layout) [][]engine.MLP {
	t.Helper()
	m, err := lm.Open(context.Background(), dir, lm.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	layers := make([][]engine.MLP, tinyLayers)
	for _, r := range l.rows {
		_, err := m.Engine().Score(context.Background(), batchOf([]row{r}), func(s engine.MLP) error {
			s.Activations, s.Output, s.Residual, s.Heads = slices.Clone(s.Activations), slices.Clone(s.Output), slices.Clone(s.Residual), slices.Clone(s.Heads)
			layers[s.Layer] = append(layers[s.Layer], s)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return layers
}

// The refitted down_proj of each layer solves the ridge problem that plan.Propagated
// states, for sums that a plain loop makes of what the whole dense model and the whole
// refitted model, read from its files, do on the text.
func TestRefitSolvesItsProblem(t *testing.T) {
	dir, text := tinyDir(t), writeText(t, 60)
	d := openDense(t, dir)
	for _, target := range []plan.Target{plan.MLPTarget, plan.StreamTarget} {
		p, opt := d.thirds(t), d.options(target)
		w, _ := d.refit(t, p, text, opt)
		documents, err := readSources([]string{text})
		if err != nil {
			t.Fatal(err)
		}
		l, err := layRows(d.m, documents, &opt.Options)
		if err != nil {
			t.Fatal(err)
		}
		teacher, student := shown(t, dir, l), shown(t, d.prune(t, p, w), l)
		for index := 1; index < tinyLayers; index++ {
			keep := p.Layers[index].Keep
			k, h := len(keep), 32
			n := 0
			gram, cross := make([]float64, k*k), make([]float64, h*k)
			for i, s := range student[index] {
				for r := range s.Rows {
					n++
					a := s.Activations[r*s.Width:][:k]
					y, in := teacher[index][i].Output[r*h:][:h], teacher[index][i].Residual[r*h:][:h]
					for u := range k {
						for v := range k {
							gram[u*k+v] += float64(a[u]) * float64(a[v])
						}
						for v := range h {
							want := float64(y[v])
							if target == plan.StreamTarget {
								want = float64(in[v]+y[v]) - float64(s.Residual[r*h+v])
							}
							cross[v*k+u] += want * float64(a[u])
						}
					}
				}
			}
			trace := 0.0
			for u := range k {
				trace += gram[u*k+u] / float64(n)
			}
			ridge := opt.Damping * trace / float64(k)
			mlp, err := w.Layer(index)
			if err != nil {
				t.Fatal(err)
			}
			before, err := keptMLP(d.Checkpoint, &d.m.Engine().Model().Layers[index], h, keep)
			if err != nil {
				t.Fatal(err)
			}
			changed, worst, scale := 0.0, 0.0, 0.0
			for i := range h {
				for j := range k {
					left := (float64(mlp.Down[i*k+j]) - float64(before.Down[i*k+j])) * ridge
					for u := range k {
						left += float64(mlp.Down[i*k+u]) * gram[u*k+j] / float64(n)
					}
					right := cross[i*k+j] / float64(n)
					worst, scale = max(worst, math.Abs(left-right)), max(scale, math.Abs(right))
					changed = max(changed, math.Abs(float64(mlp.Down[i*k+j]-before.Down[i*k+j])))
				}
			}
			if worst > 2e-5*scale || changed < 1e-3 {
				t.Errorf("target %s, layer %d: the normal equations are off by %.2g of %.2g; weights changed by %.2g", target, index, worst, scale, changed)
			}
		}
	}
}

// The stream target brings the pruned model's stream nearer to the dense one's than no
// refit does, on the text itself.
func TestRefitHelps(t *testing.T) {
	dir, text := tinyDir(t), writeText(t, 60)
	d := openDense(t, dir)
	p, opt := d.thirds(t), d.options(plan.StreamTarget)
	opt.Options = options()
	opt.Damping = 0 // chosen
	w, _ := d.refit(t, p, text, opt)
	refitted := d.prune(t, p, w)
	none := *p
	none.Refit = nil
	documents, _ := readSources([]string{text})
	l, err := layRows(d.m, documents, &opt.Options)
	if err != nil {
		t.Fatal(err)
	}
	last := func(dir string) []engine.MLP { return shown(t, dir, l)[tinyLayers-1] }
	distance := func(a, b []engine.MLP) float64 {
		sum := 0.0
		for i := range a {
			for j := range a[i].Output {
				e := float64(a[i].Output[j]+a[i].Residual[j]) - float64(b[i].Output[j]+b[i].Residual[j])
				sum += e * e
			}
		}
		return sum
	}
	want := last(dir)
	with, without := distance(last(refitted), want), distance(last(d.plainPrune(t, &none)), want)
	if !(with < 0.5*without) {
		t.Errorf("squared distance of the streams: %.4g refitted, %.4g not", with, without)
	}
}

// plainPrune makes the checkpoint of a plan that refits nothing.
func (d dense) plainPrune(t *testing.T, p *plan.Plan) string {
	t.Helper()
	prog, err := surgery.Compile(p, d.Checkpoint, tensor.Invalid)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "plain")
	sink, err := checkpoint.Create(dir, d.Path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Abort()
	if err := prog.Run(context.Background(), d.Checkpoint, sink, nil, surgery.Options{Threads: 2, ShardBytes: checkpoint.DefaultShardBytes}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Any number of threads, streams in memory or in files, a run that dies after any layer:
// the same bytes. What is there is not made again, and other weights are refused.
func TestRefitSameBytes(t *testing.T) {
	dir, text := tinyDir(t), writeText(t, 60)
	d := openDense(t, dir)
	opt := d.options(plan.StreamTarget)
	p := d.thirds(t)
	_, path := d.refit(t, p, text, opt)
	want, stats := read(t, path), p.Refit.Stats
	for _, memory := range []int64{0, 1} {
		opt := opt
		opt.Memory, opt.Threads, opt.Save = memory, 3, 1
		for die := 1; die <= tinyLayers; die++ {
			out := filepath.Join(t.TempDir(), "weights")
			seen := 0
			opt.Progress = func(int64, int64) {
				if seen++; seen == die {
					panic("dead")
				}
			}
			func() {
				defer func() { _ = recover() }()
				_, _ = Refit(context.Background(), d.m, d.Checkpoint, d.thirds(t), []string{text}, out, opt)
			}()
			if _, err := os.Stat(out); err == nil {
				t.Fatal("a run that died left an output")
			}
			again := 0
			opt.Progress = func(int64, int64) { again++ }
			p := d.thirds(t)
			w, err := Refit(context.Background(), d.m, d.Checkpoint, p, []string{text}, out, opt)
			if err != nil {
				t.Fatal(err)
			}
			w.Close()
			if !bytes.Equal(read(t, out), want) || p.Refit.Stats != stats {
				t.Errorf("memory %d, died after layer %d: other bytes", memory, die-1)
			}
			if again != tinyLayers-die+1 {
				t.Errorf("memory %d, died after layer %d: %d layers were run again", memory, die-1, again)
			}
			left, err := filepath.Glob(filepath.Join(filepath.Dir(out), ".*"))
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		}
	}
	opt.Progress = func(int64, int64) { t.Error("ran again") }
	w, err := Refit(context.Background(), d.m, d.Checkpoint, d.thirds(t), []string{text}, path, opt)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	opt.Target = plan.MLPTarget
	if _, err := Refit(context.Background(), d.m, d.Checkpoint, d.thirds(t), []string{text}, path, opt); err == nil || !strings.Contains(err.Error(), "other refitted weights") {
		t.Errorf("another target: %v", err)
	}
}

// A run of another kind that died in between, and emptied the partial output, leaves
// nothing that the first can go on from.
func TestRefitAfterAnother(t *testing.T) {
	dir, text := tinyDir(t), writeText(t, 60)
	d := openDense(t, dir)
	opt := d.options(plan.StreamTarget)
	_, path := d.refit(t, d.thirds(t), text, opt)
	want := read(t, path)
	out := filepath.Join(t.TempDir(), "weights")
	opt.Memory, opt.Save = 1, time.Hour
	other := opt
	other.Memory = 0
	for _, run := range []struct {
		opt RefitOptions
		die int
	}{{opt, 3}, {other, 1}} {
		seen := 0
		run.opt.Progress = func(int64, int64) {
			if seen++; seen == run.die {
				panic("dead")
			}
		}
		func() {
			defer func() { _ = recover() }()
			_, _ = Refit(context.Background(), d.m, d.Checkpoint, d.thirds(t), []string{text}, out, run.opt)
		}()
	}
	w, err := Refit(context.Background(), d.m, d.Checkpoint, d.thirds(t), []string{text}, out, opt)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if !bytes.Equal(read(t, out), want) {
		t.Error("other bytes after a run with other memory")
	}
}

// A run whose output is whole but not in its place goes on from there.
func TestRefitBeforeRename(t *testing.T) {
	dir, text := tinyDir(t), writeText(t, 60)
	d := openDense(t, dir)
	opt := d.options(plan.StreamTarget)
	opt.Memory, opt.Replace = 1, true
	out := filepath.Join(t.TempDir(), "weights")
	if err := os.Mkdir(out, 0o777); err != nil { // so that the rename fails
		t.Fatal(err)
	}
	if _, err := Refit(context.Background(), d.m, d.Checkpoint, d.thirds(t), []string{text}, out, opt); !errors.As(err, new(*checkpoint.WriteError)) {
		t.Fatalf("an output over a directory: %v", err)
	}
	if err := os.Remove(out); err != nil {
		t.Fatal(err)
	}
	opt.Progress = func(int64, int64) { t.Error("ran a layer again") }
	w, err := Refit(context.Background(), d.m, d.Checkpoint, d.thirds(t), []string{text}, out, opt)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
}

func TestRefitRefusals(t *testing.T) {
	d, text := openDense(t, tinyDir(t)), writeText(t, 60)
	out := filepath.Join(t.TempDir(), "weights")
	for want, change := range map[string]func(*RefitOptions){
		`target "x"`:    func(o *RefitOptions) { o.Target = "x" },
		"a cap of 2":    func(o *RefitOptions) { o.Cap = 2 },
		"damping of -1": func(o *RefitOptions) { o.Damping = -1 },
		"0 tokens":      func(o *RefitOptions) { o.Tokens = 0 },
	} {
		opt := d.options(plan.MLPTarget)
		change(&opt)
		if _, err := Refit(context.Background(), d.m, d.Checkpoint, d.thirds(t), []string{text}, out, opt); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	biased := &arch.Transformer{Layers: []arch.Layer{{Down: arch.Projection{Weight: "down", Bias: "bias"}}}}
	opt := d.options(plan.MLPTarget)
	if err := opt.checkFit(biased); !errors.As(err, new(*surgery.RefitError)) || !strings.Contains(err.Error(), "down_proj with a bias") {
		t.Errorf("a bias of down_proj: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	opt.Progress = func(int64, int64) { cancel() }
	if _, err := Refit(ctx, d.m, d.Checkpoint, d.thirds(t), []string{text}, out, opt); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Sums of targets are those of a plain loop, class by class.
func TestTargetSums(t *testing.T) {
	const n, h, k = 700, 70, 33
	x, y := make([]float32, n*k), make([]float32, n*h)
	for i := range x {
		x[i] = float32(math.Sin(float64(i) * 1.7))
	}
	for i := range y {
		y[i] = float32(math.Cos(float64(i) * 0.9))
	}
	var rows []int
	for r := range n {
		if r%7 != 3 {
			rows = append(rows, r)
		}
	}
	sums := newTargets(h, k, false)
	a := &adder{threads: 2}
	if !a.addTarget(sums.body(), x, y, nil, rows) || !a.addTargetExact(sums.first(), x, y, nil, []int{3, 10}) {
		t.Fatal("not finite")
	}
	for what, c := range map[string]struct {
		rows []int
		got  *targetClass
	}{"body": {rows, sums.body()}, "first": {[]int{3, 10}, sums.first()}} {
		energy := 0.0
		for i := range h {
			for j := range k {
				want := 0.0
				for _, r := range c.rows {
					want += float64(y[r*h+i]) * float64(x[r*k+j])
				}
				if got := c.got.cross.At(i, j); math.Abs(got-want) > 2e-5 {
					t.Fatalf("%s: target %d, neuron %d: %v, want %v", what, i, j, got, want)
				}
			}
			for _, r := range c.rows {
				energy += float64(y[r*h+i]) * float64(y[r*h+i])
			}
		}
		if math.Abs(c.got.energy-energy) > 1e-9*energy || c.got.N != int64(len(c.rows)) {
			t.Errorf("%s: energy %v of %d, want %v of %d", what, c.got.energy, c.got.N, energy, len(c.rows))
		}
	}
	weight, scale := sums.stats.Weights(score.AllTokens, 1e-3)
	f := sums.fit(score.AllTokens, 1e-3, 1)
	if want := scale * (sums.body().energy + weight*sums.first().energy); weight >= 1 || math.Abs(f.Energy-want) > 1e-12*want {
		t.Errorf("weight %v, energy %v, want %v", weight, f.Energy, want)
	}
	y[5] = float32(math.Inf(1))
	if a.addTarget(sums.held(), x, y, nil, []int{0}) {
		t.Error("an infinite target passed")
	}
}

// Rounds of steps on gate and up bring the outputs nearer to their targets than a refit of
// down alone, on the text itself and with files as in memory; what is written is what was
// fitted, and replays.
func TestRefitRounds(t *testing.T) {
	dir, text := tinyDir(t), writeText(t, 60)
	d := openDense(t, dir)
	var want []byte
	for _, memory := range []int64{0, 1} {
		for _, weigh := range []bool{false, true} {
			opt := d.options(plan.StreamTarget)
			opt.Damping, opt.Weigh, opt.Memory = 0, weigh, memory
			var plain, stepped []LayerFit
			opt.Report = func(f LayerFit) { plain = append(plain, f) }
			d.refit(t, d.thirds(t), text, opt)
			opt.Rounds = 3
			opt.Report = func(f LayerFit) { stepped = append(stepped, f) }
			p := d.thirds(t)
			w, path := d.refit(t, p, text, opt)
			d.prune(t, p, w)
			if len(plain) != 2 || len(stepped) != 2 || !(stepped[0].After < 0.98*plain[0].After) || stepped[0].Before != plain[0].Before {
				t.Errorf("weigh %v: fits %+v with steps, %+v without", weigh, stepped, plain)
			}
			before, err := keptMLP(d.Checkpoint, &d.m.Engine().Model().Layers[1], 32, p.Layers[1].Keep)
			if err != nil {
				t.Fatal(err)
			}
			if m, err := w.Layer(1); err != nil || slices.Equal(m.Gate, before.Gate) || slices.Equal(m.Up, before.Up) {
				t.Errorf("weigh %v: gate or up did not change (%v)", weigh, err)
			}
			if weigh {
				continue
			}
			if got := read(t, path); want == nil {
				want = got
			} else if !bytes.Equal(got, want) {
				t.Error("other bytes with files than in memory")
			}
		}
	}
}

// The refitted output projection of an attention solves its ridge problem for sums that a
// plain loop makes of what the whole dense and the whole refitted model do; layers that
// nothing was lost before keep theirs.
func TestRefitAttention(t *testing.T) {
	dir, text := tinyDir(t), writeText(t, 60)
	d := openDense(t, dir)
	p, opt := d.thirds(t), d.options(plan.StreamTarget)
	opt.Attention = true
	var fits []LayerFit
	opt.Report = func(f LayerFit) { fits = append(fits, f) }
	w, path := d.refit(t, p, text, opt)
	if len(fits) != 2 || fits[0].Heads != 0 || fits[1].Heads != opt.Damping {
		t.Fatalf("fits %+v", fits)
	}
	documents, err := readSources([]string{text})
	if err != nil {
		t.Fatal(err)
	}
	l, err := layRows(d.m, documents, &opt.Options)
	if err != nil {
		t.Fatal(err)
	}
	pruned := d.prune(t, p, w)
	teacher, student := shown(t, dir, l)[2], shown(t, pruned, l)[2]
	made, err := w.Layer(2)
	if err != nil {
		t.Fatal(err)
	}
	const h = 32 // and of all heads
	r := &weightReader{src: d.Checkpoint}
	all := make([]int, h)
	for i := range all {
		all[i] = i
	}
	before := r.rows(d.m.Engine().Model().Layers[2].Out, h, all)
	gram, cross := make([]float64, h*h), make([]float64, h*h)
	n := 0
	for i, s := range student {
		for row := range s.Rows {
			n++
			a := s.Heads[row*h:][:h]
			for u := range h {
				mid := float64(s.Residual[row*h+u])
				for v, x := range a {
					mid -= float64(made.Out[u*h+v]-before[u*h+v]) * float64(x)
				}
				e := float64(teacher[i].Residual[row*h+u]) - mid
				for v, x := range a {
					cross[u*h+v] += e * float64(x)
					gram[u*h+v] += float64(a[u]) * float64(x)
				}
			}
		}
	}
	ridge := 0.0
	for u := range h {
		ridge += opt.Damping * gram[u*h+u] / float64(n) / h
	}
	changed, worst, scale := 0.0, 0.0, 0.0
	for u := range h {
		for v := range h {
			change := func(j int) float64 { return float64(made.Out[u*h+j]) - float64(before[u*h+j]) }
			left := ridge * change(v)
			for j := range h {
				left += change(j) * gram[j*h+v] / float64(n)
			}
			right := cross[u*h+v] / float64(n)
			worst, scale, changed = max(worst, math.Abs(left-right)), max(scale, math.Abs(right)), max(changed, math.Abs(change(v)))
		}
	}
	if worst > 1e-4*scale || changed < 1e-4 {
		t.Errorf("the normal equations are off by %.2g of %.2g; weights changed by %.2g", worst, scale, changed)
	}
	opt.Memory, opt.Report = 1, nil
	if _, again := d.refit(t, d.thirds(t), text, opt); !bytes.Equal(read(t, again), read(t, path)) {
		t.Error("other bytes with files than in memory")
	}
}

// What gate and up become does not depend on what the held-back documents say, as long as
// these judge steps alike: no fit of a round sees them.
func TestRoundsLeaveHeldBackTextOut(t *testing.T) {
	dir := tinyDir(t)
	d := openDense(t, dir)
	opt := d.options(plan.MLPTarget)
	opt.Rounds, opt.Rows, opt.Context = 3, Padded, 128
	text := func(held string) string {
		var b strings.Builder
		order := rand.New(rand.NewPCG(opt.Seed, 0)).Perm(60)
		for i := range 60 {
			word := fmt.Sprintf("some words %d and more of them", i*i)
			if slices.Index(order, i)%heldBack == heldBack-1 {
				word = held
			}
			fmt.Fprintf(&b, "{\"text\": \"document %d %s\"}\n", i, strings.Repeat(word+". ", 3))
		}
		path := filepath.Join(t.TempDir(), "text.jsonl")
		if err := os.WriteFile(path, []byte(b.String()), 0o666); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var gate [][]float32
	var down [][]float32
	for _, held := range []string{"others of them, and words", "these are 7 or 8 more words"} {
		var fits []LayerFit
		opt.Report = func(f LayerFit) { fits = append(fits, f) }
		w, _ := d.refit(t, d.thirds(t), text(held), opt)
		m, err := w.Layer(1)
		if err != nil || fits[0].Rounds < 2 || !(fits[0].After < fits[0].Before) {
			t.Fatalf("%v, fits %+v", err, fits)
		}
		gate, down = append(gate, m.Gate), append(down, m.Down)
	}
	if !slices.Equal(gate[0], gate[1]) {
		t.Error("gate depends on held-back text")
	}
	if slices.Equal(down[0], down[1]) {
		t.Error("down does not: the texts are alike")
	}
}
