// Package tile holds the constants that the kernels' Go code and the assembly
// generator must agree on.
package tile

const (
	// NR is the number of output columns in a panel of packed weights: two AVX-512
	// vectors, four AVX2 vectors.
	NR = 32

	// KC bounds the 32-bit steps along the inner dimension (one float32, or a pair of
	// bfloat16) after which partial sums go back to memory. A panel's share is KC x NR x
	// 4 bytes = 40 KiB and stays near while all row tiles pass over it. Of 128 to 384
	// steps, 320 was the fastest on Zen 5 (48 KiB first-level cache); 256 to 384 differ
	// little.
	KC = 320

	// XStride is the distance in 32-bit steps between two rows of packed
	// activations. Rows at a power of two would compete for the same cache sets; being
	// constant, the distance needs no register.
	XStride = KC + 16

	// MR512 and MR256 are the greatest tile heights with AVX-512 (14 x 32: 28
	// accumulators, 2 weights, 2 activations of 32 registers) and AVX2 (6 x 16: 12 + 2
	// + 1 of 16 registers).
	MR512 = 14
	MR256 = 6

	// Few512 and Few256 are the greatest numbers of rows of the kernels for decoding,
	// which keep a panel's whole width of sums for each row in registers.
	Few512 = 4
	Few256 = 2
)
