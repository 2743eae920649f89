package score

import (
	"math"
	"slices"

	"github.com/coppice-lm/coppice/linalg"
)

// obsBlock is how many neurons go between two updates of whole matrices.
const obsBlock = 128

// obs orders the neurons of a layer by optimal brain surgery: with A = (H + lI)^-1, it
// removes the neuron p with the least |W_:p|^2 / A_pp, which is what removing it adds to
// the squared error of the layer's output after the others have been refitted, refits
// them, W -= W_:p A_p: / A_pp, and updates A -= A_:p A_p: / A_pp, until none is left.
//
// The order needs no W but its Gram matrix S = W'W, for which the refit is
// S -= a v' + v a' with a = A_p: / A_pp and v = S_p: - a S_pp/2. So A and S are both
// symmetric matrices under low-rank updates: within a block of removals only the rows
// that are looked at are brought up to date, and then the whole matrices at once, by a
// product that a processor does well. In float64 the updated A needs no refactorisation:
// TestOBS compares with one that inverts anew at every step.
//
// What takes time in large layers is going over A and S in memory. So their lower
// triangles alone are kept up to date, of which a column is read where a row ends, and
// neurons that are gone stay in them until they are many.
//
// Scores are places in the order of removal, the first 0; neurons that never fire go
// before all others.
func obs(h, w *linalg.Matrix, l float64, threads int) ([]float32, error) {
	d := h.Rows
	o := &surgeon{threads: threads, scores: make([]float32, d)}
	if l == 0 {
		return o.scores, nil // nothing fires: nothing to tell them apart by
	}
	var dead []int
	for j := range d {
		if h.At(j, j) == 0 {
			dead = append(dead, j)
		} else {
			o.live = append(o.live, j)
		}
	}
	// Of equal scores plan.Build keeps the lower index, so the highest goes first.
	for _, j := range slices.Backward(dead) {
		o.take(j)
	}
	a := linalg.NewPadded(len(o.live), len(o.live))
	h.SelectInto(a, o.live, o.live)
	a.AddDiagonal(l)
	f, err := linalg.Factor(a, threads)
	if err != nil {
		return nil, err
	}
	o.a = f.Inverse()
	if len(o.live) < d {
		w = w.Columns(o.live)
	}
	o.s = linalg.NewPadded(len(o.live), len(o.live))
	linalg.AddTMulLower(o.s, 1, w, w, threads)
	o.gone = make([]bool, len(o.live))
	for o.removed < d {
		o.block()
	}
	return o.scores, nil
}

// surgeon is the state of obs between two blocks.
type surgeon struct {
	threads int
	a, s    *linalg.Matrix // over neurons of which some are gone; lower triangles
	live    []int          // the neuron of each row
	gone    []bool         // whether it was removed
	removed int            // neurons so far
	scores  []float32
}

// take notes that a neuron goes.
func (o *surgeon) take(neuron int) {
	o.scores[neuron] = float32(o.removed)
	o.removed++
}

// unitColumns is how many neurons of a step of a block are a unit of work.
const unitColumns = 512

// block removes up to obsBlock neurons. Of removal t, rows t of u, alpha and v hold the
// vectors of its updates: A -= u u' and S -= alpha v' + v alpha', where u is alpha times the
// root of A_pp.
func (o *surgeon) block() {
	m := len(o.live)
	steps := min(obsBlock, len(o.scores)-o.removed)
	u := linalg.NewPadded(steps, m)
	// Alpha stands before and after v, so that the update of S is one product.
	all := linalg.NewPadded(3*steps, m)
	alpha, v := all.View(0, steps, 0, m), all.View(steps, 2*steps, 0, m)
	diagA, diagS := make([]float64, m), make([]float64, m)
	for i := range m {
		diagA[i], diagS[i] = o.a.At(i, i), o.s.At(i, i)
	}
	for t := range steps {
		p := cheapest(diagA, diagS, o.gone)
		o.take(o.live[p])
		o.gone[p] = true
		pivot, spp := diagA[p], diagS[p]
		root := math.Sqrt(pivot)
		// What the removals of this block so far take from row p of both matrices.
		byU, byV, byAlpha := make([]float64, t), make([]float64, t), make([]float64, t)
		for i := range t {
			byU[i], byV[i], byAlpha[i] = -u.At(i, p), -v.At(i, p), -alpha.At(i, p)
		}
		linalg.Parallel(o.threads, (m+unitColumns-1)/unitColumns, func(unit int) {
			j0, j1 := unit*unitColumns, min((unit+1)*unitColumns, m)
			a, s, ut := alpha.Row(t)[j0:j1], v.Row(t)[j0:j1], u.Row(t)[j0:j1]
			symmetricRow(a, o.a, p, j0)
			symmetricRow(s, o.s, p, j0)
			linalg.AddRows(a, u.View(0, t, j0, j1), byU)
			linalg.AddRows(s, alpha.View(0, t, j0, j1), byV)
			linalg.AddRows(s, v.View(0, t, j0, j1), byAlpha)
			for j, gone := range o.gone[j0:j1] {
				if gone {
					a[j], s[j] = 0, 0
					continue
				}
				ut[j] = a[j] / root
				a[j] /= pivot
				s[j] -= a[j] * spp / 2
				diagA[j0+j] -= ut[j] * ut[j]
				diagS[j0+j] -= 2 * a[j] * s[j]
			}
			copy(all.Row(2*steps + t)[j0:j1], a)
		})
	}
	if o.removed < len(o.scores) {
		linalg.AddTMulLower(o.a, -1, u, u, o.threads)
		linalg.AddTMulLower(o.s, -1, all.View(0, 2*steps, 0, m), all.View(steps, 3*steps, 0, m), o.threads)
		o.shrink()
	}
}

// symmetricRow copies elements of row p of a symmetric matrix, from column first on, out of
// its lower triangle.
func symmetricRow(to []float64, m *linalg.Matrix, p, first int) {
	n := min(len(to), max(0, p+1-first))
	copy(to[:n], m.Row(p)[first:])
	for j := n; j < len(to); j++ {
		to[j] = m.At(first+j, p)
	}
}

// cheapest is the index of the live neuron whose removal costs least; of equals the
// highest.
func cheapest(diagA, diagS []float64, gone []bool) int {
	best, least := -1, math.Inf(1)
	for j := range diagA {
		if gone[j] {
			continue
		}
		// Rounding may leave what is almost nothing a little below it.
		cost := max(0, diagS[j]) / max(diagA[j], math.SmallestNonzeroFloat64)
		if cost <= least || best < 0 {
			best, least = j, cost
		}
	}
	return best
}

// shrink drops the neurons that are gone where they are a tenth or more.
func (o *surgeon) shrink() {
	var stay, neurons []int
	for j, gone := range o.gone {
		if !gone {
			stay, neurons = append(stay, j), append(neurons, o.live[j])
		}
	}
	if 10*(len(o.live)-len(stay)) < len(o.live) {
		return
	}
	linalg.Parallel(o.threads, 2, func(unit int) { []*linalg.Matrix{o.a, o.s}[unit].ShrinkLower(stay) })
	o.live, o.gone = neurons, make([]bool, len(stay))
}
