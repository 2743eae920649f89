package kernel

import (
	"fmt"

	"github.com/coppice-lm/coppice/engine/cpu/kernel/internal/param"
)

// F32 holds the weights W (Out x In) of a linear layer in float32, packed for
// products: panels of 32 rows of W, in each panel In steps of 32 values, one a row of
// W. The last panel is filled up with zeros. It takes 4*In*32*Panels() bytes.
type F32 struct {
	Out, In int
	data    []float32
}

// NewF32 returns packed weights of zeros in m, to be filled by Pack.
func NewF32(m *Memory, out, in int) (*F32, error) {
	if err := checkWeights("f32", out, in); err != nil {
		return nil, err
	}
	return &F32{Out: out, In: in, data: take[float32](m, panels(out)*in*param.NR)}, nil
}

// PackF32 packs the out x in weights that row delivers: row(o, dst) writes row o to
// dst, which has in elements. Rows are asked for in ascending order; 16 are held beside
// the packed weights.
func PackF32(out, in int, row func(o int, dst []float32) error) (*F32, error) {
	w, err := NewF32(nil, out, in)
	if err != nil {
		return nil, err
	}
	return w, w.Pack(0, w.Panels(), row)
}

// Pack fills panels p0..p1 as PackF32 does. Threads may fill different panels at the
// same time if row allows it.
func (w *F32) Pack(p0, p1 int, row func(o int, dst []float32) error) error {
	return packPanels(w.data, w.Out, w.In, p0, p1, row)
}

// PackTransposed makes w the out x in weights of which src is the transpose: in rows of out values, ld
// elements apart. It keeps the memory of w, which may be the zero value, where that is large enough.
func (w *F32) PackTransposed(out, in int, src []float32, ld int) {
	if out < 1 || in < 1 || ld < out || len(src) < (in-1)*ld+out {
		panic(fmt.Sprintf("kernel: F32.PackTransposed of %d x %d from %d values, %d apart", out, in, len(src), ld))
	}
	w.Out, w.In, w.data = out, in, growTo(w.data, panels(out)*in*param.NR)
	for p := range panels(out) {
		packRows(w.data[p*in*param.NR:], src[p*param.NR:], ld, in, min(param.NR, out-p*param.NR))
	}
}

// packRows copies the first cols of NR elements of n rows, ld elements apart, to dst, one row after the other; the rest is zero.
func packRows(dst, src []float32, ld, n, cols int) {
	if cols == param.NR && copyRowsAsm(dst, src, ld, n) {
		return
	}
	for i := range n {
		to := dst[i*param.NR:][:param.NR]
		clear(to[copy(to, src[i*ld:][:cols]):])
	}
}

// packPanels fills panels p0..p1 with rows of k dwords, 16 rows at a time.
func packPanels[E dword](data []E, out, k, p0, p1 int, row func(o int, dst []E) error) error {
	const group = 16
	s := scratchPool.Get().(*scratch)
	defer scratchPool.Put(s)
	buf := dwords[E](&s.x, group*k)
	for o := p0 * param.NR; o < min(p1*param.NR, out); o += group {
		n := min(group, out-o)
		for j := range n {
			if err := row(o+j, buf[j*k:][:k]); err != nil {
				return err
			}
		}
		clear(buf[n*k:])
		transpose(floats(data[o/param.NR*param.NR*k+o%param.NR:]), floats(buf), k, k)
	}
	return nil
}

// transpose writes element e of 16 rows, ld elements apart, to dst[e*NR:], for e < n.
func transpose(dst, src []float32, ld, n int) {
	d := transposeAsm(dst, src, ld, n)
	for j := range 16 {
		for e, v := range src[j*ld:][:n][d:] {
			dst[(d+e)*param.NR+j] = v
		}
	}
}

// Panels is the number of panels, ceil(Out/32).
func (w *F32) Panels() int { return panels(w.Out) }

// Row copies row o of W to dst, which has In elements: an embedding look-up where the
// embedding is also the output layer.
func (w *F32) Row(o int, dst []float32) {
	src := w.data[(o/param.NR)*w.In*param.NR+o%param.NR:]
	for i := range dst[:w.In] {
		dst[i] = src[i*param.NR]
	}
}

// Mul computes dst[t*ldd+o] = sum over i of x[t*ldx+i]*W[o,i] for t < rows and the
// columns o of panels p0..p1. Other columns of dst are not touched.
func (w *F32) Mul(dst []float32, ldd int, x []float32, ldx int, rows, p0, p1 int) {
	checkProduct("F32", len(dst), ldd, len(x), ldx, w.Out, w.In, rows, p0, p1)
	if rows == 0 || w.mulFew(dst, ldd, x, ldx, rows, p0, p1) {
		return
	}
	m := product[float32, float32]{
		out: w.Out, k: w.In, steps: param.KC, rows: rows, mr: tileRows(),
		pack: func(buf []float32, r, k0, k1 int) { copy(buf, x[r*ldx+k0:r*ldx+k1]) },
		panel: func(p, k0, k1 int) []float32 {
			return w.data[(p*w.In+k0)*param.NR : (p*w.In+k1)*param.NR]
		},
		tile: tileF32,
	}
	m.run(dst, ldd, p0, p1)
}

// tileF32Twin is product.tile for float32 in plain Go.
func tileF32Twin(dst []float32, ldd int, from []float32, ldf int, x, w []float32, k, rows int) {
	for r := range rows {
		row := startRow(dst[r*ldd:], from, r*ldf)
		for i, v := range x[r*param.XStride:][:k] {
			wide := float64(v)
			for j, b := range w[i*param.NR:][:param.NR] {
				// fma32, which is too long to be inlined.
				s := wide*float64(b) + float64(row[j])
				if undecided(s) {
					row[j] = fmaSlow(v, b, row[j])
					continue
				}
				row[j] = float32(s)
			}
		}
	}
}

// startRow fills a tile's row of dst with what its sums start from.
func startRow(dst, from []float32, at int) []float32 {
	row := dst[:param.NR]
	if from == nil {
		clear(row)
	} else {
		copy(row, from[at:])
	}
	return row
}
