package score

import (
	"math"
	"slices"

	"github.com/coppice-lm/coppice/linalg"
)

// obsBlock is how many neurons go between two updates of whole matrices.
const obsBlock = 64

// obs orders the neurons of a layer by optimal brain surgery: with A = (H + lI)^-1, it
// removes the neuron p with the least |W_:p|^2 / A_pp, which is what removing it adds to
// the squared error of the layer's output after the others have been refitted, refits
// them, W -= W_:p A_p: / A_pp, and updates A -= A_:p A_p: / A_pp, until none is left.
//
// The order needs no W but its Gram matrix S = W'W, for which the refit is
// S -= a v' + v a' with a = A_p: / A_pp and v = S_p: - a S_pp/2. So A and S are both
// symmetric matrices under low-rank updates: within a block of removals only the rows
// that are looked at are brought up to date, and then the whole matrices at once, by a
// product that a processor does well, on the neurons that are left. In float64 the
// updated A needs no refactorisation: TestOBS compares with one that inverts anew at
// every step.
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
	a := h.Select(o.live, o.live)
	a.AddDiagonal(l)
	f, err := linalg.Factor(a, threads)
	if err != nil {
		return nil, err
	}
	o.a = f.Inverse()
	wt := linalg.New(len(o.live), w.Rows) // the live columns of W, as rows
	for i := range w.Rows {
		row := w.Row(i)
		for j, at := range o.live {
			wt.Row(j)[i] = row[at]
		}
	}
	o.s = linalg.New(len(o.live), len(o.live))
	linalg.AddMulTLower(o.s, 1, wt, wt, threads)
	o.s.MirrorLower()
	for len(o.live) > 0 {
		o.block()
	}
	return o.scores, nil
}

// surgeon is the state of obs between two blocks.
type surgeon struct {
	threads int
	a, s    *linalg.Matrix // over the live neurons, both triangles
	live    []int          // the neuron of each row
	removed int            // neurons so far
	scores  []float32
}

// take notes that a neuron goes.
func (o *surgeon) take(neuron int) {
	o.scores[neuron] = float32(o.removed)
	o.removed++
}

// block removes up to obsBlock neurons. Of removal t, column t of u, alpha and v holds
// the vectors of its updates: A -= u u', S -= alpha v' + v alpha'.
func (o *surgeon) block() {
	m := len(o.live)
	steps := min(obsBlock, m)
	u := linalg.New(m, steps)
	// One matrix [alpha v] and one [v alpha], so that the update of S is one product.
	left, right := linalg.New(m, 2*steps), linalg.New(m, 2*steps)
	diagA, diagS := make([]float64, m), make([]float64, m)
	for i := range m {
		diagA[i], diagS[i] = o.a.At(i, i), o.s.At(i, i)
	}
	gone := make([]bool, m)
	const rows = 512 // of a unit of work
	for t := range steps {
		p := cheapest(diagA, diagS, gone)
		o.take(o.live[p])
		gone[p] = true
		root, spp := math.Sqrt(diagA[p]), diagS[p]
		up, lp := u.Row(p)[:t], left.Row(p)
		linalg.Parallel(o.threads, (m+rows-1)/rows, func(unit int) {
			for j := unit * rows; j < min(unit*rows+rows, m); j++ {
				if gone[j] && j != p {
					continue
				}
				uj, lj, rj := u.Row(j), left.Row(j), right.Row(j)
				// Element (p, j) of both matrices, brought up to date.
				ap, sp := o.a.At(p, j), o.s.At(p, j)
				for i, x := range up {
					ap -= x * uj[i]
					sp -= lp[i]*rj[i] + lp[steps+i]*rj[steps+i]
				}
				uj[t] = ap / root
				alpha := ap / diagA[p]
				v := sp - alpha*spp/2
				lj[t], lj[steps+t] = alpha, v
				rj[t], rj[steps+t] = v, alpha
				if j != p {
					diagA[j] -= uj[t] * uj[t]
					diagS[j] -= 2 * alpha * v
				}
			}
		})
	}
	o.shrink(gone, u, left, right)
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

// shrink drops the neurons that are gone and updates the matrices over the others.
func (o *surgeon) shrink(gone []bool, u, left, right *linalg.Matrix) {
	var stay, neurons []int
	for j, g := range gone {
		if !g {
			stay, neurons = append(stay, j), append(neurons, o.live[j])
		}
	}
	all := func(m *linalg.Matrix) *linalg.Matrix {
		columns := make([]int, m.Cols)
		for i := range columns {
			columns[i] = i
		}
		return m.Select(stay, columns)
	}
	u, left, right = all(u), all(left), all(right)
	o.a, o.s, o.live = o.a.Select(stay, stay), o.s.Select(stay, stay), neurons
	linalg.AddMulTLower(o.a, -1, u, u, o.threads)
	linalg.AddMulTLower(o.s, -1, left, right, o.threads)
	o.a.MirrorLower()
	o.s.MirrorLower()
}
