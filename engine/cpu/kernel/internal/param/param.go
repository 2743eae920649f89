// Package param holds the numbers that the kernels' Go code and the assembly generator
// must agree on.
package param

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

	// XHalf is where the even elements of a row of pairs of bfloat16 begin that were
	// widened to float32; the odd ones are before them.
	XHalf = KC / 2

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

// The exponential: x is limited to ExpLo..ExpHi, where it is neither 0 nor infinite,
// and split into n*ln(2) + r, |r| <= ln(2)/2. e^r is 1 + r + r^2*(C2 + ... + C6*r^4),
// the five coefficients interpolated at the Chebyshev nodes of that interval; in exact
// arithmetic its relative error is 1.1e-8, a fifth of half a unit in the last place.
const (
	ExpLo = -104
	ExpHi = 89 // 2^128 still fits the scaling
	Log2E = 1.44269502162933349609375
	Ln2Hi = 0.693145751953125 // 16 bits of ln(2): n*Ln2Hi is exact
	Ln2Lo = 1.42860682030941723212e-6
	ExpC2 = 0.5
	ExpC3 = 0.16666576266288757
	ExpC4 = 0.041666556149721146
	ExpC5 = 0.008363178931176662
	ExpC6 = 0.0013926184037700295
)

// The tanh form of GELU: 0.5*x*(1+tanh(u)) is x/(1+exp(-2u)) with
// u = sqrt(2/pi)*(x + 0.044715*x^3) (Hendrycks and Gimpel, 2016), so the exponent is
// x*(GELUA + GELUB*x^2).
const (
	GELUA = -1.5957691216057308 // -2*sqrt(2/pi)
	GELUB = GELUA * 0.044715
)

// ErfcP are the coefficients of erfc(z)*exp(z^2) = t*P(t), t = 1/(1+z/2), z >= 0,
// interpolated at the Chebyshev nodes of 0 <= z <= 10: relative error 5.6e-8.
var ErfcP = [9]float32{
	0.2820826768875122, 0.2824450433254242, 0.24257288873195648,
	0.20485365390777588, -0.03184175863862038, 0.28569769859313965,
	-0.49386364221572876, 0.28776830434799194, -0.059714920818805695,
}
