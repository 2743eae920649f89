package kernel

import (
	"unsafe"

	"github.com/coppice-lm/coppice/engine/cpu/kernel/internal/param"
	"github.com/coppice-lm/coppice/tensor"
)

// The functions below hand work to the assembly of the active level. Those that return
// a number say how many elements they handled; the twin does the rest.

// tileRows is the greatest height of a product's tiles.
func tileRows() int {
	if active >= AVX512 {
		return param.MR512
	}
	return param.MR256
}

// body is the part of n elements that a kernel handles: whole groups of 16 at the
// levels that have assembly.
func body(n int) int {
	if active < AVX2 {
		return 0
	}
	return n &^ 15
}

func roundBF16Asm(dst []uint16, src []float32) int {
	n := body(len(src))
	switch {
	case n == 0:
	case active >= AVX512:
		roundBF16AVX512(&dst[0], &src[0], n)
	default:
		roundBF16AVX2(&dst[0], &src[0], n)
	}
	return n
}

func widenBF16Asm(dst []float32, src []uint16) int {
	n := body(len(src))
	switch {
	case n == 0:
	case active >= AVX512:
		widenBF16AVX512(&dst[0], &src[0], n)
	default:
		widenBF16AVX2(&dst[0], &src[0], n)
	}
	return n
}

func widenF16Asm(dst []float32, src []uint16) int {
	n := body(len(src))
	switch {
	case n == 0:
	case active >= AVX512:
		widenF16AVX512(&dst[0], &src[0], n)
	default:
		widenF16AVX2(&dst[0], &src[0], n)
	}
	return n
}

func expAsm(dst, x []float32) int {
	n := body(len(x))
	switch {
	case n == 0:
	case active >= AVX512:
		expAVX512(&dst[0], &x[0], n)
	default:
		expAVX2(&dst[0], &x[0], n)
	}
	return n
}

func siluMulAsm(dst, gate, up []float32) int {
	n := body(len(gate))
	switch {
	case n == 0:
	case active >= AVX512:
		siluMulAVX512(&dst[0], &gate[0], &up[0], n)
	default:
		siluMulAVX2(&dst[0], &gate[0], &up[0], n)
	}
	return n
}

func geluTanhMulAsm(dst, gate, up []float32) int {
	n := body(len(gate))
	switch {
	case n == 0:
	case active >= AVX512:
		geluTanhMulAVX512(&dst[0], &gate[0], &up[0], n)
	default:
		geluTanhMulAVX2(&dst[0], &gate[0], &up[0], n)
	}
	return n
}

func geluErfMulAsm(dst, gate, up []float32) int {
	n := body(len(gate))
	switch {
	case n == 0:
	case active >= AVX512:
		geluErfMulAVX512(&dst[0], &gate[0], &up[0], n)
	default:
		geluErfMulAVX2(&dst[0], &gate[0], &up[0], n)
	}
	return n
}

func softCapAsm(x []float32, inv, limit float32) int {
	n := body(len(x))
	switch {
	case n == 0:
	case active >= AVX512:
		softCapAVX512(&x[0], n, inv, limit)
	default:
		softCapAVX2(&x[0], n, inv, limit)
	}
	return n
}

func normScaleAsm(dst, x, w []float32, inv, offset float32) int {
	n := body(len(x))
	switch {
	case n == 0:
	case active >= AVX512:
		normScaleAVX512(&dst[0], &x[0], &w[0], n, inv, offset)
	default:
		normScaleAVX2(&dst[0], &x[0], &w[0], n, inv, offset)
	}
	return n
}

func ropeAsm(lo, hi, cos, sin []float32) int {
	n := body(len(lo))
	switch {
	case n == 0:
	case active >= AVX512:
		ropeAVX512(&lo[0], &hi[0], &cos[0], &sin[0], n)
	default:
		ropeAVX2(&lo[0], &hi[0], &cos[0], &sin[0], n)
	}
	return n
}

func addAsm(dst, x []float32) int {
	n := body(len(x))
	switch {
	case n == 0:
	case active >= AVX512:
		addAVX512(&dst[0], &x[0], n)
	default:
		addAVX2(&dst[0], &x[0], n)
	}
	return n
}

func scaleAsm(x []float32, a float32) int {
	n := body(len(x))
	switch {
	case n == 0:
	case active >= AVX512:
		scaleAVX512(&x[0], n, a)
	default:
		scaleAVX2(&x[0], n, a)
	}
	return n
}

func axpyAsm(a float32, x, y []float32) int {
	n := body(len(x))
	switch {
	case n == 0:
	case active >= AVX512:
		axpyAVX512(a, &x[0], &y[0], n)
	default:
		axpyAVX2(a, &x[0], &y[0], n)
	}
	return n
}

func maxAsm(x []float32, acc *lanes) int {
	n := body(len(x))
	switch {
	case n == 0:
	case active >= AVX512:
		maxAVX512(&x[0], n, &acc[0])
	default:
		maxAVX2(&x[0], n, &acc[0])
	}
	return n
}

func indexAsm(x []float32, m float32) int {
	n := body(len(x))
	switch {
	case n == 0:
	case active >= AVX512:
		return indexAVX512(&x[0], n, m)
	default:
		return indexAVX2(&x[0], n, m)
	}
	return n
}

func dotAsm(x, y []float32, acc *[4]lanes) int {
	n := body(len(x)) &^ 63
	switch {
	case n == 0:
	case active >= AVX512:
		dotAVX512(&x[0], &y[0], n, &acc[0][0])
	default:
		dotAVX2(&x[0], &y[0], n, &acc[0][0])
	}
	return n
}

func expSumAsm(dst, x []float32, m float32, acc *lanes) int {
	n := body(len(x))
	switch {
	case n == 0:
	case active >= AVX512 && dst == nil:
		expSumAVX512(&x[0], n, m, &acc[0])
	case active >= AVX512:
		expSumStoreAVX512(&dst[0], &x[0], n, m, &acc[0])
	case dst == nil:
		expSumAVX2(&x[0], n, m, &acc[0])
	default:
		expSumStoreAVX2(&dst[0], &x[0], n, m, &acc[0])
	}
	return n
}

// twoHalves is product.tile by an AVX2 tile, which has half a panel's columns.
func twoHalves[X dword, W dword | uint16](tile func(dst *float32, ldd int, from *float32, ldf int, x *X, w, next *W, k, rows int),
	dst []float32, ldd int, from []float32, ldf int, x []X, w, next []W, k, rows int) {
	const half = param.NR / 2
	tile(&dst[0], ldd, unsafe.SliceData(from), ldf, &x[0], &w[0], unsafe.SliceData(next), k, rows)
	if from != nil {
		from = from[half:]
	}
	tile(&dst[half], ldd, unsafe.SliceData(from), ldf, &x[0], &w[half], unsafe.SliceData(next), k, rows)
}

func tileF32(dst []float32, ldd int, from []float32, ldf int, x, w, next []float32, k, rows int) {
	switch {
	case active >= AVX512:
		tileF32AVX512(&dst[0], ldd, unsafe.SliceData(from), ldf, &x[0], &w[0], unsafe.SliceData(next), k, rows)
	case active == AVX2:
		twoHalves(tileF32AVX2, dst, ldd, from, ldf, x, w, next, k, rows)
	default:
		tileF32Twin(dst, ldd, from, ldf, x, w, k, rows)
	}
}

func tileF16(dst []float32, ldd int, from []float32, ldf int, x []float32, w, next []uint16, k, rows int) {
	switch {
	case active >= AVX512:
		tileF16AVX512(&dst[0], ldd, unsafe.SliceData(from), ldf, &x[0], &w[0], unsafe.SliceData(next), k, rows)
	case active == AVX2:
		twoHalves(tileF16AVX2, dst, ldd, from, ldf, x, w, next, k, rows)
	default:
		tileF16Twin(dst, ldd, from, ldf, x, w, k, rows)
	}
}

// splits says whether products of bfloat16 are tilePairs: there are vectors, but no
// instruction for such a product.
func splits() bool { return active == AVX2 || active == AVX512 }

// tilePairs is product.tile for weights in pairs of bfloat16 and activations that
// splitPairs widened, at the levels of which splits says so.
func tilePairs(dst []float32, ldd int, from []float32, ldf int, x []float32, w, next []uint32, k, rows int) {
	if active >= AVX512 {
		tilePairsAVX512(&dst[0], ldd, unsafe.SliceData(from), ldf, &x[0], &w[0], unsafe.SliceData(next), k, rows)
		return
	}
	twoHalves(tilePairsAVX2, dst, ldd, from, ldf, x, w, next, k, rows)
}

// tileBF16 takes at most XHalf steps where it has to widen activations.
func tileBF16(dst []float32, ldd int, from []float32, ldf int, x, w, next []uint32, k, rows int) {
	switch {
	case active >= AVX512BF16:
		tileBF16AVX512(&dst[0], ldd, unsafe.SliceData(from), ldf, &x[0], &w[0], unsafe.SliceData(next), k, rows)
	case splits():
		s := scratchPool.Get().(*scratch)
		defer scratchPool.Put(s)
		wide := dwords[float32](&s.x, rows*param.XStride)
		for r := range rows {
			splitPairs(wide[r*param.XStride:], halves(x[r*param.XStride:][:k]))
		}
		tilePairs(dst, ldd, from, ldf, wide, w, next, k, rows)
	default:
		tileBF16Twin(dst, ldd, from, ldf, x, w, k, rows)
	}
}

func splitPairsAsm(dst []float32, src []uint16) int {
	n := body(len(src) / 2)
	switch {
	case n == 0:
	case active >= AVX512:
		splitPairsAVX512(&dst[0], &dst[param.XHalf], &src[0], n)
	default:
		splitPairsAVX2(&dst[0], &dst[param.XHalf], &src[0], n)
	}
	return n
}

// pairUpAsm joins whole pairs, which have their order in memory already: amd64 is
// little-endian.
func pairUpAsm(dst []uint32, src []uint16) int {
	n := len(src) / 2
	copy(halves(dst), src[:2*n])
	return n
}

// transposeAsm transposes the first elements of 16 rows and says how many.
func transposeAsm(dst, src []float32, ld, dim int) int {
	n := dim &^ 15
	switch {
	case active < AVX2 || n == 0:
		return 0
	case active >= AVX512:
		transposeAVX512(&dst[0], &src[0], ld, n)
	default:
		transposeAVX2(&dst[0], &src[0], ld, n)
	}
	return n
}

func softmaxStep(p []float32, vecs int, scale float32, m, l, corr []float32) {
	if active < AVX2 {
		softmaxStepTwin(p, vecs, scale, m, l, corr)
		return
	}
	var top, sum, old [16]float32
	rows := len(m)
	copy(top[:], m)
	copy(old[:], m)
	if active >= AVX512 {
		scoreMaxAVX512(&p[0], rows, vecs*16, scale, &top[0])
		scoreExpAVX512(&p[0], rows, vecs*16, &top[0], &sum[0])
	} else {
		scoreMaxAVX2(&p[0], rows, vecs*16, scale, &top[0])
		scoreExpAVX2(&p[0], rows, vecs*16, &top[0], &sum[0])
	}
	for i, t := range top {
		old[i] -= t
	}
	Exp(old[:], old[:])
	for i := range m {
		corr[i] = old[i]
		l[i] = float32(l[i]*corr[i]) + sum[i]
	}
	copy(m, top[:])
}

// quantAsm multiplies a row of activations by a panel and says whether it did.
func quantAsm(t tensor.DType, acc *[param.NR]float32, panel []byte, x []int8, scale []float32, sum []int32) bool {
	if active < AVX2 {
		return false
	}
	f := quantQ8_0AVX2
	switch vnni := active >= AVX512BF16; {
	case vnni && t == tensor.Q8_0:
		f = quantQ8_0AVX512VNNI
	case vnni && t == tensor.Q4_0:
		f = quantQ4_0AVX512VNNI
	case vnni && t == tensor.Q4_1:
		f = quantQ4_1AVX512VNNI
	case t == tensor.Q4_0:
		f = quantQ4_0AVX2
	case t == tensor.Q4_1:
		f = quantQ4_1AVX2
	}
	f(&acc[0], &panel[0], &x[0], &scale[0], &sum[0], len(scale))
	return true
}

func blockTops(top, x []float32) {
	switch {
	case active >= AVX512:
		blockTopsAVX512(&top[0], &x[0], len(top))
	case active == AVX2:
		blockTopsAVX2(&top[0], &x[0], len(top))
	default:
		blockTopsTwin(top, x)
	}
}

func roundBlocks(dst []int8, x, inv []float32, sum []int32) {
	switch {
	case active >= AVX512:
		roundBlocksAVX512(&dst[0], &x[0], &inv[0], &sum[0], len(inv))
	case active == AVX2:
		roundBlocksAVX2(&dst[0], &x[0], &inv[0], &sum[0], len(inv))
	default:
		roundBlocksTwin(dst, x, inv, sum)
	}
}

func roundRowsAsm(dst []uint32, ldd int, src []float32, lds, rows, n int) int {
	n = body(n)
	switch {
	case n == 0 || rows == 0:
		return 0
	case active >= AVX512BF16:
		roundRowsAVX512BF16(&dst[0], ldd, &src[0], lds, rows, n)
	case active >= AVX512:
		roundRowsAVX512(&dst[0], ldd, &src[0], lds, rows, n)
	default:
		roundRowsAVX2(&dst[0], ldd, &src[0], lds, rows, n)
	}
	return n
}

func pairRowsAsm(dst, a, b []uint32) bool {
	switch {
	case active >= AVX512:
		pairRowsAVX512(&dst[0], &a[0], &b[0])
	case active == AVX2:
		pairRowsAVX2(&dst[0], &a[0], &b[0])
	default:
		return false
	}
	return true
}

// copyRowsAsm packs rows of NR elements and says whether it did.
func copyRowsAsm(dst, src []float32, ld, n int) bool {
	switch {
	case active >= AVX512:
		copyRowsAVX512(&dst[0], &src[0], ld, n)
	case active == AVX2:
		copyRowsAVX2(&dst[0], &src[0], ld, n)
	default:
		return false
	}
	return true
}

// Pause tells the core that it is in a loop that waits for another.
func Pause() {
	if active >= AVX2 {
		pauseAVX2()
	}
}

func prefetchAsm(b []byte) {
	if active >= AVX2 {
		prefetchAVX2(&b[0], len(b))
	}
}
