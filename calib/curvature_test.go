package calib

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/linalg"
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
			got  *linalg.Matrix
			a, b []float32
			p, q int
		}{
			"gate":        {s.gate, m.Gate, m.Input, k, h},
			"up":          {s.up, m.Up, m.Input, k, h},
			"down":        {s.down, m.Output, m.Activations, h, k},
			"input":       {meanOf(&s.input, 1), m.Input, m.Input, h, h},
			"activations": {meanOf(&s.act, 1), m.Activations, m.Activations, k, k},
			"output":      {meanOf(&s.dOut, 1), m.Output, m.Output, h, h},
		} {
			worst := 0.0
			for i := range c.p {
				for j := range c.q {
					want := 0.0
					for r := range n {
						want += float64(c.a[r*c.p+i]) * float64(c.b[r*c.q+j])
					}
					worst = max(worst, math.Abs(c.got.Row(i)[j]-want)/math.Sqrt(n))
				}
			}
			if worst > most || half && worst < 1e-4 {
				t.Errorf("bfloat16 %v, %s: off by %g of the root of %d products", half, name, worst, n)
			}
		}
	}
}
