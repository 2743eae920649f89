package kernel

import (
	"fmt"

	"github.com/coppice-lm/coppice/engine/cpu/kernel/internal/param"
)

// KVBlocks holds the keys and values of one head for positions 0, 1, ..., in the order
// in which attention multiplies them. With a cache that keeps them so, the packing of
// all earlier positions is not done again for each new one. Without any position it is
// ready for use.
type KVBlocks struct {
	HeadDim int
	BF16    bool // keys and values are kept in bfloat16, for Attention.BF16

	k, v [][]float32 // one a block of attnKeys positions, as in attnScratch
}

// Set stores key and value of a position, HeadDim elements each. No position before it
// may be missing.
func (b *KVBlocks) Set(pos int, k, v []float32) {
	if pos/attnKeys == len(b.k) {
		keys, values := b.HeadDim, padded(b.HeadDim)
		if b.BF16 {
			keys, values = pairs(b.HeadDim), values/2
		}
		b.k, b.v = append(b.k, make([]float32, attnKeys*keys)), append(b.v, make([]float32, attnKeys*values))
	}
	keys, values, i := b.k[pos/attnKeys], b.v[pos/attnKeys], pos%attnKeys
	if b.BF16 {
		b.setBF16(dwordsOf(keys), dwordsOf(values), i, k[:b.HeadDim], v[:b.HeadDim])
		return
	}
	panel := keys[i/param.NR*param.NR*b.HeadDim+i%param.NR:]
	for e, x := range k[:b.HeadDim] {
		panel[e*param.NR] = x
	}
	for c := 0; c < b.HeadDim; c += param.NR {
		copy(values[c*attnKeys+i*param.NR:][:param.NR], v[c:b.HeadDim])
	}
}

// setBF16 is Set of position i of a block: keys are paired with their neighbours, values
// with those of the neighbouring position.
func (b *KVBlocks) setBF16(keys, values []uint32, i int, k, v []float32) {
	put := func(w *uint32, half int, bits uint16) {
		*w = *w&^(0xffff<<(16*half)) | uint32(bits)<<(16*half)
	}
	panel := keys[i/param.NR*param.NR*pairs(b.HeadDim)+i%param.NR:]
	for e, x := range k {
		put(&panel[e/2*param.NR], e%2, roundBF16(x))
	}
	for e, x := range v {
		put(&values[e/param.NR*param.NR*attnKeys/2+i/2*param.NR+e%param.NR], i%2, roundBF16(x))
	}
}

// Truncate forgets all but the first n positions, of which none may be missing.
func (b *KVBlocks) Truncate(n int) {
	blocks := (n + attnKeys - 1) / attnKeys
	b.k, b.v = b.k[:blocks], b.v[:blocks]
	// What stays in the last block is multiplied by 0, which a NaN or Inf survives.
	zeros := make([]float32, b.HeadDim)
	for pos := n; pos%attnKeys != 0; pos++ {
		b.Set(pos, zeros, zeros)
	}
}

// RunBlocks is Run with the keys and values of blocks, which hold at least positions 0
// to pos+nq-1 of heads of the same size and precision. It gives the bits of Run.
func (a Attention) RunBlocks(dst []float32, ldd int, q []float32, ldq, nq, pos int, blocks *KVBlocks) {
	a.checkQueries(len(dst), ldd, len(q), ldq, nq, pos)
	if blocks.HeadDim != a.HeadDim || blocks.BF16 != a.BF16 || pos+nq > len(blocks.k)*attnKeys {
		panic(fmt.Sprintf("kernel: Attention.RunBlocks: %+v, %d queries from position %d: %d blocks of %d positions of %d elements, bfloat16 %v",
			a, nq, pos, len(blocks.k), attnKeys, blocks.HeadDim, blocks.BF16))
	}
	a.run(dst, ldd, q, ldq, nq, pos, func(s *attnScratch, k0, n int) {
		s.keys, s.values = blocks.k[k0/attnKeys], blocks.v[k0/attnKeys]
	})
}
