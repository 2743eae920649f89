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

// Set stores key and value of a position, HeadDim elements each. Positions are set in
// ascending order; no position before it may be missing.
func (b *KVBlocks) Set(pos int, k, v []float32) {
	if pos/attnKeys == len(b.k) {
		b.extend()
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

// extend adds a block of zeros.
func (b *KVBlocks) extend() {
	n := len(b.k)
	if n < cap(b.k) && n < cap(b.v) {
		if b.k, b.v = b.k[:n+1], b.v[:n+1]; b.k[n] != nil { // from before a Truncate
			clear(b.k[n])
			clear(b.v[n])
			return
		}
		b.k, b.v = b.k[:n], b.v[:n]
	}
	keys, values := b.HeadDim, padded(b.HeadDim)
	if b.BF16 {
		keys, values = pairs(b.HeadDim), values/2
	}
	b.k, b.v = append(b.k, make([]float32, attnKeys*keys)), append(b.v, make([]float32, attnKeys*values))
}

// setBF16 is Set of position i of a block: keys are paired with their neighbours, values
// with those of the neighbouring position. What is paired with a position that is not
// set yet is 0.
func (b *KVBlocks) setBF16(keys, values []uint32, i int, k, v []float32) {
	var rounded [param.KC]uint16
	bits := rounded[:b.HeadDim]
	RoundBF16(bits, k)
	panel := keys[i/param.NR*param.NR*pairs(b.HeadDim)+i%param.NR:]
	for e := 0; e < len(bits); e += 2 {
		pair := uint32(bits[e])
		if e+1 < len(bits) {
			pair |= uint32(bits[e+1]) << 16
		}
		panel[e/2*param.NR] = pair
	}
	RoundBF16(bits, v)
	for c := 0; c < len(bits); c += param.NR {
		row := values[c*attnKeys/2+i/2*param.NR:][:param.NR]
		for j, x := range bits[c:min(c+param.NR, len(bits))] {
			if i%2 == 0 {
				row[j] = uint32(x)
			} else {
				row[j] = row[j]&0xffff | uint32(x)<<16
			}
		}
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
		if nq*a.Heads <= tileRows() { // else there is more to calculate than to read
			var parts [1 + param.KC/param.NR][]byte
			for _, part := range blocks.ahead(parts[:0], k0/attnKeys+1, pos+nq) {
				Prefetch(part)
			}
		}
	})
}
