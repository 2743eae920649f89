// Package tile holds the constants that the kernels' Go code and the assembly
// generator must agree on.
package tile

const (
	// NR is the number of output columns in a panel of packed weights: two AVX-512
	// vectors, four AVX2 vectors.
	NR = 32

	// KC is the number of 32-bit steps along the inner dimension (one float32, or a
	// pair of bfloat16) after which partial sums go back to memory. A panel's share,
	// KC x NR x 4 bytes = 32 KiB, stays in a 48 KiB first-level cache while all row
	// tiles pass over it.
	KC = 256

	// XStride is the distance in 32-bit steps between two rows of packed
	// activations. It is not a multiple of 4096 bytes, so the rows of a tile do not
	// compete for the same cache sets; being constant, it needs no register.
	XStride = KC + 16

	// MR512 and MR256 are the greatest tile heights with AVX-512 (14 x 32: 28
	// accumulators, 2 weights, 2 activations of 32 registers) and AVX2 (6 x 16: 12 + 2
	// + 1 of 16 registers).
	MR512 = 14
	MR256 = 6
)
