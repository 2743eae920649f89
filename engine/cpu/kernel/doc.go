// Package kernel computes what a transformer's forward pass is made of, on one CPU
// core: products with packed weights, blocked attention, softmax, norms, rotary
// embedding and activations.
//
// # Levels
//
// Each kernel exists in plain Go (the twin) and, on amd64, in assembly for AVX2 with
// FMA and for AVX-512, chosen once from CPUID; see Level. The assembly is generated
// (internal/asm). The twin is the oracle: it does the same operations in the same
// order, fused multiply-adds included, so a kernel gives the same bits at every
// level. That holds for every function here, NaN payloads apart; with bfloat16 it
// holds as long as nothing that enters or leaves a product is subnormal, which the
// CPU's bfloat16 instructions flush to zero and the others do not.
//
// # Reproducibility
//
// A result never depends on how the work was cut. In a product each output element
// is one chain of fused multiply-adds over the inner dimension in ascending order,
// whatever the number of rows in the call, the panels given to each thread or the
// cache blocks: vector lanes are output columns. In attention a query's result
// depends on its own row and on the keys, which are visited in blocks on a grid
// anchored at position 0. Reductions over a row use a fixed number of lanes (64 for
// dot products, 16 for sums of exponentials) and a fixed tree.
//
// # Use
//
// Weights are packed once (PackF32, PackBF16, PackF16, PackQuant) into panels of 32
// output columns. Threads split the panels of a product, or its rows, or both; no
// function starts a goroutine. Functions may be called concurrently as long as they
// write to different memory. Slices that are too short, or matrices whose sizes
// disagree, are a mistake in the caller and panic before anything is computed.
package kernel
