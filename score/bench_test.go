package score

import (
	"fmt"
	"testing"
	"time"

	"github.com/coppice-lm/coppice/linalg"
)

// The whole order of removal, against one Cholesky factorisation of the same size on the same
// threads, in turns: at 8,192, the layers of Llama-3.2-1B and 3B, the goal is 10. The
// widths and hidden sizes are those of SmolLM2-135M, Llama-3.2-1B and 3B, but for the
// second, which is smaller.
func BenchmarkOBS(b *testing.B) {
	for _, l := range []struct{ d, h int }{{1536, 576}, {3072, 1024}, {8192, 2048}, {8192, 3072}} {
		for _, threads := range []int{1, 2} {
			b.Run(fmt.Sprintf("%dx%d/threads=%d", l.d, l.h, threads), func(b *testing.B) {
				benchmarkOBS(b, l.d, l.h, threads)
			})
		}
	}
}

func benchmarkOBS(b *testing.B, d, hidden, threads int) {
	x := randomMatrix(1, 256, d)
	h := linalg.New(d, d)
	linalg.AddTMulLower(h, 1.0/256, x, x, threads)
	h.MirrorLower()
	h.AddDiagonal(0.1)
	w := randomMatrix(2, hidden, d)
	factor := linalg.NewPadded(d, d)
	var one, whole time.Duration
	for b.Loop() {
		for i := range d {
			copy(factor.Row(i), h.Row(i))
		}
		start := time.Now()
		if _, err := linalg.Factor(factor, threads); err != nil {
			b.Fatal(err)
		}
		one += time.Since(start)
		start = time.Now()
		if _, err := obs(h, w, 1e-3, threads); err != nil {
			b.Fatal(err)
		}
		whole += time.Since(start)
	}
	b.ReportMetric(float64(whole)/float64(one), "x-Cholesky")
	b.ReportMetric(one.Seconds()/float64(b.N), "s/Cholesky")
	b.ReportMetric(whole.Seconds()/float64(b.N), "s/obs")
}
