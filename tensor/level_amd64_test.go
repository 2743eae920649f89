package tensor

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/cpu"
)

// eachLevel runs the test with the plain Go code and, where the processor has it, with
// the vector code. Tests that call it must not run in parallel.
func eachLevel(t *testing.T, test func(t *testing.T)) {
	was, was512 := useAVX2, useAVX512
	t.Cleanup(func() { useAVX2, useAVX512 = was, was512 })
	useAVX2, useAVX512 = false, false
	t.Run("generic", test)
	eachVectorLevel(t, test)
}

// eachVectorLevel runs the test with the vector code of each level that the processor has.
func eachVectorLevel(t *testing.T, test func(t *testing.T)) {
	was, was512 := useAVX2, useAVX512
	t.Cleanup(func() { useAVX2, useAVX512 = was, was512 })
	t.Run("avx2", func(t *testing.T) {
		requireAVX2(t)
		useAVX2, useAVX512 = true, false
		test(t)
	})
	t.Run("avx512", func(t *testing.T) {
		requireAVX2(t)
		if !cpu.X86.HasAVX512F {
			t.Skip("NOT CHECKED: the sums at 512 bits, for this processor has no AVX-512")
		}
		useAVX2, useAVX512 = true, true
		test(t)
	})
}

func requireAVX2(t *testing.T) {
	if !cpu.X86.HasAVX2 || !cpu.X86.HasFMA {
		t.Skip("NOT CHECKED: the vector code, for this processor has no AVX2 and FMA")
	}
}

// Every vector function against its twin: all lengths up to some steps, so that each
// tail occurs, at odd addresses, on random bits with special values among them.
func TestVectorEqualsTwin(t *testing.T) { eachVectorLevel(t, vectorEqualsTwin) }

func vectorEqualsTwin(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 4*vectorStep + 3 {
		for _, special := range []int{0, 50, 3} { // one element in so many; 0 none
			words := randomBytes(rng, n, 2, special, []uint32{0, 0x8000, 0x7c00, 0xfc00, 0x7c01, 0xfe00, 0x7f80, 0xff80, 0x7f81, 0xffff, 0x7fff, 1})
			dwords := randomBytes(rng, n, 4, special, []uint32{0, 1 << 31, f32Inf, 0xff800000, 0x7f800001, 0xffffffff, 0x7fffffff, 1, 0x33000000, 0x33000001})
			if err := compareTwins(n, words, dwords); err != nil {
				t.Fatalf("%d elements, one in %d special: %v", n, special, err)
			}
		}
	}
}

// The sums of quantisation, too.
func TestLatticeSumsEqualTwin(t *testing.T) {
	requireAVX2(t)
	was := useAVX2
	t.Cleanup(func() { useAVX2 = was })
	useAVX2 = true
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		n := lanesK * (1 + r.IntN(32))
		x, w := make([]float32, n), make([]float32, n)
		for i := range x {
			x[i], w[i] = float32(r.NormFloat64()), r.Float32()
		}
		var base, inv perLane
		for l := range lanesK {
			base[l], inv[l] = float32(r.NormFloat64()), float32(8*r.NormFloat64())
		}
		var got, want latticeResult
		latticeSums(&got, x, w, &base, &inv, -16, 15)
		latticeSumsGo(&want, x, w, &base, &inv, -16, 15)
		if got != want {
			t.Fatalf("%v, want %v", got, want)
		}
	}
}

func compareTwins(n int, words, dwords []byte) error {
	got, want := make([]float32, n), make([]float32, n)
	for _, f := range []struct {
		name      string
		src       []byte
		vec, twin func([]float32, []byte)
	}{
		{"decodeF32", dwords, decodeF32, decodeF32Go},
		{"decodeF16", words, decodeF16, decodeF16Go},
		{"decodeBF16", words, decodeBF16, decodeBF16Go},
	} {
		f.vec(got, f.src)
		f.twin(want, f.src)
		for i := range want {
			if g, w := math.Float32bits(got[i]), math.Float32bits(want[i]); g != w {
				return fmt.Errorf("%s: element %d is %08x, want %08x", f.name, i, g, w)
			}
		}
	}

	values := make([]float32, n)
	decodeF32Go(values, dwords)
	for _, f := range []struct {
		name      string
		limit     uint32
		vec, twin func([]byte, []float32) int
	}{
		{"encodeF16", f16Overflow, encodeF16, encodeF16Go},
		{"encodeBF16", bf16Overflow, encodeBF16, encodeBF16Go},
	} {
		if g, w := f.vec(make([]byte, 2*n), values), f.twin(make([]byte, 2*n), values); g != w {
			return fmt.Errorf("%s: overflow at %d, want %d", f.name, g, w)
		}
		fits := make([]float32, n) // the same without overflow
		for i, v := range values {
			if mag := math.Float32bits(v) &^ (1 << 31); mag >= f.limit && mag < f32Inf {
				v = math.Float32frombits(math.Float32bits(v) &^ 0x60000000)
			}
			fits[i] = v
		}
		g, w := make([]byte, 2*n), make([]byte, 2*n)
		if i := f.vec(g, fits); i != -1 {
			return fmt.Errorf("%s: overflow at %d, want none", f.name, i)
		}
		f.twin(w, fits)
		if string(g) != string(w) {
			return fmt.Errorf("%s: got %x, want %x", f.name, g, w)
		}
	}

	if g, w := pair(minMax16(words)), pair(minMax16Go(words)); g != w {
		return fmt.Errorf("minMax16: got %v, want %v", g, w)
	}
	if g, w := pair(minMax32(dwords)), pair(minMax32Go(dwords)); g != w {
		return fmt.Errorf("minMax32: got %v, want %v", g, w)
	}
	if g, w := maxMagnitude16(words), maxMagnitude16Go(words); g != w {
		return fmt.Errorf("maxMagnitude16: got %x, want %x", g, w)
	}
	if g, w := maxMagnitude32(dwords), maxMagnitude32Go(dwords); g != w {
		return fmt.Errorf("maxMagnitude32: got %x, want %x", g, w)
	}

	for _, f := range []struct {
		name      string
		src       []byte
		vec, twin func(*moments, []byte)
	}{
		{"sumsF32", dwords, sumsF32, sumsF32Go},
		{"sumsF16", words, sumsF16, sumsF16Go},
		{"sumsBF16", words, sumsBF16, sumsBF16Go},
	} {
		var g, w moments
		for i := range g { // what was there must be added to
			g[i], w[i] = float64(i), float64(i)
		}
		f.vec(&g, f.src)
		f.twin(&w, f.src)
		for i := range g {
			if g[i] != w[i] && !(g[i] != g[i] && w[i] != w[i]) {
				return fmt.Errorf("%s: lane %d is %g, want %g", f.name, i, g[i], w[i])
			}
		}
	}
	return nil
}

func pair[T int16 | int32](lo, hi T) [2]T { return [2]T{lo, hi} }

// randomBytes gives n elements of size bytes at an odd address.
func randomBytes(rng *rand.Rand, n, size, special int, specials []uint32) []byte {
	b := make([]byte, n*size+1)[1:]
	for i := range n {
		v := rng.Uint32()
		if special > 0 && rng.IntN(special) == 0 {
			v = specials[rng.IntN(len(specials))]
		}
		for j := range size {
			b[i*size+j] = byte(v >> (8 * j))
		}
	}
	return b
}

// The vector code makes the bytes of the plain one, of numbers of every kind: halves, ties of
// the greatest magnitude, zeros of both signs, steps that F16 and float32 do not hold.
func TestQuantiseFast(t *testing.T) {
	requireAVX2(t)
	was := useAVX2
	t.Cleanup(func() { useAVX2 = was })
	useAVX2 = true
	r := rand.New(rand.NewPCG(7, 8))
	for _, d := range []DType{Q8_0, Q4_0} {
		for range 2000 {
			x := make([]float32, 32)
			scale := math.Exp2(float64(r.IntN(60) - 40))
			coarse := r.IntN(2) == 0
			for i := range x {
				v := r.NormFloat64() * scale
				if coarse {
					v = scale * math.Round(v/scale*4) / 8
				}
				x[i] = float32(v)
			}
			switch r.IntN(8) {
			case 0:
				clear(x)
				x[0] = float32(math.Copysign(0, -1))
			case 1:
				x[r.IntN(32)] = float32(math.Inf(-1))
			case 2:
				for i := range x {
					x[i] = math.SmallestNonzeroFloat32 * float32(r.IntN(9)-4)
				}
			}
			got, want := make([]byte, d.BlockBytes()), make([]byte, d.BlockBytes())
			n := quantiseFast(got, x, d)
			step := quantisers[d](want, x, nil)
			if fits := finite(x) && abs32(step) < 65520; fits != (n == 1) {
				t.Fatalf("%v of %v: %d blocks, step %v", d, x, n, step)
			}
			if n == 1 && !bytes.Equal(got, want) {
				t.Fatalf("%v of %v: got %x, want %x", d, x, got, want)
			}
		}
	}
}
