package linalg

import (
	"os"

	"golang.org/x/sys/cpu"
)

//go:generate go run ./internal/asm

// useAVX2 says whether tile is assembly. COPPICE_CPU=generic, which package kernel
// documents, asks for plain Go.
var useAVX2 = cpu.X86.HasAVX2 && cpu.X86.HasFMA && os.Getenv("COPPICE_CPU") != "generic"

// tile is tileGo, with the same bits.
func tile(c []float64, ldc int, a, b []float64, k int) {
	if !useAVX2 || k == 0 {
		tileGo(c, ldc, a, b, k)
		return
	}
	_, _, _ = c[(tileRows-1)*ldc+tileCols-1], a[tileRows*k-1], b[tileCols*k-1]
	tileAVX2(&c[0], ldc, &a[0], &b[0], k)
}
