package score

import (
	"math"
	"slices"
	"testing"

	"github.com/coppice-lm/coppice/linalg"
)

// slowOBS inverts H over the neurons that are left anew for every removal and refits W by
// solving, instead of updating either. It also returns what each removal adds to the
// squared error, ridge included.
func slowOBS(H dense, w *linalg.Matrix, l float64) (order []int, costs []float64) {
	d := len(H)
	var live []int
	for j := d - 1; j >= 0; j-- {
		if H[j][j] == 0 {
			norm := 0.0
			for r := range w.Rows {
				norm += w.At(r, j) * w.At(r, j)
			}
			order, costs = append(order, j), append(costs, l*norm) // of the ridge alone
		}
	}
	for j := range d {
		if H[j][j] != 0 {
			live = append(live, j)
		}
	}
	all := slices.Clone(live)
	for len(live) > 0 {
		// The refitted weights of the live neurons: W_K + W_P H_PK (H_KK + lI)^-1.
		sub := make(dense, len(live))
		for i, a := range live {
			for _, b := range live {
				sub[i] = append(sub[i], H[a][b])
			}
		}
		inv := sub.add(l).inverse()
		best, least := -1, math.Inf(1)
		for i, p := range live {
			norm := 0.0
			for r := range w.Rows {
				x := w.At(r, p)
				for _, q := range all {
					if slices.Contains(live, q) {
						continue
					}
					for k, b := range live {
						x += w.At(r, q) * H[q][b] * inv[k][i]
					}
				}
				norm += x * x
			}
			if cost := norm / inv[i][i]; cost <= least {
				best, least = i, cost
			}
		}
		order, costs = append(order, live[best]), append(costs, least)
		live = slices.Delete(live, best, best+1)
	}
	return order, costs
}

func TestOBS(t *testing.T) {
	for _, s := range []struct{ d, h, n int }{{9, 4, 40}, {30, 12, 100}, {70, 20, 60}} {
		x := activations(uint64(s.d), s.n, s.d, 3, 5)
		w := randomMatrix(uint64(s.d), s.h, s.d)
		H := denseH(x, s.d)
		l := 0.01 * H.trace() / float64(s.d)
		order, costs := slowOBS(H, w, l)
		layer := layerOf(x, nil, nil, s.d)
		scores, err := scoreLayer(OBS, layer, w, CalibratedOptions{Cap: 1, Damping: 0.01, Threads: 2})
		if err != nil {
			t.Fatal(err)
		}
		curve, err := curveOf(layer, w, Order(scores), CurveOptions{Cap: 1, Damping: 0.01, Threads: 2})
		if err != nil {
			t.Fatal(err)
		}
		sum := 0.0
		for place, j := range order {
			if scores[j] != float32(place) {
				t.Fatalf("d %d: neuron %d has place %v, want %d", s.d, j, scores[j], place)
			}
			sum += costs[place]
			if got := curve.Fit[s.d-place-1]; math.Abs(float64(got)-sum) > 1e-6*sum {
				t.Errorf("d %d: the error with %d neurons is %v, want %v", s.d, s.d-place-1, got, sum)
			}
		}
	}
}

// More than one block of removals: the same order at any number of threads, and its last
// choices, which rest on matrices that were updated three times, are those of one block
// over the neurons that were left.
func TestOBSBlocks(t *testing.T) {
	const d = 3*obsBlock + 5
	x := activations(8, 2*d, d)
	w := randomMatrix(8, 30, d)
	layer := layerOf(x, nil, nil, d)
	opt := CalibratedOptions{Cap: 1, Damping: 1e-3}
	var want []float32
	for _, opt.Threads = range []int{1, 3} {
		scores, err := scoreLayer(OBS, layer, w, opt)
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = scores
		}
		if !slices.Equal(scores, want) {
			t.Errorf("%d threads: another order", opt.Threads)
		}
	}
	// The cheapest of ten to remove, by removing each.
	h, _ := layer.Second(AllTokens, 1, 1)
	order := Order(want)
	best, least := -1, math.Inf(1)
	for i, p := range order[:10] {
		gone := append(slices.Clone(order[10:]), p)
		if e := refitError(h, w, gone, 1e-3*h.Trace()/d); e < least {
			best, least = i, e
		}
	}
	if best != 9 {
		t.Errorf("of the last ten, number %d goes first; removing number %d costs less", 9, best)
	}
}

// refitError is the least squared error, ridge l included, of W's output without the
// neurons that are gone: W_P S W_P' for the complement S of the kept neurons' block in
// H + lI.
func refitError(h, w *linalg.Matrix, gone []int, l float64) float64 {
	ridged := make(dense, h.Rows)
	for i := range ridged {
		ridged[i] = h.Row(i)
	}
	ridged = ridged.add(l)
	var kept []int
	for i := range ridged {
		if !slices.Contains(gone, i) {
			kept = append(kept, i)
		}
	}
	block := make(dense, len(kept))
	for i, a := range kept {
		for _, b := range kept {
			block[i] = append(block[i], ridged[a][b])
		}
	}
	inverse, e := block.inverse(), 0.0
	for r := range w.Rows {
		made := make([]float64, len(kept)) // of the kept by the gone
		for _, a := range gone {
			for _, b := range gone {
				e += w.At(r, a) * ridged[a][b] * w.At(r, b)
			}
			for i, k := range kept {
				made[i] += ridged[k][a] * w.At(r, a)
			}
		}
		for i := range kept {
			for j := range kept {
				e -= made[i] * inverse[i][j] * made[j]
			}
		}
	}
	return e
}
