package score

import (
	"bytes"
	"context"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/internal/synth"
	"github.com/coppice-lm/coppice/tensor"
)

// tiny makes and opens a small Llama.
func tiny(t testing.TB, d tensor.DType) *checkpoint.Checkpoint {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tiny")
	if err := synth.Write(dir, synth.Config(48, 100, 3, 4, 2, 64, true), d, 1, checkpoint.DefaultShardBytes); err != nil {
		t.Fatal(err)
	}
	c, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// oracle computes the methods in float64 straight from their definitions.
func oracle(m Method, g, u []float64) float64 {
	part := func(v []float64) float64 {
		switch m {
		case MaxAbs:
			lo, hi := math.Inf(1), math.Inf(-1)
			for _, x := range v {
				lo, hi = math.Min(lo, x), math.Max(hi, x)
			}
			return hi + math.Abs(lo)
		case Variance:
			mean := 0.0
			for _, x := range v {
				mean += x / float64(len(v))
			}
			s := 0.0
			for _, x := range v {
				s += (x - mean) * (x - mean)
			}
			return s / float64(len(v)-1)
		case Product:
			s := 0.0
			for _, x := range v {
				s += math.Abs(x)
			}
			return s
		default:
			s := 0.0
			for _, x := range v {
				s += x * x
			}
			return math.Sqrt(s)
		}
	}
	if m == Product {
		return part(g) * part(u)
	}
	return part(g) + part(u)
}

func rows(t *testing.T, c *checkpoint.Checkpoint, name string) [][]float64 {
	info, ok := c.Lookup(name)
	if !ok {
		t.Fatalf("no tensor %s", name)
	}
	out := make([][]float64, info.Rows())
	b := make([]byte, info.RowBytes())
	f := make([]float32, info.RowElements())
	for r := range out {
		if err := c.ReadRows(name, b, r, 1); err != nil {
			t.Fatal(err)
		}
		if err := tensor.Decode(f, b, info.DType); err != nil {
			t.Fatal(err)
		}
		for _, x := range f {
			out[r] = append(out[r], float64(x))
		}
	}
	return out
}

func TestAgainstOracle(t *testing.T) {
	for _, d := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16, tensor.F64} {
		c := tiny(t, d)
		for _, m := range []Method{MaxAbs, Variance, Product, L2} {
			s, err := Compute(context.Background(), c, m, Options{Threads: 2})
			if err != nil {
				t.Fatal(err)
			}
			for l := range s.Layers {
				g := rows(t, c, "model.layers."+string(rune('0'+l))+".mlp.gate_proj.weight")
				u := rows(t, c, "model.layers."+string(rune('0'+l))+".mlp.up_proj.weight")
				for j, got := range s.Layers[l] {
					want := oracle(m, g[j], u[j])
					if math.Abs(float64(got)-want) > 1e-6*want {
						t.Fatalf("%v %s layer %d neuron %d: %v, want %v", d, m, l, j, got, want)
					}
				}
			}
		}
	}
}

func TestSameBitsAtAnyThreadCount(t *testing.T) {
	c := tiny(t, tensor.BF16)
	for _, m := range Methods {
		one, err := Compute(context.Background(), c, m, Options{Threads: 1, Seed: 3})
		if err != nil {
			t.Fatal(err)
		}
		many, err := Compute(context.Background(), c, m, Options{Threads: 7, Seed: 3})
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(one, many) {
			t.Errorf("%s: scores depend on the number of threads", m)
		}
	}
}

// How a file was written decides how the page cache keeps it, and so whether its rows are
// lent or copied; the scores are the same bits.
func TestSameBitsHoweverTheFileIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "m")
	if err := synth.Write(dir, synth.Config(512, 1500, 3, 4, 2, 64, true), tensor.BF16, 1, checkpoint.DefaultShardBytes); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "model.safetensors")
	weights, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	forms := map[Method][]byte{}
	for _, size := range []int{4096, len(weights)} {
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		for b := range slices.Chunk(weights, size) {
			if _, err := f.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		c, err := checkpoint.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, m := range Methods {
			s, err := Compute(context.Background(), c, m, Options{Threads: 2})
			if err != nil {
				t.Fatal(err)
			}
			form, err := s.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if before, ok := forms[m]; ok && !bytes.Equal(form, before) {
				t.Errorf("%s: scores differ between a file written by 4096 and one written by %d bytes", m, size)
			}
			forms[m] = form
		}
	}
}

func TestRandomDependsOnSeed(t *testing.T) {
	a, b, c := random([]int{50, 50}, 1), random([]int{50, 50}, 1), random([]int{50, 50}, 2)
	if !reflect.DeepEqual(a, b) || reflect.DeepEqual(a, c) || reflect.DeepEqual(a[0], a[1]) {
		t.Error("the seed does not decide the scores")
	}
}

func TestFileForm(t *testing.T) {
	s := &Scores{Version: Version, Model: "sha256:x", Method: L2, Layers: [][]float32{{1, 0.1, 3e-20}, {math.MaxFloat32, -math.MaxFloat32, 0}}}
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(b)
	if err != nil || !reflect.DeepEqual(s, got) {
		t.Errorf("read back %+v, %v", got, err)
	}
	for _, change := range []struct{ from, to string }{
		{`"coppice_scores":1`, `"coppice_scores":9`}, {`"l2"`, `"l3"`}, {`[1,`, `["1",`}, {`[1,`, `[1e60,`}, {"\n[", "\n[[],["},
	} {
		bad := strings.Replace(string(b), change.from, change.to, 1)
		if bad == string(b) {
			t.Fatalf("%s is not in the file", change.from)
		}
		if _, err := Decode([]byte(bad)); err == nil {
			t.Errorf("%s instead of %s: no error", change.to, change.from)
		}
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Compute(ctx, tiny(t, tensor.F32), MaxAbs, Options{Threads: 2}); err != context.Canceled && !strings.Contains(err.Error(), "canceled") {
		t.Error(err)
	}
}

// The diagonals alone give what the whole matrices give.
func TestSecondMoments(t *testing.T) {
	const d = 5
	head := StatsHead{Version: StatsVersion, Body: 7, First: 2, Held: 3, Widths: []int{d, d}}
	path := filepath.Join(t.TempDir(), "stats")
	w, err := CreateStats(path, head)
	if err != nil {
		t.Fatal(err)
	}
	var layers []*LayerStats
	for l := range 2 {
		s := NewLayerStats(d)
		for c, m := range s.byClass() {
			m.N = head.counts()[c]
			for i := range m.Gram {
				m.Gram[i] = float64(1 + (i*7+c*3+l)%11)
			}
		}
		if err := w.WriteLayer(l, s); err != nil {
			t.Fatal(err)
		}
		layers = append(layers, s)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	st, err := OpenStats(path)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for l, s := range layers {
		for _, limit := range []float64{0.1, 1} {
			h, _ := s.Second(AllTokens, limit, 1)
			got, err := st.SecondMoments(l, limit)
			if err != nil {
				t.Fatal(err)
			}
			for i, x := range got {
				if want := h.Row(i)[i]; math.Abs(x-want) > 1e-12*want {
					t.Errorf("layer %d, limit %v: element %d is %v, want %v", l, limit, i, x, want)
				}
			}
		}
	}
	if _, err := st.SecondMoments(2, 1); err == nil {
		t.Error("layer 2 of 2: no error")
	}
}
