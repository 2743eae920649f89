//go:build !amd64

package linalg

// tile is tileGo: there is no assembly for this processor.
func tile(c []float64, ldc int, a, b []float64, k int) { tileGo(c, ldc, a, b, k) }
