package kernel

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coppice-lm/coppice/engine/cpu/kernel/internal/peak"
)

// The rates below are by CPU time: operations over the longest time that one of the
// threads ran. On a machine that does nothing else that is the wall clock; on a busy
// one it leaves out the time in which other processes ran. Of repeated runs the
// fastest counts.

// threadTime is the time that the calling thread has run.
func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

// parallel runs f on n threads and returns the longest time that one of them ran.
func parallel(n int, f func(i int)) time.Duration {
	var wg sync.WaitGroup
	times := make([]time.Duration, n)
	for i := range n {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			start := threadTime()
			f(i)
			times[i] = threadTime() - start
		})
	}
	wg.Wait()
	return slices.Max(times)
}

// fastest runs f b.N times on n threads, and at least 3 times.
func fastest(b *testing.B, n int, f func(i int)) time.Duration {
	best := time.Duration(math.MaxInt64)
	for range max(b.N, 3) {
		best = min(best, parallel(n, f))
	}
	return best
}

// peakRate is the greatest number of floating-point operations a second that n threads
// reach in a loop of multiply-adds, in 1e9.
func peakRate(n int, bf16 bool) float64 {
	loop, flops := peak.F32AVX2, 96*16.
	switch {
	case bf16 && active >= AVX512BF16:
		loop, flops = peak.BF16AVX512, 96*64
	case active >= AVX512:
		loop, flops = peak.F32AVX512, 96*32
	}
	const iters = 50_000
	best := 0.
	for range 10 {
		t := parallel(n, func(int) { loop(iters) })
		best = max(best, flops*iters*float64(n)/t.Seconds()/1e9)
	}
	return best
}

func BenchmarkPeakF32(b *testing.B)  { benchPeak(b, false) }
func BenchmarkPeakBF16(b *testing.B) { benchPeak(b, true) }

func benchPeak(b *testing.B, bf16 bool) {
	for l := AVX2; l <= supported(); l++ {
		for _, n := range []int{1, runtime.NumCPU()} {
			b.Run(fmt.Sprintf("%s/threads=%d", l, n), func(b *testing.B) {
				setLevel(b, l)
				for range b.N {
					b.ReportMetric(peakRate(n, bf16), "GFLOP/s")
				}
			})
		}
	}
}

// mulCase is one product: rows x in x out.
type mulCase struct{ rows, in, out int }

var mulCases = []mulCase{{512, 576, 1536}, {512, 3072, 8192}}

func BenchmarkMulF32(b *testing.B) {
	for _, c := range mulCases {
		r := newRand(1)
		w := must(PackF32(c.out, c.in, func(_ int, dst []float32) error { copy(dst, normals(r, 8)); return nil }))
		x, dst := normals(r, c.rows*c.in), make([]float32, c.rows*c.out)
		benchMul(b, c, w.Panels(), false, func(p0, p1 int) { w.Mul(dst, c.out, x, c.in, c.rows, p0, p1) })
	}
}

func BenchmarkMulBF16(b *testing.B) {
	for _, c := range mulCases {
		r := newRand(1)
		w := must(PackBF16(c.out, c.in, func(_ int, dst []float32) error { copy(dst, normals(r, 8)); return nil }))
		x, dst := make([]uint16, c.rows*c.in), make([]float32, c.rows*c.out)
		RoundBF16(x, normals(r, len(x)))
		benchMul(b, c, w.Panels(), true, func(p0, p1 int) { w.Mul(dst, c.out, x, c.in, c.rows, p0, p1) })
	}
}

func benchMul(b *testing.B, c mulCase, panels int, bf16 bool, mul func(p0, p1 int)) {
	for l := AVX2; l <= supported(); l++ {
		for _, n := range []int{1, runtime.NumCPU()} {
			b.Run(fmt.Sprintf("%dx%dx%d/%s/threads=%d", c.rows, c.in, c.out, l, n), func(b *testing.B) {
				setLevel(b, l)
				top := peakRate(n, bf16)
				b.ResetTimer()
				t := fastest(b, n, func(i int) { mul(i*panels/n, (i+1)*panels/n) })
				rate := 2 * float64(c.rows*c.in) * float64(c.out) / t.Seconds() / 1e9
				b.ReportMetric(rate, "GFLOP/s")
				b.ReportMetric(100*rate/top, "%peak")
			})
		}
	}
}
