package calib

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/coppice-lm/coppice/engine"
)

// The sums of a step are those of products in float64, to within what float32 and bfloat16 round,
// for numbers of tokens and neurons that fill no tile, chunk or pair.
func TestStepSums(t *testing.T) {
	const h, k, n = 37, 71, chunkRows + 43
	r := rand.New(rand.NewPCG(1, 2))
	values := func(d int) []float32 {
		x := make([]float32, n*d)
		for i := range x {
			x[i] = float32(r.NormFloat64())
		}
		return x
	}
	m := engine.MLPGradient{Hidden: h, Width: k, Rows: make([]engine.Row, n),
		Input: values(h), Activations: values(k), Gate: values(k), Up: values(k), Output: values(h)}
	for half, most := range map[bool]float64{false: 1e-4, true: 1.0 / 32} {
		a := &adder{threads: 2, half: half}
		s := newMLPSums(h, k)
		if !a.addGradient(s, m) || !a.addCurvature(s, m) {
			t.Error("sums are not finite")
		}
		for name, c := range map[string]struct {
			got  func(i, j int) float64
			a, b []float32
			p, q int
		}{
			"gate":        {func(i, j int) float64 { return s.gate.Row(i)[j] }, m.Gate, m.Input, k, h},
			"up":          {func(i, j int) float64 { return s.up.Row(i)[j] }, m.Up, m.Input, k, h},
			"down":        {func(i, j int) float64 { return s.down.Row(i)[j] }, m.Output, m.Activations, h, k},
			"input":       {lower(s.input.Gram), m.Input, m.Input, h, h},
			"activations": {lower(s.act.Gram), m.Activations, m.Activations, k, k},
			"output":      {lower(s.dOut.Gram), m.Output, m.Output, h, h},
		} {
			worst := 0.0
			for i := range c.p {
				for j := range c.q {
					want := 0.0
					for r := range n {
						want += float64(c.a[r*c.p+i]) * float64(c.b[r*c.q+j])
					}
					worst = max(worst, math.Abs(c.got(i, j)-want)/math.Sqrt(n))
				}
			}
			if worst > most || half && worst < 1e-4 {
				t.Errorf("bfloat16 %v, %s: off by %g of the root of %d products", half, name, worst, n)
			}
		}
	}
}

func lower(gram []float64) func(i, j int) float64 {
	return func(i, j int) float64 { i, j = max(i, j), min(i, j); return gram[i*(i+1)/2+j] }
}
