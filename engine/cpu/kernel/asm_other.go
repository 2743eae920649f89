//go:build !amd64

package kernel

import (
	"github.com/coppice-lm/coppice/engine/cpu/kernel/internal/param"
	"github.com/coppice-lm/coppice/tensor"
)

// Without assembly the twins do all the work: each function below says that it
// handled none of the elements.

func tileRows() int { return param.MR256 }

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

func tileF32(dst []float32, ldd int, from []float32, ldf int, x, w, _ []float32, k, rows int) {
	tileF32Twin(dst, ldd, from, ldf, x, w, k, rows)
}

func tileBF16(dst []float32, ldd int, from []float32, ldf int, x, w, _ []uint32, k, rows int) {
	tileBF16Twin(dst, ldd, from, ldf, x, w, k, rows)
}

func tileF16(dst []float32, ldd int, from []float32, ldf int, x []float32, w, _ []uint16, k, rows int) {
	tileF16Twin(dst, ldd, from, ldf, x, w, k, rows)
}

func splits() bool { return false }

// tilePairs is never called.
func tilePairs(_ []float32, _ int, _ []float32, _ int, _ []float32, _, _ []uint32, _, _ int) {}

func splitPairsAsm([]float32, []uint16) int { return 0 }

func transposeAsm(_, _ []float32, _, _ int) int { return 0 }

func softmaxStep(p []float32, vecs int, scale float32, m, l, corr []float32) {
	softmaxStepTwin(p, vecs, scale, m, l, corr)
}

func quantAsm(tensor.DType, *[param.NR]float32, []byte, []int8, []float32, []int32) bool {
	return false
}

func blockTops(top, x []float32) { blockTopsTwin(top, x) }

func roundBlocks(dst []int8, x, inv []float32, sum []int32) { roundBlocksTwin(dst, x, inv, sum) }

func pairUpAsm([]uint32, []uint16) int { return 0 }

func roundRowsAsm([]uint32, int, []float32, int, int, int) int { return 0 }

func pairRowsAsm(_, _, _ []uint32) bool { return false }

func copyRowsAsm(_, _ []float32, _, _ int) bool { return false }

// Pause does nothing.
func Pause() {}

func prefetchAsm([]byte) {}
