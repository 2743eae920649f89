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
	"github.com/coppice-lm/coppice/tensor"
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

// readRate is the rate in GB/s at which n threads load memory that no cache holds.
func readRate(n int) float64 {
	const size = 128 << 20
	buf := make([]byte, n*size)
	for i := 0; i < len(buf); i += 4096 {
		buf[i] = 1
	}
	read := peak.ReadAVX2
	if active >= AVX512 {
		read = peak.ReadAVX512
	}
	best := 0.
	for range 5 {
		t := parallel(n, func(i int) { read(&buf[i*size], size) })
		best = max(best, float64(n)*size/t.Seconds()/1e9)
	}
	return best
}

// BenchmarkDecode multiplies one row by weights that no cache holds, and gives the
// rate at which weights are read beside that of a loop of loads.
func BenchmarkDecode(b *testing.B) {
	const in, out = 4096, 32768
	r := newRand(1)
	x, dst := normals(r, in), make([]float32, out)
	xb := make([]uint16, in)
	RoundBF16(xb, x)
	var q Q8
	q.Quantise(x, in, 1, in)
	row := normals(r, in)
	quant := func(t tensor.DType) (int, func(p0, p1 int)) {
		blocks := randomBlocks(r, t, in/32)
		w := must(PackQuant(t, out, in, func(_ int, dst []byte) error { copy(dst, blocks); return nil }))
		return len(w.data), func(p0, p1 int) { w.Mul(dst, out, &q, p0, p1) }
	}
	for _, c := range []struct {
		name string
		pack func() (bytes int, mul func(p0, p1 int))
	}{
		{"f32", func() (int, func(p0, p1 int)) {
			w := must(PackF32(out, in, func(_ int, dst []float32) error { copy(dst, row); return nil }))
			return 4 * len(w.data), func(p0, p1 int) { w.Mul(dst, out, x, in, 1, p0, p1) }
		}},
		{"bf16", func() (int, func(p0, p1 int)) {
			w := must(PackBF16(out, in, func(_ int, dst []float32) error { copy(dst, row); return nil }))
			return 4 * len(w.data), func(p0, p1 int) { w.Mul(dst, out, xb, in, 1, p0, p1) }
		}},
		{"f16", func() (int, func(p0, p1 int)) {
			w := must(PackF16(out, in, func(_ int, dst []uint16) error { copy(dst, xb); return nil }))
			return 2 * len(w.data), func(p0, p1 int) { w.Mul(dst, out, x, in, 1, p0, p1) }
		}},
		{"Q8_0", func() (int, func(p0, p1 int)) { return quant(tensor.Q8_0) }},
		{"Q4_0", func() (int, func(p0, p1 int)) { return quant(tensor.Q4_0) }},
		{"Q4_1", func() (int, func(p0, p1 int)) { return quant(tensor.Q4_1) }},
	} {
		bytes, mul := c.pack()
		for l := AVX2; l <= supported(); l++ {
			for _, n := range []int{1, runtime.NumCPU()} {
				b.Run(fmt.Sprintf("%s/%s/threads=%d", c.name, l, n), func(b *testing.B) {
					setLevel(b, l)
					top := readRate(n)
					b.ResetTimer()
					t := fastest(b, n, func(i int) { mul(i*panels(out)/n, (i+1)*panels(out)/n) })
					rate := float64(bytes) / t.Seconds() / 1e9
					b.ReportMetric(rate, "GB/s")
					b.ReportMetric(100*rate/top, "%read")
				})
			}
		}
		mul = nil
		runtime.GC()
	}
}

// BenchmarkAttention computes all heads of a layer for 4,096 tokens in blocks of 128
// queries; the threads share the blocks of each group of heads.
func BenchmarkAttention(b *testing.B) {
	for _, c := range []struct{ heads, kv int }{{9, 3}, {32, 8}} {
		for _, bf16 := range []bool{false, true} {
			for l := AVX2; l <= supported(); l++ {
				if l == AVX512 || bf16 && l < AVX512BF16 {
					continue // f32 as AVX512BF16, bf16 not meant to be fast
				}
				for _, n := range []int{1, runtime.NumCPU()} {
					b.Run(fmt.Sprintf("%dx%d/bf16=%v/%s/threads=%d", c.heads, c.kv, bf16, l, n), func(b *testing.B) {
						setLevel(b, l)
						benchAttention(b, c.heads, c.kv, n, bf16)
					})
				}
			}
		}
	}
}

func benchAttention(b *testing.B, heads, kvHeads, threads int, bf16 bool) {
	const tokens, dim, block = 4096, 64, 128
	r := newRand(1)
	q := normals(r, tokens*heads*dim)
	k, v := normals(r, tokens*kvHeads*dim), normals(r, tokens*kvHeads*dim)
	dst := make([]float32, len(q))
	a := Attention{HeadDim: dim, Heads: heads / kvHeads, Scale: 0.125, BF16: bf16}
	top := peakRate(threads, bf16)
	b.ResetTimer()
	t := fastest(b, threads, func(i int) {
		for job := i; job < kvHeads*tokens/block; job += threads {
			g, pos := job%kvHeads, job/kvHeads*block
			kv := []KV{{tokens, k[g*dim:], v[g*dim:], kvHeads * dim, kvHeads * dim}}
			at := pos*heads*dim + g*a.Heads*dim
			a.Run(dst[at:], heads*dim, q[at:], heads*dim, block, pos, kv)
		}
	})
	// Two products over the pairs that the causal mask leaves.
	rate := 4 * float64(heads*dim) * tokens * (tokens + 1) / 2 / t.Seconds() / 1e9
	b.ReportMetric(rate, "GFLOP/s")
	b.ReportMetric(100*rate/top, "%peak")
	b.ReportMetric(t.Seconds()*1e3, "ms")
}

// BenchmarkRow gives the time per element of the functions over rows, in cache.
func BenchmarkRow(b *testing.B) {
	const n = 1536
	r := newRand(1)
	x, y, z := normals(r, n), normals(r, n), make([]float32, n)
	h := make([]uint16, n)
	var q Q8
	for _, c := range []struct {
		name string
		f    func()
	}{
		{"Exp", func() { Exp(z, x) }},
		{"LogSumExp", func() { LogSumExp(x) }},
		{"SiLUMul", func() { SiLUMul(z, x, y) }},
		{"GELUTanhMul", func() { GELUTanhMul(z, x, y) }},
		{"GELUErfMul", func() { GELUErfMul(z, x, y) }},
		{"RMSNorm", func() { RMSNorm(z, x, y, 1e-5, 0) }},
		{"Add", func() { Add(z, x) }},
		{"ArgMax", func() { ArgMax(x) }},
		{"RoundBF16", func() { RoundBF16(h, x) }},
		{"Quantise", func() { q.Quantise(x, n, 1, n) }},
	} {
		for l := Generic; l <= supported(); l++ {
			if l == AVX512 {
				continue // as AVX512BF16
			}
			b.Run(fmt.Sprintf("%s/%s", c.name, l), func(b *testing.B) {
				setLevel(b, l)
				t := fastest(b, 1, func(int) {
					for range 100 {
						c.f()
					}
				})
				b.ReportMetric(float64(t.Nanoseconds())/100/n, "ns/element")
			})
		}
	}
}
