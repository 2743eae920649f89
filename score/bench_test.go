package score

import (
	"fmt"
	"testing"
	"time"

	"github.com/coppice-lm/coppice/linalg"
)

// The whole order of removal, against one Cholesky factorisation of the same size: at 8,192
// the goal is 10.
func BenchmarkOBS(b *testing.B) {
	for _, d := range []int{1536, 3072, 8192} {
		x := randomMatrix(1, d, 256)
		h := linalg.New(d, d)
		linalg.AddMulT(h, 1.0/256, x, x, 2)
		h.AddDiagonal(0.1)
		w := randomMatrix(2, 576, d)
		b.Run(fmt.Sprint(d), func(b *testing.B) {
			var factor time.Duration
			for b.Loop() {
				start := time.Now()
				if _, err := linalg.Factor(h.Clone(), 2); err != nil {
					b.Fatal(err)
				}
				factor += time.Since(start)
				if _, _, err := obs(h.Clone(), w, 1e-3, 2); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed()-factor)/float64(factor), "x-Cholesky")
		})
	}
}
