package kernel

import (
	"sync"

	"github.com/coppice-lm/coppice/engine/cpu/kernel/internal/param"
)

// attnScratch is one call's working memory.
type attnScratch struct {
	q    []float32 // rows x XStride: queries
	o    []float32 // rows x padded head: results before division by l
	m, l []float32 // rows: greatest score, sum of exponentials
	k    []float32 // block of keys as panels of 32 keys, head x 32 each
	v    []float32 // block of values as panels of 32 elements, attnKeys x 32 each
	p    []float32 // MR512 x XStride: scores, then terms of the softmax
	corr [param.MR512]float32

	keys, values []float32 // of the block that is worked on: k and v, or a cache's

	// For bfloat16 alone; the fields above then hold pairs.
	pairs []uint32 // p, rounded
	round []uint32 // rounded rows of a block: attnKeys x padded head / 2
}

var attnPool = sync.Pool{New: func() any { return new(attnScratch) }}

// reset makes room for the rows and starts their softmax. m starts at the least
// finite value, not -Inf: a row that has seen only masked keys then stays at sums of
// exact zeros.
func (s *attnScratch) reset(rows, dim int) {
	width := padded(dim)
	s.q = growTo(s.q, rows*param.XStride)
	s.o = growTo(s.o, rows*width)
	s.m = growTo(s.m, rows)
	s.l = growTo(s.l, rows)
	s.p = growTo(s.p, param.MR512*param.XStride)
	s.k = growTo(s.k, attnKeys*(dim+1))
	s.v = growTo(s.v, attnKeys*width)
	clear(s.o)
	clear(s.l)
	fill(s.m, -maxF32)
}

func growTo[E any](b []E, n int) []E {
	if cap(b) < n {
		return make([]E, n)
	}
	return b[:n]
}

// packBlock packs keys and values k0..k0+n, which may lie in several runs. The rest of
// the block's last 32 keys is zero.
func (s *attnScratch) packBlock(kv []KV, k0, n, dim int) {
	whole := (n + param.NR - 1) / param.NR * param.NR
	if n < whole {
		clear(s.k[n/param.NR*param.NR*dim:][:param.NR*dim])
	}
	for c := 0; c < dim; c += param.NR {
		clear(s.v[c*attnKeys+n*param.NR : c*attnKeys+whole*param.NR])
	}
	base := 0
	for _, run := range kv {
		lo, hi := max(k0, base), min(k0+n, base+run.N)
		if lo < hi {
			packKeys(s.k, run.K[(lo-base)*run.LdK:], run.LdK, lo-k0, hi-lo, dim)
			packValues(s.v, run.V[(lo-base)*run.LdV:], run.LdV, lo-k0, hi-lo, dim)
		}
		base += run.N
	}
}

// packKeys transposes n keys into panels, from key i0 of the block on.
func packKeys(dst, k []float32, ldk, i0, n, dim int) {
	for i := 0; i < n; {
		at := i0 + i
		p := dst[at/param.NR*param.NR*dim+at%param.NR:]
		if at%16 == 0 && n-i >= 16 {
			transpose(p, k[i*ldk:], ldk, dim)
			i += 16
			continue
		}
		for e, v := range k[i*ldk:][:dim] {
			p[e*param.NR] = v
		}
		i++
	}
}

// packValues copies n values into panels of 32 elements, from row i0 of the block on.
func packValues(dst, v []float32, ldv, i0, n, dim int) {
	for c := 0; c < dim; c += param.NR {
		packRows(dst[c*attnKeys+i0*param.NR:], v[c:], ldv, n, min(param.NR, dim-c))
	}
}
