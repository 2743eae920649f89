package kernel

import "github.com/coppice-lm/coppice/engine/cpu/kernel/internal/param"

// BF16 holds the weights W (Out x In) of a linear layer in bfloat16, packed like F32
// with two successive inner elements in each step, the even one in the low half. An
// odd In is filled up with a zero. It takes 2*In*32*Panels() bytes.
type BF16 struct {
	Out, In int
	data    []uint32
}

// NewBF16 returns packed weights of zeros, to be filled by Pack.
func NewBF16(out, in int) (*BF16, error) {
	if err := checkWeights("bf16", out, in); err != nil {
		return nil, err
	}
	return &BF16{Out: out, In: in, data: make([]uint32, panels(out)*pairs(in)*param.NR)}, nil
}

// PackBF16 packs the out x in weights that row delivers in float32, rounding each to
// the nearest bfloat16, ties to even; see PackF32.
func PackBF16(out, in int, row func(o int, dst []float32) error) (*BF16, error) {
	w, err := NewBF16(out, in)
	if err != nil {
		return nil, err
	}
	return w, w.Pack(0, w.Panels(), row)
}

// Pack fills panels p0..p1 as PackBF16 does. Threads may fill different panels at the
// same time if row allows it.
func (w *BF16) Pack(p0, p1 int, row func(o int, dst []float32) error) error {
	buf, half := make([]float32, w.In), make([]uint16, w.In)
	return packPanels(w.data, w.Out, pairs(w.In), p0, p1, func(o int, dst []uint32) error {
		if err := row(o, buf); err != nil {
			return err
		}
		RoundBF16(half, buf)
		pairUp(dst, half)
		return nil
	})
}

// pairs is the number of 32-bit steps of n bfloat16.
func pairs(n int) int { return (n + 1) / 2 }

// pairUp joins successive bfloat16 in dst; an odd last one is joined with zero.
func pairUp(dst []uint32, src []uint16) {
	for i := pairUpAsm(dst, src); i < len(src)/2; i++ {
		dst[i] = uint32(src[2*i]) | uint32(src[2*i+1])<<16
	}
	if n := len(src); n%2 == 1 {
		dst[n/2] = uint32(src[n-1])
	}
}

// Panels is the number of panels, ceil(Out/32).
func (w *BF16) Panels() int { return panels(w.Out) }

// Row widens row o of W to dst, which has In elements.
func (w *BF16) Row(o int, dst []float32) {
	src := w.data[(o/param.NR)*pairs(w.In)*param.NR+o%param.NR:]
	for i := range dst[:w.In] {
		dst[i] = widenBF16(uint16(src[i/2*param.NR] >> (i % 2 * 16)))
	}
}

// Mul computes dst[t*ldd+o] = sum over i of x[t*ldx+i]*W[o,i] for t < rows and the
// columns o of panels p0..p1, with activations that RoundBF16 rounded. Products are
// summed in float32, of each pair the odd element first, as the instruction VDPBF16PS
// does it. Other columns of dst are not touched.
func (w *BF16) Mul(dst []float32, ldd int, x []uint16, ldx int, rows, p0, p1 int) {
	checkProduct("BF16", len(dst), ldd, len(x), ldx, w.Out, w.In, rows, p0, p1)
	if rows == 0 || w.mulFew(dst, ldd, x, ldx, rows, p0, p1) {
		return
	}
	if active < AVX512BF16 {
		w.mulWide(dst, ldd, x, ldx, rows, p0, p1)
		return
	}
	kw := pairs(w.In)
	m := product[uint32]{
		out: w.Out, k: kw, rows: rows, mr: tileRows(),
		pack: func(buf []uint32, r, k0, k1 int) {
			pairUp(buf, x[r*ldx+2*k0:r*ldx+min(2*k1, w.In)])
		},
		panel: func(_ []uint32, p, k0, k1 int) []uint32 {
			return w.data[(p*kw+k0)*param.NR : (p*kw+k1)*param.NR]
		},
		tile: tileBF16,
	}
	m.run(dst, ldd, p0, p1)
}

// tileBF16Twin is product.tile for pairs of bfloat16 in plain Go.
func tileBF16Twin(dst []float32, ldd int, from []float32, ldf int, x, w []uint32, k, rows int) {
	for r := range rows {
		row := startRow(dst[r*ldd:], from, r*ldf)
		for i, v := range x[r*param.XStride:][:k] {
			odd, even := widenBF16(uint16(v>>16)), widenBF16(uint16(v))
			for j, b := range w[i*param.NR:][:param.NR] {
				sum := fma32(odd, widenBF16(uint16(b>>16)), row[j])
				row[j] = fma32(even, widenBF16(uint16(b)), sum)
			}
		}
	}
}

// mulWide is Mul where the CPU has no bfloat16 product: both sides are widened to
// float32, a cache block at a time, with each pair swapped.
func (w *BF16) mulWide(dst []float32, ldd int, x []uint16, ldx int, rows, p0, p1 int) {
	kw := pairs(w.In)
	m := product[float32]{
		out: w.Out, k: 2 * kw, rows: rows, mr: tileRows(),
		pack:    func(buf []float32, r, k0, k1 int) { widenSwapped(buf, x[r*ldx:][:w.In], k0) },
		unpacks: true,
		panel: func(scratch []float32, p, k0, k1 int) []float32 {
			dst := scratch[:(k1-k0)*param.NR]
			widenPairs(dst, w.data[(p*kw+k0/2)*param.NR:(p*kw+k1/2)*param.NR])
			return dst
		},
		tile: tileF32,
	}
	m.run(dst, ldd, p0, p1)
}

// widenSwapped widens elements k0.. of src to dst, both even in number, and swaps each
// pair. Past the end of src there are zeros.
func widenSwapped(dst []float32, src []uint16, k0 int) {
	for i := 0; i < len(dst); i += 2 {
		dst[i] = 0
		if k0+i+1 < len(src) {
			dst[i] = widenBF16(src[k0+i+1])
		}
		dst[i+1] = widenBF16(src[k0+i])
	}
}

// widenPairsTwin widens steps of NR pairs to two steps of NR float32 each, the odd
// elements first.
func widenPairsTwin(dst []float32, src []uint32) {
	for i := 0; i < len(src); i += param.NR {
		odd, even := dst[2*i:][:param.NR], dst[2*i+param.NR:][:param.NR]
		for j, v := range src[i:][:param.NR] {
			odd[j] = widenBF16(uint16(v >> 16))
			even[j] = widenBF16(uint16(v))
		}
	}
}
