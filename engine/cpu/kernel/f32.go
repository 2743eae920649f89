package kernel

import "github.com/coppice-lm/coppice/engine/cpu/kernel/internal/tile"

// F32 holds the weights W (Out x In) of a linear layer in float32, packed for
// products: panels of 32 rows of W, in each panel In steps of 32 values, one a row of
// W. The last panel is filled up with zeros. It takes 4*In*32*Panels() bytes.
type F32 struct {
	Out, In int
	data    []float32
}

// NewF32 returns packed weights of zeros, to be filled by Pack.
func NewF32(out, in int) (*F32, error) {
	if err := checkWeights("f32", out, in); err != nil {
		return nil, err
	}
	return &F32{Out: out, In: in, data: make([]float32, panels(out)*in*tile.NR)}, nil
}

// PackF32 packs the out x in weights that row delivers: row(o, dst) writes row o to
// dst, which has in elements. Rows are asked for in ascending order; only one is held
// beside the packed weights.
func PackF32(out, in int, row func(o int, dst []float32) error) (*F32, error) {
	w, err := NewF32(out, in)
	if err != nil {
		return nil, err
	}
	return w, w.Pack(0, w.Panels(), row)
}

// Pack fills panels p0..p1 as PackF32 does. Threads may fill different panels at the
// same time if row allows it.
func (w *F32) Pack(p0, p1 int, row func(o int, dst []float32) error) error {
	buf := make([]float32, w.In)
	for o := p0 * tile.NR; o < min(p1*tile.NR, w.Out); o++ {
		if err := row(o, buf); err != nil {
			return err
		}
		scatter(w.data[(o/tile.NR)*w.In*tile.NR+o%tile.NR:], buf)
	}
	return nil
}

// scatter writes src to every NR-th element of dst.
func scatter[E any](dst, src []E) {
	for i, v := range src {
		dst[i*tile.NR] = v
	}
}

// Panels is the number of panels, ceil(Out/32).
func (w *F32) Panels() int { return panels(w.Out) }

// Row copies row o of W to dst, which has In elements: an embedding look-up where the
// embedding is also the output layer.
func (w *F32) Row(o int, dst []float32) {
	src := w.data[(o/tile.NR)*w.In*tile.NR+o%tile.NR:]
	for i := range dst[:w.In] {
		dst[i] = src[i*tile.NR]
	}
}

// Mul computes dst[t*ldd+o] = sum over i of x[t*ldx+i]*W[o,i] for t < rows and the
// columns o of panels p0..p1. Other columns of dst are not touched.
func (w *F32) Mul(dst []float32, ldd int, x []float32, ldx int, rows, p0, p1 int) {
	checkProduct("F32", len(dst), ldd, len(x), ldx, w.Out, w.In, rows, p0, p1)
	m := product[float32]{
		out: w.Out, k: w.In, rows: rows, mr: tileRows(),
		pack: func(buf []float32, r, k0, k1 int) { copy(buf, x[r*ldx+k0:r*ldx+k1]) },
		panel: func(_ []float32, p, k0, k1 int) []float32 {
			return w.data[(p*w.In+k0)*tile.NR : (p*w.In+k1)*tile.NR]
		},
		tile: tileF32,
	}
	m.run(dst, ldd, p0, p1)
}

// tileF32Twin is product.tile for float32 in plain Go.
func tileF32Twin(c []float32, ldc int, x, w []float32, k, rows int, load bool) {
	for r := range rows {
		row := c[r*ldc:][:tile.NR]
		if !load {
			clear(row)
		}
		for i, v := range x[r*tile.XStride:][:k] {
			for j, b := range w[i*tile.NR:][:tile.NR] {
				row[j] = fma32(v, b, row[j])
			}
		}
	}
}
