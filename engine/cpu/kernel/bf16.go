package kernel

import "github.com/coppice-lm/coppice/engine/cpu/kernel/internal/param"

// BF16 holds the weights W (Out x In) of a linear layer in bfloat16, packed like F32
// with two successive inner elements in each step, the even one in the low half. An
// odd In is filled up with a zero. It takes 2*In*32*Panels() bytes.
type BF16 struct {
	Out, In int
	data    []uint32
}

// NewBF16 returns packed weights of zeros in m, to be filled by Pack.
func NewBF16(m *Memory, out, in int) (*BF16, error) {
	if err := checkWeights("bf16", out, in); err != nil {
		return nil, err
	}
	return &BF16{Out: out, In: in, data: take[uint32](m, panels(out)*pairs(in)*param.NR)}, nil
}

// PackBF16 packs the out x in weights that row delivers in float32, rounding each to
// the nearest bfloat16, ties to even; see PackF32.
func PackBF16(out, in int, row func(o int, dst []float32) error) (*BF16, error) {
	w, err := NewBF16(nil, out, in)
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
	kw := pairs(w.In)
	panel := func(p, k0, k1 int) []uint32 {
		return w.data[(p*kw+k0)*param.NR : (p*kw+k1)*param.NR]
	}
	if splits() {
		m := product[float32, uint32]{
			out: w.Out, k: kw, steps: param.XHalf, rows: rows, mr: tileRows(), panel: panel, tile: tilePairs,
			pack: func(buf []float32, r, k0, k1 int) { splitPairs(buf, x[r*ldx+2*k0:r*ldx+min(2*k1, w.In)]) },
		}
		m.run(dst, ldd, p0, p1)
		return
	}
	m := product[uint32, uint32]{
		out: w.Out, k: kw, steps: param.KC, rows: rows, mr: tileRows(), panel: panel, tile: tileBF16,
		pack: func(buf []uint32, r, k0, k1 int) { pairUp(buf, x[r*ldx+2*k0:r*ldx+min(2*k1, w.In)]) },
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

// splitPairs widens a row of bfloat16 to the row of packed activations that tilePairs
// takes: the odd elements, and from XHalf on the even ones. After an odd last one there
// is a zero.
func splitPairs(dst []float32, src []uint16) {
	n := len(src) / 2
	for i := splitPairsAsm(dst, src); i < n; i++ {
		dst[i], dst[param.XHalf+i] = widenBF16(src[2*i+1]), widenBF16(src[2*i])
	}
	if len(src)%2 == 1 {
		dst[n], dst[param.XHalf+n] = 0, widenBF16(src[2*n])
	}
}

// widenSwapped widens elements of src to dst, an even number, and swaps each pair. Past
// the end of src there are zeros.
func widenSwapped(dst []float32, src []uint16) {
	for i := 0; i < len(dst); i += 2 {
		dst[i] = 0
		if i+1 < len(src) {
			dst[i] = widenBF16(src[i+1])
		}
		dst[i+1] = widenBF16(src[i])
	}
}
