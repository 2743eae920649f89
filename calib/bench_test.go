package calib

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/coppice-lm/coppice/score"
)

// The sums of 1,024 tokens of a layer, as floating-point operations of the lower triangle.
func BenchmarkAdd(b *testing.B) {
	for _, d := range []int{1536, 8192} {
		const n = 1024
		x := make([]float32, n*d)
		r := rand.New(rand.NewPCG(1, 2))
		for i := range x {
			x[i] = float32(r.NormFloat64())
		}
		rows := make([]int, n)
		for i := range rows {
			rows[i] = i
		}
		m := score.NewMoments(d)
		a := &adder{threads: 2}
		b.Run(fmt.Sprint(d), func(b *testing.B) {
			for b.Loop() {
				a.add(&m, x, rows)
			}
			b.ReportMetric(float64(b.N)*n*float64(d)*float64(d+1)/1e9/b.Elapsed().Seconds(), "GFLOP/s")
		})
	}
}
