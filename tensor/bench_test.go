package tensor

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
)

// The benchmarks read benchBytes in rows, more than any cache holds, with one and two
// goroutines. GB/s stands in go test's MB/s column.
const (
	benchBytes = 256 << 20
	benchRow   = 3072 * 2
)

var benchSource = sync.OnceValue(func() []byte {
	src := make([]byte, benchBytes)
	for i := 0; i < len(src); i += 2 { // finite in F16, BF16 and F32 alike
		src[i], src[i+1] = byte(i>>1), byte(i>>9)&0x80|0x30|byte(i>>4)&7
	}
	return src
})

func benchRows(b *testing.B, row func(src []byte)) {
	src := benchSource()
	for _, workers := range []int{1, 2} {
		b.Run(fmt.Sprintf("goroutines=%d", workers), func(b *testing.B) {
			b.SetBytes(benchBytes)
			for b.Loop() {
				var wg sync.WaitGroup
				for w := range workers {
					wg.Go(func() {
						part := src[w*benchBytes/workers : (w+1)*benchBytes/workers]
						for len(part) > 0 {
							n := min(benchRow, len(part))
							row(part[:n])
							part = part[n:]
						}
					})
				}
				wg.Wait()
			}
		})
	}
}

// BenchmarkRead is what the others are compared with: bytes.Count is vector code of the
// standard library that does little but read.
func BenchmarkRead(b *testing.B) { benchRows(b, func(s []byte) { bytes.Count(s, []byte{0xff}) }) }

func BenchmarkMinMaxF32(b *testing.B)  { benchRows(b, func(s []byte) { MinMax(s, F32) }) }
func BenchmarkMinMaxF16(b *testing.B)  { benchRows(b, func(s []byte) { MinMax(s, F16) }) }
func BenchmarkMinMaxBF16(b *testing.B) { benchRows(b, func(s []byte) { MinMax(s, BF16) }) }

func BenchmarkAllFiniteF32(b *testing.B)  { benchRows(b, func(s []byte) { AllFinite(s, F32) }) }
func BenchmarkAllFiniteBF16(b *testing.B) { benchRows(b, func(s []byte) { AllFinite(s, BF16) }) }

func BenchmarkSumsF32(b *testing.B)  { benchRows(b, func(s []byte) { Sums(s, F32) }) }
func BenchmarkSumsF16(b *testing.B)  { benchRows(b, func(s []byte) { Sums(s, F16) }) }
func BenchmarkSumsBF16(b *testing.B) { benchRows(b, func(s []byte) { Sums(s, BF16) }) }

// BenchmarkConvert counts the bytes read, one row of 1.5 MiB after the other.
func BenchmarkConvert(b *testing.B) {
	src := benchSource()[:64<<20]
	for _, c := range []struct{ from, to DType }{
		{BF16, F16}, {F16, BF16}, {BF16, F32}, {F16, F32}, {F32, BF16}, {F32, F16},
	} {
		b.Run(fmt.Sprintf("%v-%v", c.from, c.to), func(b *testing.B) {
			const part = 3 << 19
			dst := make([]byte, 2*part)
			b.SetBytes(int64(len(src) / part * part))
			for b.Loop() {
				for s := src; len(s) >= part; s = s[part:] {
					if err := Convert(dst[:part/c.from.BlockBytes()*c.to.BlockBytes()], c.to, s[:part], c.from); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// BenchmarkDecodeBlocks counts the bytes of float32 that are made.
func BenchmarkDecodeBlocks(b *testing.B) {
	for _, d := range []DType{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K} {
		b.Run(d.String(), func(b *testing.B) {
			dst := make([]float32, 64<<10)
			src := benchSource()[:len(dst)/d.BlockSize()*d.BlockBytes()]
			b.SetBytes(int64(4 * len(dst)))
			for b.Loop() {
				if err := Decode(dst, src, d); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
