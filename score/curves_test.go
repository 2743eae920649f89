package score

import (
	"context"
	"math"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/linalg"
	"github.com/coppice-lm/coppice/tensor"
)

// refitted solves the normal equations for the neurons that stay and returns what that
// changes of down_proj: W_P H_PK (H_KK + lI)^-1 for them, and -W for those that go.
func refitted(H dense, w *linalg.Matrix, keep []int, l float64) dense {
	d := len(H)
	sub := make(dense, len(keep))
	for i, a := range keep {
		for _, b := range keep {
			sub[i] = append(sub[i], H[a][b])
		}
	}
	inv := sub.add(l).inverse()
	change := make(dense, w.Rows)
	for r := range change {
		change[r] = make([]float64, d)
		for p := range d {
			if slices.Contains(keep, p) {
				continue
			}
			change[r][p] = -w.At(r, p)
			for i, a := range keep {
				for k := range keep {
					change[r][a] += w.At(r, p) * H[p][keep[k]] * inv[k][i]
				}
			}
		}
	}
	return change
}

// meanSquare is the mean of |D a|^2 over vectors a.
func meanSquare(change dense, x [][]float64) float64 {
	sum := 0.0
	for _, a := range x {
		for _, row := range change {
			y := 0.0
			for j := range row {
				y += row[j] * a[j]
			}
			sum += y * y / float64(len(x))
		}
	}
	return sum
}

func near(got float32, want float64) bool {
	return math.Abs(float64(got)-want) <= 1e-5*want+1e-9
}

// The curves against a refit for each k, applied to every vector.
func TestCurvesAgainstRefits(t *testing.T) {
	for _, s := range []struct{ d, h int }{{7, 3}, {40, 11}, {70, 9}} {
		x := activations(uint64(s.d), 4*s.d, s.d, 2)
		fit, held := x[:3*s.d], x[3*s.d:]
		w := randomMatrix(uint64(s.d), s.h, s.d)
		layer := layerOf(fit, nil, held, s.d)
		layer.Body.Stream.Energy, layer.Held.Stream.Energy = 50*float64(len(fit)), 40*float64(len(held))
		H := denseH(fit, s.d)
		l := 0.02 * H.trace() / float64(s.d)
		order := rand.New(rand.NewPCG(4, uint64(s.d))).Perm(s.d)
		c, err := curveOf(layer, w, order, CurveOptions{Cap: 1, Damping: 0.02, Threads: 2})
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(c.BodyStream-50) > 1e-9 || math.Abs(c.HeldStream-40) > 1e-9 {
			t.Errorf("energies of %v and %v", c.BodyStream, c.HeldStream)
		}
		for k := 0; k <= s.d; k += 1 + s.d/9 {
			change := refitted(H, w, order[:k], l)
			ridge, cut := 0.0, make(dense, s.h)
			for r, row := range change {
				cut[r] = make([]float64, s.d)
				for j, x := range row {
					ridge += l * x * x
					if !slices.Contains(order[:k], j) {
						cut[r][j] = x
					}
				}
			}
			for _, curve := range []struct {
				name string
				got  float32
				want float64
			}{
				{"fit", c.Fit[k], meanSquare(change, fit) + ridge},
				{"held", c.Held[k], meanSquare(change, held)},
				{"cut", c.Cut[k], meanSquare(cut, fit)},
			} {
				if !near(curve.got, curve.want) {
					t.Errorf("d %d: %s with %d neurons is %v, want %v", s.d, curve.name, k, curve.got, curve.want)
				}
			}
		}
		if c.Fit[s.d] != 0 || c.Held[s.d] != 0 || c.Cut[s.d] != 0 {
			t.Errorf("d %d: errors %v, %v, %v with all neurons", s.d, c.Fit[s.d], c.Held[s.d], c.Cut[s.d])
		}
		for k := range s.d {
			if c.Fit[k+1] > c.Fit[k] {
				t.Errorf("d %d: the error rises from %v to %v with neuron %d", s.d, c.Fit[k], c.Fit[k+1], k)
			}
		}
	}
}

// First tokens have the share of the error that their cap gives them.
func TestCurveCapsFirstTokens(t *testing.T) {
	const d = 10
	body, first := activations(1, 60, d), activations(2, 4, d)
	for _, a := range first {
		a[0] *= 300
	}
	layer := layerOf(body, first, nil, d)
	w := randomMatrix(1, 4, d)
	order := Order(make([]float32, d))
	c, err := curveOf(layer, w, order, CurveOptions{Cap: 0.3, Damping: 1e-3, Threads: 1})
	if err != nil || c.Held != nil {
		t.Fatal(c.Held, err)
	}
	h, _ := layer.Second(Fit, 0.3, 1)
	want := refitError(h, w, order[4:], 1e-3*h.Trace()/d)
	if !near(c.Fit[4], want) {
		t.Errorf("the error with 4 neurons is %v, want %v", c.Fit[4], want)
	}
}

// A layer that is silent in the body but not in the held-back text is not refitted.
func TestCurveOfSilence(t *testing.T) {
	const d = 5
	silent := make([][]float64, 20)
	for i := range silent {
		silent[i] = make([]float64, d)
	}
	held := activations(3, 9, d)
	w := randomMatrix(3, 4, d)
	c, err := curveOf(layerOf(silent, nil, held, d), w, Order(make([]float32, d)), CurveOptions{Cap: 0.5, Damping: 1e-3, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	change := make(dense, w.Rows)
	for r := range change {
		change[r] = append(make([]float64, 2), w.Row(r)[2:]...)
	}
	if want := meanSquare(change, held); slices.Max(c.Fit) != 0 || slices.Max(c.Cut) != 0 || !near(c.Held[2], want) {
		t.Errorf("%v, want a held-back error of %v with 2 neurons", c, want)
	}
}

func TestAddCurves(t *testing.T) {
	ctx := context.Background()
	c := tiny(t, tensor.F32)
	s, err := Compute(ctx, c, MaxAbs, Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	head := StatsHead{Version: StatsVersion, Model: s.Model, Text: "sha256:t", Body: 90, Held: 20, Widths: c.Spec.Widths}
	var layers []*LayerStats
	for l, d := range c.Spec.Widths {
		x := activations(uint64(l), 110, d)
		layers = append(layers, layerOf(x[:90], nil, x[90:], d))
	}
	st := writeStats(t, filepath.Join(t.TempDir(), "s"), head, layers...)
	var want []byte
	for _, threads := range []int{1, 3} {
		if err := AddCurves(ctx, s, c, st, CurveOptions{Cap: 0.5, Damping: 1e-3, Threads: threads}); err != nil {
			t.Fatal(err)
		}
		b, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = b
		}
		if string(b) != string(want) {
			t.Errorf("%d threads: other bytes", threads)
		}
	}
	got, err := Decode(want)
	if err != nil || !reflect.DeepEqual(got, s) {
		t.Fatalf("read back others: %v", err)
	}
	text := string(want)
	at := strings.Index(text, `"fit":[`) + len(`"fit":[`)
	for name, bad := range map[string]string{
		"a number too many": text[:at] + "1," + text[at:],
		"negative":          text[:at] + "-" + text[at:],
		"another key":       strings.Replace(text, `"cut"`, `"cot"`, 1),
	} {
		if _, err := Decode([]byte(bad)); err == nil || !strings.Contains(err.Error(), `"error_curves": layer 0`) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := AddCurves(ctx, s, c, st, CurveOptions{Cap: 0.5, Damping: 20}); err == nil || !strings.Contains(err.Error(), "damping of 20") {
		t.Error(err)
	}
	if err := AddCurves(ctx, s, c, st, CurveOptions{Cap: 0.5, Damping: MaxDamping, Threads: 1}); err != nil || s.Curves.Damping != MaxDamping {
		t.Errorf("the damping of a plan's refit: %v", err)
	}
	s.Layers = s.Layers[1:]
	if err := AddCurves(ctx, s, c, st, CurveOptions{Cap: 0.5, Damping: 1e-3, Threads: 1}); err == nil {
		t.Error("curves of scores that lack a layer")
	}
}
