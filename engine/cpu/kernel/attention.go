package kernel

import (
	"fmt"
	"math"

	"github.com/coppice-lm/coppice/engine/cpu/kernel/internal/param"
)

// attnKeys is the number of keys in a block of the grid on which attention walks over
// the keys. The grid starts at position 0 of the sequence.
const attnKeys = 128

// Attention describes causal attention of a group of query heads that share one
// key/value head.
type Attention struct {
	HeadDim int // elements of a head, 1..256
	Heads   int // query heads of the group (1 without grouped-query attention)

	Scale   float32 // factor of the dot products, usually 1/sqrt(HeadDim)
	SoftCap float32 // scores become SoftCap*tanh(score/SoftCap); 0 for none
	Window  int     // a query sees the last Window positions, its own included; 0 for all

	// BF16 rounds queries, keys, values and the softmax's terms to bfloat16 for the two
	// products, which doubles their speed at level AVX512BF16 (and slows them below).
	BF16 bool
}

// KV is a run of N successive positions' keys and values for one head: those of
// position i at K[i*LdK:] and V[i*LdV:], HeadDim elements each.
type KV struct {
	N        int
	K, V     []float32
	LdK, LdV int
}

// Run computes attention for nq successive positions from pos on. The keys and values
// of positions 0, 1, ... are those of the runs in kv, one after the other; there are
// at least pos+nq (a shared prefix and a continuation are two runs). Query t of head h
// is at q[t*ldq+h*HeadDim:], its result goes to dst[t*ldd+h*HeadDim:].
//
// Scores exist for one block of 128 keys at a time (the online softmax of Milakov and
// Gimelshein, 2018, as in FlashAttention): memory does not grow with the number of
// keys. The result for a query has the same bits whatever pos and nq it is computed
// with and however kv is cut. Packing a block of keys is shared by all queries of the
// call: 64 rows (nq*Heads) or more make it negligible.
//
// A NaN or Inf in the value of a masked position of the same 128-key block makes the
// result NaN, as it does where 0 multiplies it.
func (a Attention) Run(dst []float32, ldd int, q []float32, ldq, nq, pos int, kv []KV) {
	a.check(len(dst), ldd, len(q), ldq, nq, pos, kv)
	if nq == 0 {
		return
	}
	s := attnPool.Get().(*attnScratch)
	defer attnPool.Put(s)
	rows := nq * a.Heads
	s.reset(rows, a.HeadDim)
	for t := range nq {
		if a.BF16 {
			s.packQueriesBF16(q[t*ldq:], t*a.Heads, a.Heads, a.HeadDim)
			continue
		}
		for h := range a.Heads {
			copy(s.q[(t*a.Heads+h)*param.XStride:], q[t*ldq+h*a.HeadDim:][:a.HeadDim])
		}
	}
	first := 0
	if a.Window > 0 {
		first = max(0, pos-a.Window+1) / attnKeys * attnKeys
	}
	for k0 := first; k0 < pos+nq; k0 += attnKeys {
		n := min(attnKeys, pos+nq-k0)
		if a.BF16 {
			s.packBlockBF16(kv, k0, n, a.HeadDim)
		} else {
			s.packBlock(kv, k0, n, a.HeadDim)
		}
		// Rows whose position is before the block see none of it.
		r0 := max(0, k0-pos) * a.Heads
		mr := tileRows()
		tiles := (rows - r0 + mr - 1) / mr
		for t := range tiles {
			a.tile(s, r0+t*(rows-r0)/tiles, r0+(t+1)*(rows-r0)/tiles, k0, n, pos)
		}
	}
	width := padded(a.HeadDim)
	for r := range rows {
		// Multiplied onto 0, a -0 becomes positive: its sign depends on how many masked
		// keys were added.
		to := dst[r/a.Heads*ldd+r%a.Heads*a.HeadDim:][:a.HeadDim]
		clear(to)
		AXPY(1/s.l[r], s.o[r*width:][:a.HeadDim], to)
	}
}

// tile adds the keys k0..k0+n to the running softmax of rows r0..r1.
func (a Attention) tile(s *attnScratch, r0, r1, k0, n, pos int) {
	// Keys after the last row's position are left out, rounded up to whole vectors.
	n = min(n, pos+(r1-1)/a.Heads+1-k0)
	if a.BF16 {
		s.scoresBF16(r0, r1, n, a.HeadDim)
	} else {
		s.scores(r0, r1, n, a.HeadDim)
	}
	vecs := (n + 15) / 16
	scale := a.Scale
	if a.SoftCap > 0 {
		for r := range r1 - r0 {
			row := s.p[r*param.XStride:][:n]
			Scale(row, scale)
			SoftCap(row, a.SoftCap)
		}
		scale = 1
	}
	for r := r0; r < r1; r++ {
		at := pos + r/a.Heads
		row := s.p[(r-r0)*param.XStride:][:vecs*16]
		if end := at + 1 - k0; end < len(row) {
			fill(row[end:], negInf)
		}
		if start := at - a.Window + 1 - k0; a.Window > 0 && start > 0 {
			fill(row[:min(start, len(row))], negInf)
		}
	}
	softmaxStep(s.p, vecs, scale, s.m[r0:r1], s.l[r0:r1], s.corr[:r1-r0])
	width := padded(a.HeadDim)
	for r, c := range s.corr[:r1-r0] {
		if c != 1 {
			Scale(s.o[(r0+r)*width:][:width], c)
		}
	}
	if a.BF16 {
		s.addValuesBF16(r0, r1, vecs*16, a.HeadDim)
	} else {
		s.addValues(r0, r1, vecs*16, a.HeadDim)
	}
}

// scores multiplies the queries of rows r0..r1 by the block's first n keys.
func (s *attnScratch) scores(r0, r1, n, dim int) {
	for p := 0; p < n; p += param.NR {
		k := s.k[p/param.NR*dim*param.NR:]
		tileF32(s.p[p:], param.XStride, nil, 0, s.q[r0*param.XStride:], k, k, dim, r1-r0)
	}
}

// addValues adds the block's first n values, times the softmax's terms, to the results
// of rows r0..r1.
func (s *attnScratch) addValues(r0, r1, n, dim int) {
	width := padded(dim)
	for c := 0; c < width; c += param.NR {
		o, v := s.o[r0*width+c:], s.v[c*attnKeys:]
		tileF32(o, width, o, width, s.p, v, v, n, r1-r0)
	}
}

var negInf = float32(math.Inf(-1))

func fill(x []float32, v float32) {
	for i := range x {
		x[i] = v
	}
}

// padded is a head's width in whole panels.
func padded(dim int) int { return panels(dim) * param.NR }

// softmaxStepTwin takes a block of scores into the running softmax of each row: with m
// the greatest scaled score so far and l the sum of exponentials, it replaces the
// row's vecs*16 scores by exp(scale*score-m'), m by the new maximum m', l by
// l*corr + their sum, and sets corr = exp(m-m'), by which earlier results must be
// multiplied.
func softmaxStepTwin(p []float32, vecs int, scale float32, m, l, corr []float32) {
	for r := range m {
		row := p[r*param.XStride:][:vecs*16]
		top := m[r]
		for i, v := range row {
			row[i] = v * scale
			if row[i] > top {
				top = row[i]
			}
		}
		var acc lanes
		for i, v := range row {
			row[i] = exp32(v - top)
			acc[i%16] += row[i]
		}
		corr[r] = exp32(m[r] - top)
		l[r] = float32(l[r]*corr[r]) + acc.sum()
		m[r] = top
	}
}

func (a Attention) check(dst, ldd, q, ldq, nq, pos int, kv []KV) {
	d, row, n := a.HeadDim, a.HeadDim*a.Heads, 0
	ok := d >= 1 && d <= param.KC && a.Heads >= 1 && nq >= 0 && pos >= 0
	for _, run := range kv {
		n += run.N
		ok = ok && run.N >= 0 && (run.N == 0 || run.LdK >= d && run.LdV >= d &&
			len(run.K) >= (run.N-1)*run.LdK+d && len(run.V) >= (run.N-1)*run.LdV+d)
	}
	ok = ok && n >= pos+nq && (nq == 0 || ldd >= row && ldq >= row && dst >= (nq-1)*ldd+row && q >= (nq-1)*ldq+row)
	if !ok {
		panic(fmt.Sprintf("kernel: Attention.Run: %+v, %d queries from position %d, %d keys: dst has %d (row distance %d), q has %d (row distance %d), or a run of keys is short",
			a, nq, pos, n, dst, ldd, q, ldq))
	}
}
