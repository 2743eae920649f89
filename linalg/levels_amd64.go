package linalg

import (
	"os"

	"golang.org/x/sys/cpu"
)

//go:generate go run ./internal/asm

// levels are this processor's, best first, ending with plain Go. COPPICE_CPU, which package
// kernel documents, asks for a lower one.
func levels() []level {
	x, want := &cpu.X86, os.Getenv("COPPICE_CPU")
	var all []level
	if x.HasAVX512F && x.HasAVX512DQ && want != "generic" && want != "avx2" {
		all = append(all, level{
			name: "avx512", tileRows: 8, tileCols: 24, lanes: 16, floats: 32,
			tile: func(c []float64, ldc int, a, b []float64, k int) {
				_, _, _ = c[7*ldc+23], a[8*k-1], b[24*k-1]
				tileAVX512(&c[0], ldc, &a[0], &b[0], k)
			},
			solve: func(x, from, l []float64, pivot float64) {
				_, _ = x[15], from[:16*len(l)]
				solveAVX512(&x[0], first(from), first(l), len(l), pivot)
			},
			columns: 128,
			rows: func(to, rows []float64, stride int, by []float64) {
				_, _ = to[127], rows[(len(by)-1)*stride+127]
				addRowsAVX512(&to[0], &rows[0], stride, &by[0], len(by))
			},
			add: func(to []float64, x []float32) { addFloat32AVX512(&to[0], &x[0], len(x)) },
		})
	}
	if x.HasAVX2 && x.HasFMA && want != "generic" {
		all = append(all, level{
			name: "avx2", tileRows: 4, tileCols: 12, lanes: 8, floats: 16,
			tile: func(c []float64, ldc int, a, b []float64, k int) {
				_, _, _ = c[3*ldc+11], a[4*k-1], b[12*k-1]
				tileAVX2(&c[0], ldc, &a[0], &b[0], k)
			},
			solve: func(x, from, l []float64, pivot float64) {
				_, _ = x[7], from[:8*len(l)]
				solveAVX2(&x[0], first(from), first(l), len(l), pivot)
			},
			columns: 32,
			rows: func(to, rows []float64, stride int, by []float64) {
				_, _ = to[31], rows[(len(by)-1)*stride+31]
				addRowsAVX2(&to[0], &rows[0], stride, &by[0], len(by))
			},
			add: func(to []float64, x []float32) { addFloat32AVX2(&to[0], &x[0], len(x)) },
		})
	}
	return append(all, generic)
}

// first is where a slice begins; of an empty one nothing is read.
func first(v []float64) *float64 {
	if len(v) == 0 {
		return nil
	}
	return &v[0]
}
