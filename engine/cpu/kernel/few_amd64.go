package kernel

import "github.com/coppice-lm/coppice/engine/cpu/kernel/internal/param"

// fewRows is the greatest number of rows that the kernels for decoding take.
func fewRows() int {
	switch {
	case active >= AVX512:
		return param.Few512
	case active == AVX2:
		return param.Few256
	}
	return 0
}

// mulFew is Mul for few rows: each panel is read once, in one stream, and nothing is
// packed. It does nothing and returns false if there are too many rows.
func (w *F32) mulFew(dst []float32, ldd int, x []float32, ldx, rows, p0, p1 int) bool {
	if rows > fewRows() {
		return false
	}
	f := fewF32AVX2
	if active >= AVX512 {
		f = fewF32AVX512
	}
	eachPanel(dst, ldd, w.Out, rows, p0, p1, func(p int, dst *float32, ldd int) {
		f(dst, ldd, &x[0], ldx, &w.data[p*w.In*param.NR], w.In, rows)
	})
	return true
}

// mulFew is as that of F32; the kernel widens weights in registers.
func (w *F16) mulFew(dst []float32, ldd int, x []float32, ldx, rows, p0, p1 int) bool {
	if rows > fewRows() {
		return false
	}
	f := fewF16AVX2
	if active >= AVX512 {
		f = fewF16AVX512
	}
	eachPanel(dst, ldd, w.Out, rows, p0, p1, func(p int, dst *float32, ldd int) {
		f(dst, ldd, &x[0], ldx, &w.data[p*w.In*param.NR], w.In, rows)
	})
	return true
}

// mulFew is as that of F32. Activations are copied as pairs, or widened and swapped
// where the CPU has no product of pairs.
func (w *BF16) mulFew(dst []float32, ldd int, x []uint16, ldx, rows, p0, p1 int) bool {
	if rows > fewRows() {
		return false
	}
	s := scratchPool.Get().(*scratch)
	defer scratchPool.Put(s)
	k := pairs(w.In)
	if active >= AVX512BF16 {
		buf := dwords[uint32](&s.x, rows*k)
		for r := range rows {
			pairUp(buf[r*k:][:k], x[r*ldx:][:w.In])
		}
		eachPanel(dst, ldd, w.Out, rows, p0, p1, func(p int, dst *float32, ldd int) {
			fewBF16AVX512(dst, ldd, &buf[0], k, &w.data[p*k*param.NR], k, rows)
		})
		return true
	}
	f := fewPairsAVX2
	if active >= AVX512 {
		f = fewPairsAVX512
	}
	buf := dwords[float32](&s.x, rows*2*k)
	for r := range rows {
		widenSwapped(buf[r*2*k:][:2*k], x[r*ldx:][:w.In])
	}
	eachPanel(dst, ldd, w.Out, rows, p0, p1, func(p int, dst *float32, ldd int) {
		f(dst, ldd, &buf[0], 2*k, &w.data[p*k*param.NR], k, rows)
	})
	return true
}

// eachPanel calls f with the place of each panel's results. A last panel that is not
// full has its place beside dst.
func eachPanel(dst []float32, ldd, out, rows, p0, p1 int, f func(p int, dst *float32, ldd int)) {
	for p := p0; p < p1; p++ {
		at := p * param.NR
		if at+param.NR <= out {
			f(p, &dst[at], ldd)
			continue
		}
		tmp := new([param.Few512 * param.NR]float32)
		f(p, &tmp[0], param.NR)
		for r := range rows {
			copy(dst[r*ldd+at:r*ldd+out], tmp[r*param.NR:])
		}
	}
}
