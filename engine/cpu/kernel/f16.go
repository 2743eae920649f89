package kernel

import "github.com/coppice-lm/coppice/engine/cpu/kernel/internal/param"

// F16 holds the weights W (Out x In) of a linear layer as IEEE half-precision bits,
// packed like F32. It takes 2*In*32*Panels() bytes. Activations and sums are float32:
// a product has the bits that F32 gives for the widened weights.
type F16 struct {
	Out, In int
	data    []uint16
}

// NewF16 returns packed weights of zeros in m, to be filled by Pack.
func NewF16(m *Memory, out, in int) (*F16, error) {
	if err := checkWeights("f16", out, in); err != nil {
		return nil, err
	}
	return &F16{Out: out, In: in, data: take[uint16](m, panels(out)*in*param.NR)}, nil
}

// PackF16 packs the out x in weights that row delivers as half-precision bits; see
// PackF32.
func PackF16(out, in int, row func(o int, dst []uint16) error) (*F16, error) {
	w, err := NewF16(nil, out, in)
	if err != nil {
		return nil, err
	}
	return w, w.Pack(0, w.Panels(), row)
}

// Pack fills panels p0..p1 as PackF16 does. Threads may fill different panels at the
// same time if row allows it.
func (w *F16) Pack(p0, p1 int, row func(o int, dst []uint16) error) error {
	buf := make([]uint16, w.In)
	for o := p0 * param.NR; o < min(p1*param.NR, w.Out); o++ {
		if err := row(o, buf); err != nil {
			return err
		}
		panel := w.data[(o/param.NR)*w.In*param.NR+o%param.NR:]
		for i, v := range buf {
			panel[i*param.NR] = v
		}
	}
	return nil
}

// Panels is the number of panels, ceil(Out/32).
func (w *F16) Panels() int { return panels(w.Out) }

// Row widens row o of W to dst, which has In elements.
func (w *F16) Row(o int, dst []float32) {
	src := w.data[(o/param.NR)*w.In*param.NR+o%param.NR:]
	for i := range dst[:w.In] {
		dst[i] = widenF16(src[i*param.NR])
	}
}

// Mul computes dst[t*ldd+o] = sum over i of x[t*ldx+i]*W[o,i] for t < rows and the
// columns o of panels p0..p1. Other columns of dst are not touched.
func (w *F16) Mul(dst []float32, ldd int, x []float32, ldx int, rows, p0, p1 int) {
	checkProduct("F16", len(dst), ldd, len(x), ldx, w.Out, w.In, rows, p0, p1)
	if rows == 0 || w.mulFew(dst, ldd, x, ldx, rows, p0, p1) {
		return
	}
	m := product[float32, uint16]{
		out: w.Out, k: w.In, steps: param.KC, rows: rows, mr: tileRows(),
		pack: func(buf []float32, r, k0, k1 int) { copy(buf, x[r*ldx+k0:r*ldx+k1]) },
		panel: func(p, k0, k1 int) []uint16 {
			return w.data[(p*w.In+k0)*param.NR : (p*w.In+k1)*param.NR]
		},
		tile: tileF16,
	}
	m.run(dst, ldd, p0, p1)
}

// tileF16Twin is product.tile for half-precision weights in plain Go.
func tileF16Twin(dst []float32, ldd int, from []float32, ldf int, x []float32, w []uint16, k, rows int) {
	wide := make([]float32, k*param.NR)
	WidenF16(wide, w[:k*param.NR])
	tileF32Twin(dst, ldd, from, ldf, x, wide, k, rows)
}
