package kernel

import (
	"github.com/coppice-lm/coppice/engine/cpu/kernel/internal/tile"
	"github.com/coppice-lm/coppice/tensor"
)

// The functions below hand work to the assembly of the active level. Those that return
// a number say how many elements they handled; the twin does the rest.

// tileRows is the greatest height of a product's tiles.
func tileRows() int {
	if active >= AVX512 {
		return tile.MR512
	}
	return tile.MR256
}

func roundBF16Asm([]uint16, []float32) int { return 0 }
func widenBF16Asm([]float32, []uint16) int { return 0 }
func widenF16Asm([]float32, []uint16) int  { return 0 }

func expAsm(_, _ []float32) int                         { return 0 }
func expSumAsm(_, _ []float32, _ float32, _ *lanes) int { return 0 }
func siluMulAsm(_, _, _ []float32) int                  { return 0 }
func geluTanhMulAsm(_, _, _ []float32) int              { return 0 }
func geluErfMulAsm(_, _, _ []float32) int               { return 0 }
func softCapAsm([]float32, float32, float32) int        { return 0 }
func dotAsm(_, _ []float32, _ *[4]lanes) int            { return 0 }
func normScaleAsm(_, _, _ []float32, _, _ float32) int  { return 0 }
func ropeAsm(_, _, _, _ []float32) int                  { return 0 }
func addAsm(_, _ []float32) int                         { return 0 }
func scaleAsm([]float32, float32) int                   { return 0 }
func axpyAsm(float32, []float32, []float32) int         { return 0 }
func maxAsm([]float32, *lanes) int                      { return 0 }
func indexAsm([]float32, float32) int                   { return 0 }

func tileF32(c []float32, ldc int, x, w []float32, k, rows int, load bool) {
	switch {
	case active >= AVX512:
		tileF32AVX512(&c[0], ldc, &x[0], &w[0], k, rows, flag(load))
	case active == AVX2:
		tileF32AVX2(&c[0], ldc, &x[0], &w[0], k, rows, flag(load))
		tileF32AVX2(&c[16], ldc, &x[0], &w[16], k, rows, flag(load))
	default:
		tileF32Twin(c, ldc, x, w, k, rows, load)
	}
}

func tileBF16(c []float32, ldc int, x, w []uint32, k, rows int, load bool) {
	tileBF16AVX512(&c[0], ldc, &x[0], &w[0], k, rows, flag(load))
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

func widenPairs(dst []float32, src []uint32) { widenPairsTwin(dst, src) }

func transposeAsm(_, _ []float32, _, _ int) int { return 0 }

func softmaxStep(p []float32, vecs int, scale float32, m, l, corr []float32) {
	softmaxStepTwin(p, vecs, scale, m, l, corr)
}

func quantAsm(tensor.DType, *[tile.NR]float32, []byte, []int8, []float32, []int32) bool {
	return false
}
