package kernel

import "github.com/coppice-lm/coppice/engine/cpu/kernel/internal/param"

// The steps of attention in bfloat16: queries, keys, values and the softmax's terms
// are rounded on their way into the pairs that VDPBF16PS multiplies. Scores, sums and
// results stay float32.

// packQueriesBF16 rounds the queries of one position, heads rows of dim elements at q,
// to rows from r on.
func (s *attnScratch) packQueriesBF16(q []float32, r, heads, dim int) {
	roundRows(dwordsOf(s.q[r*param.XStride:]), param.XStride, q, dim, heads, dim)
}

// packBlockBF16 is packBlock with pairs: of elements for keys, of positions for values.
func (s *attnScratch) packBlockBF16(kv []KV, k0, n, dim int) {
	width, kw := padded(dim)/2, pairs(dim)
	s.round = growTo(s.round, attnKeys*width)
	whole := (n + param.NR - 1) / param.NR * param.NR
	clear(s.round[n*width : whole*width])
	gather := func(part func(run KV) ([]float32, int)) {
		base := 0
		for _, run := range kv {
			if lo, hi := max(k0, base), min(k0+n, base+run.N); lo < hi {
				x, ld := part(run)
				roundRows(s.round[(lo-k0)*width:], width, x[(lo-base)*ld:], ld, hi-lo, dim)
			}
			base += run.N
		}
	}
	gather(func(run KV) ([]float32, int) { return run.K, run.LdK })
	for i := 0; i < whole; i += 16 {
		transpose(s.k[i/param.NR*param.NR*kw+i%param.NR:], floats(s.round[i*width:]), width, kw)
	}
	gather(func(run KV) ([]float32, int) { return run.V, run.LdV })
	values := dwordsOf(s.v)
	for c := 0; c < width; c += param.NR / 2 {
		for i := 0; i < whole; i += 2 {
			row := s.round[i*width+c:]
			if kw-c < param.NR/2 {
				clear(row[kw-c : param.NR/2])
				clear(row[width:][kw-c : param.NR/2])
			}
			pairRows(values[c*attnKeys+i*param.NR/2:][:param.NR], row, row[width:])
		}
	}
}

// scoresBF16 is scores with pairs.
func (s *attnScratch) scoresBF16(r0, r1, n, dim int) {
	kw := pairs(dim)
	q, k := dwordsOf(s.q[r0*param.XStride:]), dwordsOf(s.k)
	for p := 0; p < n; p += param.NR {
		w := k[p/param.NR*param.NR*kw:]
		tileBF16(s.p[p:], param.XStride, nil, 0, q, w, w, kw, r1-r0)
	}
}

// addValuesBF16 is addValues with pairs: it rounds the terms first.
func (s *attnScratch) addValuesBF16(r0, r1, n, dim int) {
	s.pairs = growTo(s.pairs, len(s.p))
	p, v, width := s.pairs, dwordsOf(s.v), padded(dim)
	roundRows(p, param.XStride, s.p, param.XStride, r1-r0, n)
	for c := 0; c < width; c += param.NR {
		o, w := s.o[r0*width+c:], v[c*attnKeys/2:]
		tileBF16(o, width, o, width, p, w, w, n/2, r1-r0)
	}
}

// roundRows rounds rows of n elements to pairs of bfloat16; an odd last element is
// paired with zero. Row distances are in elements of dst and src.
func roundRows(dst []uint32, ldd int, src []float32, lds, rows, n int) {
	done := roundRowsAsm(dst, ldd, src, lds, rows, n)
	for r := range rows {
		for i := done; i < n; i += 2 {
			pair := uint32(roundBF16(src[r*lds+i]))
			if i+1 < n {
				pair |= uint32(roundBF16(src[r*lds+i+1])) << 16
			}
			dst[r*ldd+i/2] = pair
		}
	}
}

// pairRows turns two rows of 16 pairs of neighbours into 32 pairs of an element of a,
// in the low half, and the one below it in b.
func pairRows(dst, a, b []uint32) {
	if pairRowsAsm(dst, a, b) {
		return
	}
	for i := range param.NR / 2 {
		dst[2*i] = a[i]&0xffff | b[i]<<16
		dst[2*i+1] = a[i]>>16 | b[i]&0xffff0000
	}
}
