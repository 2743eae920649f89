package calib

import (
	"context"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/internal/synth"
	"github.com/coppice-lm/coppice/lm"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/tensor"
)

// peakHeap is the most that the heap grows by while do runs, as often as it can be looked
// at, with a collector that leaves little.
func peakHeap(do func()) int64 {
	defer debug.SetGCPercent(debug.SetGCPercent(5))
	heap := func() int64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	runtime.GC()
	before, peak := heap(), int64(0)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				peak = max(peak, heap())
			}
		}
	}()
	do()
	close(stop)
	<-stopped
	return peak - before
}

// What runs are reckoned to need is what they need, so that the choice between memory and
// files is the right one.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT CHECKED: the memory that is reckoned, which takes some seconds to measure")
	}
	dir := filepath.Join(t.TempDir(), "m")
	const h, d, layers = 128, 768, 2
	if err := synth.Write(dir, synth.Config(h, d, layers, 4, 2, synth.VocabSize, true), tensor.F32, 1, checkpoint.DefaultShardBytes); err != nil {
		t.Fatal(err)
	}
	if err := synth.WriteTokenizer(dir); err != nil {
		t.Fatal(err)
	}
	c, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fingerprint, err := c.Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	text := writeText(t, 60)
	p := plan.KeepAll(fingerprint, &c.Spec)
	for l := range p.Layers {
		p.Layers[l].Keep = slices.Clone(p.Layers[l].Keep[:512])
	}
	unfitted := func() *plan.Plan { // a refit leaves its mark in a plan
		p := *p
		p.Layers = slices.Clone(p.Layers)
		return &p
	}
	options := Options{Model: fingerprint, Tokens: 1024, Context: 128, Rows: Packed, Threads: 2}
	run := func(name string, precision engine.Precision, want func(m *lm.Layerwise) int64, do func(m *lm.Layerwise) error) {
		m, err := lm.NewLayerwise(context.Background(), c, lm.Options{Precision: precision, Threads: 2})
		if err != nil {
			t.Fatal(err)
		}
		got := peakHeap(func() { err = do(m) })
		if err != nil {
			t.Fatal(err)
		}
		reckoned := want(m)
		ratio := float64(got) / float64(reckoned)
		name += " in " + precision.String()
		t.Logf("%s: %.1f MB of %.1f MB that were reckoned", name, float64(got)/1e6, float64(reckoned)/1e6)
		if ratio < 0.6 || ratio > 1.3 {
			t.Errorf("%s: %.2f times what was reckoned", name, ratio)
		}
	}
	for _, precision := range []engine.Precision{engine.F32, engine.BF16} {
		run("collect", precision, func(m *lm.Layerwise) int64 {
			return collectBytes(m) + streamBytes(m.Engine().Model(), 1024)
		}, func(m *lm.Layerwise) error {
			st, err := Collect(context.Background(), m, []string{text}, filepath.Join(t.TempDir(), "stats"), options)
			if err == nil {
				err = st.Close()
			}
			return err
		})
		steps := StepOptions{Options: options, Steps: 2}
		run("steps", precision, func(m *lm.Layerwise) int64 {
			s, err := newStepper(context.Background(), m, c, nil, p, []string{text}, "", steps)
			if err != nil {
				t.Fatal(err)
			}
			return s.least() + streamBytes(m.Engine().Model(), layers*s.most)
		}, func(m *lm.Layerwise) error {
			w, err := RefitPredictions(context.Background(), m, c, nil, unfitted(), []string{text}, filepath.Join(t.TempDir(), "weights"), steps)
			if err == nil {
				err = w.Close()
			}
			return err
		})
		for name, opt := range map[string]RefitOptions{
			"refit":     {Target: plan.StreamTarget},
			"rounds":    {Target: plan.StreamTarget, Rounds: 1},
			"attention": {Target: plan.StreamTarget, Attention: true},
		} {
			opt.Options, opt.Cap = options, 1
			run(name, precision, func(m *lm.Layerwise) int64 {
				return refitBytes(m, p, &opt) + int64(2+opt.pairs())*streamBytes(m.Engine().Model(), 1024)
			}, func(m *lm.Layerwise) error {
				w, err := Refit(context.Background(), m, c, unfitted(), []string{text}, filepath.Join(t.TempDir(), "weights"), opt)
				if err == nil {
					err = w.Close()
				}
				return err
			})
		}
	}
}
