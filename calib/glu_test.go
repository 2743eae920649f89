package calib

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/linalg"
)

// naiveGLU is W(silu(Gx) * Ux) and the slopes by gate and up, in float64.
func naiveGLU(w *engine.MLPWeights, x []float32) (y, slopes []float64) {
	h := len(x)
	y, slopes = make([]float64, h), make([]float64, 2*w.Width)
	for j := range w.Width {
		g, u := 0.0, 0.0
		for i, v := range x {
			g += float64(w.Gate[j*h+i]) * float64(v)
			u += float64(w.Up[j*h+i]) * float64(v)
		}
		s := 1 / (1 + math.Exp(-g))
		slopes[j], slopes[w.Width+j] = (s+g*s*(1-s))*u, g*s
		for i := range h {
			y[i] += float64(w.Down[i*w.Width+j]) * g * s * u
		}
	}
	return y, slopes
}

// The sums for a Gauss-Newton step are those of plain loops: the gradient that of the
// weighted squared error, by differences.
func TestInnerSums(t *testing.T) {
	const h, k, n = 7, 5, 40
	r := rand.New(rand.NewPCG(5, 6))
	values := func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(r.NormFloat64())
		}
		return v
	}
	w := &engine.MLPWeights{Width: k, Gate: values(k * h), Up: values(k * h), Down: values(h * k)}
	x, target := values(n*h), values(n*h)
	weights := make([]float32, n)
	total := 0.0
	for i := range weights {
		if i%4 != 0 {
			weights[i] = float32(i%4) / 2
			total += float64(weights[i])
		}
	}
	loss := func(w *engine.MLPWeights) float64 {
		sum := 0.0
		for i := range n {
			y, _ := naiveGLU(w, x[i*h:][:h])
			for j, v := range y {
				sum += float64(weights[i]) * (v - float64(target[i*h+j])) * (v - float64(target[i*h+j]))
			}
		}
		return sum / total
	}
	m := &glu{h: h, threads: 2}
	m.load(w)
	squares := m.forward(x, target, n)
	got := 0.0
	for i, e := range squares {
		got += float64(weights[i]) * e / total
	}
	if want := loss(w); math.Abs(got-want) > 1e-5*want {
		t.Errorf("loss %v, want %v", got, want)
	}
	m.backward(x, weights)
	sums := newInner(h, k)
	a := &adder{threads: 2}
	if !a.addInner(sums, m, weights) || math.Abs(sums.weight-total) > 1e-9 {
		t.Fatalf("weight %v, want %v", sums.weight, total)
	}
	g := sums.means()
	inputs, slopes := linalg.New(h, h), linalg.New(2*k, 2*k)
	for i := range n {
		_, s := naiveGLU(w, x[i*h:][:h])
		for u := range h {
			for v := range h {
				inputs.Data[u*h+v] += float64(weights[i]) / total * float64(x[i*h+u]) * float64(x[i*h+v])
			}
		}
		for u := range 2 * k {
			for v := range 2 * k {
				slopes.Data[u*2*k+v] += float64(weights[i]) / total * s[u] * s[v]
			}
		}
	}
	for what, pair := range map[string][2]*linalg.Matrix{"inputs": {g.Inputs, inputs}, "slopes": {g.Slopes, slopes}} {
		for i, want := range pair[1].Data {
			if math.Abs(pair[0].Data[i]-want) > 1e-5 {
				t.Fatalf("%s: element %d is %v, want %v", what, i, pair[0].Data[i], want)
			}
		}
	}
	for part, v := range [][]float32{w.Gate, w.Up} {
		for i := range v {
			old := v[i]
			v[i] = old + 1e-2
			more := loss(w)
			up := float64(v[i] - old)
			v[i] = old - 1e-2
			less := loss(w)
			down := float64(old - v[i])
			v[i] = old
			want := (more - less) / (up + down) / 2
			if got := g.Gradient.Data[part*k*h+i]; math.Abs(got-want) > 1e-3*(1+math.Abs(want)) {
				t.Fatalf("gradient %d of part %d is %v, want %v", i, part, got, want)
			}
		}
	}
}
