package surgery

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/tensor"
)

// counting is n values that name their place.
func counting(layer, part, n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(layer*100000 + part*20000 + i)
	}
	return v
}

// refittedBy makes a plan of half the neurons and a file of refitted weights for it.
func refittedBy(t *testing.T, c *checkpoint.Checkpoint, inner bool) (*plan.Plan, *Weights) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	p := half(t, c)
	p.Layers[0].Keep = nil
	for i := range p.Intermediate { // nothing to refit
		p.Layers[0].Keep = append(p.Layers[0].Keep, i)
	}
	for l := range p.Layers {
		p.Layers[l].Width = p.Intermediate // of zero neurons, where others are not kept
	}
	head := WeightsHead{Version: WeightsVersion, Model: p.Model, Text: "sha256:t", Recipe: "made up", Hidden: c.Spec.Hidden, Inner: inner}
	if inner {
		head.Heads, head.Outs = 32, []bool{true, false, true}
	}
	p.Refit = &plan.Refit{Method: plan.Propagated, Stats: "sha256:unknown", Target: plan.StreamTarget}
	for _, l := range p.Layers[1:] {
		head.Widths = append(head.Widths, len(l.Keep))
	}
	head.Widths = append([]int{0}, head.Widths...)
	var err error
	head.Plan, err = p.Selection()
	must(err)
	path := filepath.Join(t.TempDir(), "weights")
	w, err := CreateWeights(path, head)
	must(err)
	layer := func(l int) LayerWeights {
		n := head.Widths[l] * head.Hidden
		m := LayerWeights{Down: counting(l, 0, n)}
		if inner {
			m.Gate, m.Up = counting(l, 1, n), counting(l, 2, n)
			m.Out = counting(l, 3, 32*32)
		}
		if l == 0 {
			m.Down, m.Gate, m.Up = nil, nil, nil
		}
		return m
	}
	if inner {
		must(w.WriteLayer(0, layer(0)))
	}
	must(w.WriteLayer(1, layer(1)))
	if err := w.WriteLayer(2, LayerWeights{Down: make([]float32, 3)}); err == nil {
		t.Error("3 values were written as a down_proj")
	}
	must(w.Close())
	unfinished, err := OpenWeights(path)
	must(err)
	if _, err := unfinished.Layer(2); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("read a layer that was not written: %v", err)
	}
	must(unfinished.Close())
	w, err = ContinueWeights(path, head)
	must(err)
	must(w.WriteLayer(2, layer(2)))
	must(w.Close())
	made, err := OpenWeights(path)
	must(err)
	t.Cleanup(func() { made.Close() })
	p.Refit.Stats, err = made.Fingerprint()
	must(err)
	return p, made
}

// A plan with a propagated refit makes a checkpoint of the refitted weights, zeros where
// neurons pad it; what is not refitted is copied as without a refit. Verify agrees.
func TestReplay(t *testing.T) {
	for _, family := range []string{"llama", "phi3"} {
		for _, inner := range []bool{false, true} {
			c := model(t, tensor.F32, map[string]any{"model_type": family})
			p, w := refittedBy(t, c, inner)
			prog, err := Compile(p, c, tensor.Invalid)
			if err != nil {
				t.Fatal(err)
			}
			if !prog.NeedsStats() {
				t.Error("a refit needs nothing")
			}
			if err := prog.AttachWeights(w); err != nil {
				t.Fatal(err)
			}
			made := runProgram(t, c, prog)
			plain := *p
			plain.Refit = nil
			unchanged := run(t, c, &plain, tensor.Invalid)
			h := c.Spec.Hidden
			for l, layer := range p.Layers {
				k, width := len(layer.Keep), layer.Width
				out := floats(t, made, fmt.Sprintf("model.layers.%d.self_attn.o_proj.weight", l))
				wantOut := floats(t, unchanged, fmt.Sprintf("model.layers.%d.self_attn.o_proj.weight", l))
				if inner && l != 1 {
					wantOut = counting(l, 3, 32*32)
				}
				same(t, "o_proj", out, wantOut)
				gate, up := gateUp(t, made, l, width*h)
				wantGate, wantUp := gateUp(t, unchanged, l, width*h)
				if l == 0 || !inner {
					same(t, "gate_proj", gate, wantGate)
					same(t, "up_proj", up, wantUp)
				} else {
					same(t, "gate_proj", gate, append(counting(l, 1, k*h), make([]float32, (width-k)*h)...))
					same(t, "up_proj", up, append(counting(l, 2, k*h), make([]float32, (width-k)*h)...))
				}
				if l == 0 {
					continue
				}
				down := floats(t, made, fmt.Sprintf("model.layers.%d.mlp.down_proj.weight", l))
				for i := range h {
					for j := range width {
						want := float32(0)
						if j < k {
							want = float32(l*100000 + i*k + j)
						}
						if down[i*width+j] != want {
							t.Fatalf("%s, layer %d: down_proj %d, %d is %v, want %v", family, l, i, j, down[i*width+j], want)
						}
					}
				}
			}
			if err := prog.Verify(context.Background(), c, made, Options{Threads: 2}); err != nil {
				t.Error(err)
			}
			if err := prog.Verify(context.Background(), c, unchanged, Options{Threads: 2}); err == nil {
				t.Error("a model that was not refitted passes for one that was")
			}
		}
	}
}

func runProgram(t *testing.T, c *checkpoint.Checkpoint, prog *Program) *checkpoint.Checkpoint {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	sink, err := checkpoint.Create(dir, c.Path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Abort()
	if err := prog.Run(context.Background(), c, sink, nil, opt); err != nil {
		t.Fatal(err)
	}
	return open(t, dir)
}

// gateUp reads gate_proj and up_proj of n values each, fused or not.
func gateUp(t *testing.T, c *checkpoint.Checkpoint, l, n int) (gate, up []float32) {
	t.Helper()
	name := func(part string) string { return fmt.Sprintf("model.layers.%d.mlp.%s.weight", l, part) }
	if _, fused := c.Lookup(name("gate_up_proj")); fused {
		both := floats(t, c, name("gate_up_proj"))
		return both[:n], both[n:]
	}
	return floats(t, c, name("gate_proj")), floats(t, c, name("up_proj"))
}

func same(t *testing.T, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("%s: value %d is %v, want %v", what, i, got[i], want[i])
		}
	}
}

// Weights that do not belong to the plan, or are damaged, are refused.
func TestReplayRefusals(t *testing.T) {
	c := model(t, tensor.F32, nil)
	p, w := refittedBy(t, c, false)
	compile := func(p *plan.Plan) *Program {
		t.Helper()
		prog, err := Compile(p, c, tensor.Invalid)
		if err != nil {
			t.Fatal(err)
		}
		return prog
	}
	other := *p
	other.Layers = append([]plan.Layer(nil), p.Layers...)
	keep := append([]int(nil), p.Layers[1].Keep...)
	for i, j := range complement(keep, p.Intermediate)[:1] {
		keep[i] = j
	}
	slices.Sort(keep)
	other.Layers[1].Keep = keep
	if err := compile(&other).AttachWeights(w); err == nil || !strings.Contains(err.Error(), "keeps other neurons") {
		t.Errorf("a plan that keeps others: %v", err)
	}
	refit := *p.Refit
	refit.Stats = "sha256:other"
	other = *p
	other.Refit = &refit
	if err := compile(&other).AttachWeights(w); err == nil || !strings.Contains(err.Error(), "not the refitted weights") {
		t.Errorf("a plan that names others: %v", err)
	}
	st := statsOf(t, c, 1, nil)
	if err := compile(p).Attach(st, 1); err == nil || !strings.Contains(err.Error(), "dense model") {
		t.Errorf("statistics of the dense model: %v", err)
	}
	plain := *p
	plain.Refit = nil
	if err := compile(&plain).AttachWeights(w); err == nil || !strings.Contains(err.Error(), "leave the refitted weights out") {
		t.Errorf("a plan without a refit: %v", err)
	}
	foreign := *w
	foreign.Model = "sha256:x"
	if err := compile(p).AttachWeights(&foreign); err == nil || !strings.Contains(err.Error(), "another model") {
		t.Errorf("weights of another model: %v", err)
	}
	b, err := os.ReadFile(w.Path())
	if err != nil {
		t.Fatal(err)
	}
	e, _ := w.header.Lookup("layers.1.down")
	b[e.Begin] ^= 1
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, b, 0o666); err != nil {
		t.Fatal(err)
	}
	damaged, err := OpenWeights(bad)
	if err != nil {
		t.Fatal(err)
	}
	defer damaged.Close()
	if _, err := damaged.Layer(1); err == nil || !strings.Contains(err.Error(), "layer 1") || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a flipped bit: %v", err)
	}
	for name, text := range map[string]string{"not safetensors": "x", "statistics": read(t, st.Path())} {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenWeights(path); err == nil || !strings.Contains(err.Error(), "not a file of refitted weights") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
