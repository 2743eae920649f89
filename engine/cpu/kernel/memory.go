package kernel

import "unsafe"

// Memory is one block for the weights of a whole model, for which the system is asked to
// use huge pages: decoding reads all weights once for each token, and with pages of
// 4 KiB a tenth of that time goes into finding them.
//
// Weights are made in it twice: the first time, before Allocate, only their sizes are
// added up, and what is made is without data and of no use; the second time, after it,
// the same weights fill the block. After Reset both begins anew. It is not for
// concurrent use. Where a *Memory is nil, weights are slices of their own.
type Memory struct {
	size        int // bytes of all that was made so far
	block, free []byte
}

// Allocate makes the block.
func (m *Memory) Allocate() {
	if m.size <= cap(m.block) {
		m.free = m.block[:m.size]
		clear(m.free)
		return
	}
	m.block = nil // what it took can be taken again
	m.block = make([]byte, m.size)
	adviseHuge(m.block)
	m.free = m.block
}

// Reset ends the use of all that was made in the block, which is kept for the next
// Allocate.
func (m *Memory) Reset() { m.size, m.free = 0, nil }

// take returns n zeros of a type without pointers, or nil before Allocate.
func take[E any](m *Memory, n int) []E {
	if m == nil {
		return make([]E, n)
	}
	const line = 64
	size := (n*int(unsafe.Sizeof(*new(E))) + line - 1) / line * line
	if m.free == nil {
		m.size += size
		return nil
	}
	part := m.free[:size]
	m.free = m.free[size:]
	return unsafe.Slice((*E)(unsafe.Pointer(unsafe.SliceData(part))), n)
}
