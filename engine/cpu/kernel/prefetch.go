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

// Prefetch asks for the keys and values that attention of a query at a position reads
// first.
func (b *KVBlocks) Prefetch(pos, window int) {
	first := 0
	if window > 0 {
		first = max(0, pos-window+1) / attnKeys
	}
	b.prefetch(first, pos+1)
}

// prefetch asks for what is before position end in a block, if there is such a block.
func (b *KVBlocks) prefetch(block, end int) {
	n := min(attnKeys, end-block*attnKeys)
	if n <= 0 || block >= len(b.k) {
		return
	}
	keys, values := bytesOf(b.k[block]), bytesOf(b.v[block])
	Prefetch(keys[:panels(n)*param.NR*len(keys)/attnKeys])
	column := padded(b.HeadDim) / param.NR
	for c := range column {
		part := values[c*len(values)/column:]
		Prefetch(part[:n*len(values)/column/attnKeys])
	}
}

// bytesOf is the memory of s.
func bytesOf[E uint16 | uint32 | float32](s []E) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(*new(E))))
}
