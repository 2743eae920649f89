package surgery

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/coppice-lm/coppice/linalg"
)

func gaussian(r *rand.Rand, rows, cols int) *linalg.Matrix {
	m := linalg.New(rows, cols)
	for i := range m.Data {
		m.Data[i] = r.NormFloat64()
	}
	return m
}

// means makes a Fit of token vectors.
func means(a, t [][]float64) *Fit {
	k, h, n := len(a[0]), len(t[0]), float64(len(a))
	f := &Fit{H: linalg.New(k, k), Cross: linalg.New(h, k)}
	for i := range a {
		for u := range k {
			for v := range k {
				f.H.Data[u*k+v] += a[i][u] * a[i][v] / n
			}
			for v := range h {
				f.Cross.Data[v*k+u] += t[i][v] * a[i][u] / n
			}
		}
		for _, x := range t[i] {
			f.Energy += x * x / n
		}
	}
	return f
}

// Error is the mean squared distance, and Solve is where it, with the ridge, has its
// minimum: its gradient vanishes there.
func TestFit(t *testing.T) {
	a, out := vectors(3, 60, 9), vectors(4, 60, 4)
	f := means(a, out)
	w := gaussian(rand.New(rand.NewPCG(1, 1)), 4, 9)
	distance := func(w *linalg.Matrix) float64 {
		sum := 0.0
		for i := range a {
			for u := range 4 {
				e := -out[i][u]
				for v, x := range a[i] {
					e += w.At(u, v) * x
				}
				sum += e * e / 60
			}
		}
		return sum
	}
	if got, want := f.Error(w, 1), distance(w); math.Abs(got-want) > 1e-12*want {
		t.Errorf("error %v, want %v", got, want)
	}
	for _, damping := range []float64{1e-6, 1e-2, 1} {
		fitted, err := f.Solve(w, damping, 2)
		if err != nil {
			t.Fatal(err)
		}
		ridge := damping * f.H.Trace() / 9
		objective := func(i int, x float64) float64 {
			old := fitted.Data[i]
			fitted.Data[i] = x
			defer func() { fitted.Data[i] = old }()
			sum := distance(fitted)
			for j := range w.Data {
				sum += ridge * (fitted.Data[j] - w.Data[j]) * (fitted.Data[j] - w.Data[j])
			}
			return sum
		}
		for i, x := range fitted.Data {
			if slope := (objective(i, x+1e-4) - objective(i, x-1e-4)) / 2e-4; math.Abs(slope) > 1e-6 {
				t.Fatalf("damping %v: the slope by weight %d is %v", damping, i, slope)
			}
		}
	}
}

func TestChoose(t *testing.T) {
	a, out := vectors(3, 12, 9), vectors(4, 12, 4)
	fit, held := means(a, out), means(vectors(5, 200, 9), vectors(6, 200, 4))
	w := gaussian(rand.New(rand.NewPCG(1, 1)), 4, 9)
	got, _, err := fit.Choose(w, held, 1)
	if err != nil {
		t.Fatal(err)
	}
	least := math.Inf(1)
	want := 0.0
	for _, damping := range Dampings {
		fitted, err := fit.Solve(w, damping, 1)
		if err != nil {
			t.Fatal(err)
		}
		if e := held.Error(fitted, 1); e < least {
			least, want = e, damping
		}
	}
	if got != want {
		t.Errorf("chose %v, want %v", got, want)
	}
	if got, _, _ := fit.Choose(w, nil, 1); got != defaultDamping {
		t.Errorf("without held-back text: %v", got)
	}
	nothing := &Fit{H: linalg.New(9, 9), Cross: linalg.New(4, 9)}
	if same, err := nothing.Solve(w, 1e-2, 1); err != nil || same.At(2, 3) != w.At(2, 3) {
		t.Errorf("where nothing fires: %v", err)
	}
}

// A step D on gate and up, put into the damped system (B + bI) D (A + aI) = -gradient,
// gives the gradient.
func TestStepSolvesItsSystem(t *testing.T) {
	const h, k = 5, 3
	r := rand.New(rand.NewPCG(7, 7))
	second := func(n int) *linalg.Matrix {
		x, m := gaussian(r, n, 40), linalg.New(n, n)
		linalg.AddMulT(m, 1.0/40, x, x, 1)
		return m
	}
	g := &Inner{Inputs: second(h), Slopes: second(2 * k), Gradient: gaussian(r, 2*k, h)}
	w := gaussian(r, h, k)
	for _, damping := range []float64{1e-3, 0.5} {
		used := &Inner{Inputs: g.Inputs.Clone(), Slopes: g.Slopes.Clone(), Gradient: g.Gradient}
		step, err := used.Step(w, damping, 2)
		if err != nil {
			t.Fatal(err)
		}
		b := linalg.New(2*k, 2*k)
		for i := range 2 * k {
			for j := range 2 * k {
				for o := range h {
					b.Data[i*2*k+j] += w.At(o, i%k) * w.At(o, j%k) * g.Slopes.At(i, j)
				}
			}
		}
		a := g.Inputs.Clone()
		a.AddDiagonal(damping * a.Trace() / h)
		b.AddDiagonal(damping * b.Trace() / (2 * k))
		for i := range 2 * k {
			for j := range h {
				got := 0.0
				for u := range 2 * k {
					for v := range h {
						got += b.At(i, u) * step.At(u, v) * a.At(v, j)
					}
				}
				if want := -g.Gradient.At(i, j); math.Abs(got-want) > 1e-10 {
					t.Fatalf("damping %v: element %d, %d is %v, want %v", damping, i, j, got, want)
				}
			}
		}
	}
}

// The repair is the ridge solution for the part to repair; with equal ridges the two parts
// together are the solution for their sum. A part that neurons know nothing of is not
// repaired, one that they know is.
func TestRepair(t *testing.T) {
	a, own := vectors(3, 60, 9), vectors(4, 60, 4)
	r := rand.New(rand.NewPCG(9, 9))
	through := gaussian(r, 4, 9)
	parts := func(a, own [][]float64, known float64) (fit, all *Fit) {
		repair, sum := make([][]float64, len(a)), make([][]float64, len(a))
		for i := range a {
			repair[i], sum[i] = make([]float64, 4), make([]float64, 4)
			for u := range 4 {
				repair[i][u] = 3 * r.NormFloat64()
				for v, x := range a[i] {
					repair[i][u] += known * through.At(u, v) * x
				}
				sum[i][u] = own[i][u] + repair[i][u]
			}
		}
		fit, all = means(a, own), means(a, sum)
		fit.Repair, fit.AllEnergy = means(a, repair).Cross, all.Energy
		return fit, all
	}
	fit, all := parts(a, own, 0)
	w := gaussian(r, 4, 9)
	if got, want := fit.AllError(w, 1), all.Error(w, 1); math.Abs(got-want) > 1e-9*want {
		t.Errorf("error of both parts %v, want %v", got, want)
	}
	first, err := fit.Solve(w, 0.1, 1)
	if err != nil {
		t.Fatal(err)
	}
	both, err := fit.SolveRepair(first, 0.1, 1)
	if err != nil {
		t.Fatal(err)
	}
	want, err := all.Solve(w, 0.1, 1)
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range want.Data {
		if math.Abs(both.Data[i]-x) > 1e-9 {
			t.Fatalf("weight %d is %v, want %v", i, both.Data[i], x)
		}
	}
	held, _ := parts(vectors(5, 400, 9), vectors(6, 400, 4), 0)
	if damping, same, err := fit.ChooseRepair(first, nil, 1); err != nil || damping != 0 || same != first {
		t.Errorf("without held-back text: damping %v, %v", damping, err)
	}
	known, _ := parts(a, own, 5)
	heldKnown, _ := parts(vectors(5, 400, 9), vectors(6, 400, 4), 5)
	damping, repaired, err := known.ChooseRepair(first, heldKnown, 1)
	if err != nil || damping == 0 {
		t.Fatalf("a part that neurons know: damping %v, %v", damping, err)
	}
	if before, after := heldKnown.AllError(first, 1), heldKnown.AllError(repaired, 1); !(after < before/2) {
		t.Errorf("error %v repaired, %v not", after, before)
	}
	// Noise alone, fitted to few tokens: no repair beats none on others.
	noise, _ := parts(a[:12], own[:12], 0)
	damping, repaired, err = noise.ChooseRepair(first, held, 1)
	if err != nil {
		t.Fatal(err)
	}
	if damping > 0 && held.AllError(repaired, 1) >= held.AllError(first, 1) {
		t.Errorf("a repair of damping %v that makes held-back errors larger", damping)
	}
}
