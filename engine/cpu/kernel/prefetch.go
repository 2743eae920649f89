package kernel

import (
	"unsafe"

	"github.com/coppice-lm/coppice/engine/cpu/kernel/internal/param"
)

// Prefetch asks for memory that will be read soon, without waiting for it. No result
// depends on it.
func Prefetch(b []byte) {
	if len(b) > 0 {
		prefetchAsm(b)
	}
}

// Panel returns the memory of the panels from p on, to be prefetched.
func (w *F32) Panel(p int) []byte { return bytesOf(w.data[p*w.In*param.NR:]) }

// Panel is as that of F32.
func (w *F16) Panel(p int) []byte { return bytesOf(w.data[p*w.In*param.NR:]) }

// Panel is as that of F32.
func (w *BF16) Panel(p int) []byte { return bytesOf(w.data[p*pairs(w.In)*param.NR:]) }

// Panel is as that of F32.
func (w *Quant) Panel(p int) []byte { return w.data[p*w.panelBytes():] }

// Ahead appends to parts the memory of the keys and values that attention of a query at a
// position reads first, but for the position's own.
func (b *KVBlocks) Ahead(parts [][]byte, pos, window int) [][]byte {
	block := 0
	if window > 0 {
		block = max(0, pos-window+1) / attnKeys
	}
	return b.ahead(parts, block, pos)
}

// ahead appends what is before position end in a block, if there is such a block.
func (b *KVBlocks) ahead(parts [][]byte, block, end int) [][]byte {
	n := min(attnKeys, end-block*attnKeys)
	if n <= 0 || block >= len(b.k) {
		return parts
	}
	keys, values := bytesOf(b.k[block]), bytesOf(b.v[block])
	parts = append(parts, keys[:panels(n)*param.NR*len(keys)/attnKeys])
	columns := padded(b.HeadDim) / param.NR
	for c := range columns {
		part := values[c*len(values)/columns:]
		parts = append(parts, part[:n*len(values)/columns/attnKeys])
	}
	return parts
}

// Bytes is the memory of x, to be prefetched.
func Bytes(x []float32) []byte { return bytesOf(x) }

// bytesOf is the memory of s.
func bytesOf[E uint16 | uint32 | float32](s []E) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(*new(E))))
}
