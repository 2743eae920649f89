package kernel

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/engine/cpu/kernel/internal/param"
)

// Each tile height of each level against the twin, with and without a start value.
func TestTilesEqualTwins(t *testing.T) {
	r := newRand(7)
	x, w := normals(r, param.MR512*param.XStride), normals(r, param.KC*param.NR)
	xb, wb := make([]uint32, len(x)), make([]uint32, len(w))
	for i := range xb {
		xb[i] = uint32(roundBF16(x[i])) | uint32(roundBF16(x[len(x)-1-i]))<<16
	}
	for i := range wb {
		wb[i] = uint32(roundBF16(w[i])) | uint32(roundBF16(w[len(w)-1-i]))<<16
	}
	wh := make([]uint16, len(w))
	for i := range wh {
		wh[i] = ordinaryHalf(w[i])
	}
	const ldd, ldf = 40, 35
	start := normals(r, param.MR512*ldf)
	for _, k := range []int{1, 2, 3, 4, 5, 17, param.XHalf, param.KC} {
		for rows := 1; rows <= param.MR512; rows++ {
			for _, from := range [][]float32{nil, start} {
				want := normals(newRand(8), rows*ldd)
				wantB, wantH := slices.Clone(want), slices.Clone(want)
				tileF32Twin(want, ldd, from, ldf, x, w, k, rows)
				tileBF16Twin(wantB, ldd, from, ldf, xb, wb, k, rows)
				tileF16Twin(wantH, ldd, from, ldf, x, wh, k, rows)
				atLevels(t, func(t *testing.T) {
					if rows > tileRows() {
						return
					}
					what := fmt.Sprintf("%d rows, %d steps, start %v", rows, k, from != nil)
					got := normals(newRand(8), rows*ldd)
					tileF32(got, ldd, from, ldf, x, w, w, k, rows)
					sameBits(t, "f32 "+what, got, want)
					got = normals(newRand(8), rows*ldd)
					tileF16(got, ldd, from, ldf, x, wh, wh, k, rows)
					sameBits(t, "f16 "+what, got, wantH)
					if splits() && k > param.XHalf {
						return
					}
					got = normals(newRand(8), rows*ldd)
					tileBF16(got, ldd, from, ldf, xb, wb, wb, k, rows)
					sameBits(t, "bf16 "+what, got, wantB)
				})
			}
		}
	}
}

// ordinaryHalf is some half-precision number of the order of 1.
func ordinaryHalf(v float32) uint16 { return uint16(math.Float32bits(v)>>16)&0x8fff | 0x3000 }

// multiplier is a product with packed weights of some type, ready to be called.
type multiplier struct {
	name    string
	in, out int
	panels  int
	// mul multiplies rows r0..r1 of the activations.
	mul func(dst []float32, r0, r1, p0, p1 int)
}

// multipliers packs the same weights in each type, for rows rows of activations.
func multipliers(seed uint64, rows, in, out int) []multiplier {
	r := newRand(seed)
	x, w := normals(r, rows*in), normals(r, out*in)
	xb := make([]uint16, len(x))
	RoundBF16(xb, x)
	f32 := must(PackF32(out, in, rowsOf(w, in)))
	bf16 := must(PackBF16(out, in, rowsOf(w, in)))
	f16 := must(PackF16(out, in, func(o int, dst []uint16) error {
		for i := range dst {
			dst[i] = ordinaryHalf(w[o*in+i])
		}
		return nil
	}))
	return []multiplier{
		{"f32", in, out, f32.Panels(), func(dst []float32, r0, r1, p0, p1 int) {
			f32.Mul(dst[r0*out:], out, x[r0*in:], in, r1-r0, p0, p1)
		}},
		{"bf16", in, out, bf16.Panels(), func(dst []float32, r0, r1, p0, p1 int) {
			bf16.Mul(dst[r0*out:], out, xb[r0*in:], in, r1-r0, p0, p1)
		}},
		{"f16", in, out, f16.Panels(), func(dst []float32, r0, r1, p0, p1 int) {
			f16.Mul(dst[r0*out:], out, x[r0*in:], in, r1-r0, p0, p1)
		}},
	}
}

// The bits of a product are the same at every level, for every number of rows in the
// call and every cut into panels.
func TestMulSameBits(t *testing.T) {
	const rows = 40
	for _, c := range []struct{ in, out int }{{1, 1}, {5, 32}, {64, 31}, {321, 97}, {650, 40}} {
		for _, m := range multipliers(11, rows, c.in, c.out) {
			setLevel(t, Generic)
			want := make([]float32, rows*c.out)
			m.mul(want, 0, rows, 0, m.panels)
			atLevels(t, func(t *testing.T) {
				if active == Generic && c.in > 64 {
					return // slow, and the same code for each row
				}
				what := fmt.Sprintf("%s %d x %d", m.name, c.in, c.out)
				for n := 1; n <= rows; n++ {
					got := make([]float32, rows*c.out)
					for r := 0; r < rows; r += n {
						m.mul(got, r, min(r+n, rows), 0, m.panels)
					}
					sameBits(t, fmt.Sprintf("%s, %d rows a call", what, n), got, want)
				}
				got := make([]float32, rows*c.out)
				for p := range m.panels {
					m.mul(got, 0, rows, p, p+1)
				}
				sameBits(t, what+", one panel a call", got, want)
			})
		}
	}
}

// Enough rows and columns for several passes and groups, against rows taken alone.
func TestMulLargeSameBits(t *testing.T) {
	if supported() == Generic {
		t.Skip("NOT CHECKED: products of more rows than a pass takes are too slow in plain Go")
	}
	setLevel(t, supported())
	const rows, in, out = maxRows + 30, 330, 32*maxGroup + 50
	for _, m := range multipliers(12, rows, in, out) {
		want, got := make([]float32, rows*out), make([]float32, rows*out)
		m.mul(got, 0, rows, 0, m.panels)
		for r := range rows {
			m.mul(want, r, r+1, 0, m.panels)
		}
		sameBits(t, m.name, got, want)
	}
}

// NaN and infinities stay in the rows and columns that hold them.
func TestMulNonFinite(t *testing.T) {
	const rows, in, out = 15, 70, 40
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	w := make([]float32, out*in)
	for i := range w {
		w[i] = 1
	}
	w[3*in+2] = nan
	w[5*in+9] = inf
	x := make([]float32, rows*in)
	for i := range x {
		x[i] = 1
	}
	x[7*in+1] = nan
	p := must(PackF32(out, in, rowsOf(w, in)))
	b := must(PackBF16(out, in, rowsOf(w, in)))
	xb := make([]uint16, len(x))
	RoundBF16(xb, x)
	want := make([]float32, rows*out)
	for i := range want {
		switch r, o := i/out, i%out; {
		case r == 7 || o == 3:
			want[i] = nan
		case o == 5:
			want[i] = inf
		default:
			want[i] = in
		}
	}
	atLevels(t, func(t *testing.T) {
		got := make([]float32, rows*out)
		p.Mul(got, out, x, in, rows, 0, p.Panels())
		sameBits(t, "f32", got, want)
		b.Mul(got, out, xb, in, rows, 0, b.Panels())
		sameBits(t, "bf16", got, want)
	})
}

func TestMulLeavesOtherColumns(t *testing.T) {
	const rows, in, out, ldd, ldx = 17, 9, 70, 80, 11
	r := newRand(13)
	w := must(PackF32(out, in, rowsOf(normals(r, out*in), in)))
	x := normals(r, rows*ldx)
	atLevels(t, func(t *testing.T) {
		dst := make([]float32, rows*ldd)
		fill(dst, 7)
		w.Mul(dst, ldd, x, ldx, rows, 1, 3)
		for i, v := range dst {
			if c := i % ldd; (c < 32 || c >= out) != (v == 7) {
				t.Fatalf("row %d, column %d is %v", i/ldd, c, v)
			}
		}
	})
}

func TestRow(t *testing.T) {
	const in, out = 33, 50
	w := normals(newRand(14), out*in)
	f := must(PackF32(out, in, rowsOf(w, in)))
	b := must(PackBF16(out, in, rowsOf(w, in)))
	h := must(PackF16(out, in, func(o int, dst []uint16) error {
		for i := range dst {
			dst[i] = uint16(o*in + i)
		}
		return nil
	}))
	got, want := make([]float32, in), make([]float32, in)
	for o := range out {
		f.Row(o, got)
		sameBits(t, "f32", got, w[o*in:][:in])
		b.Row(o, got)
		for i := range want {
			want[i] = widenBF16(roundBF16(w[o*in+i]))
		}
		sameBits(t, "bf16", got, want)
		h.Row(o, got)
		for i := range want {
			want[i] = widenF16(uint16(o*in + i))
		}
		sameBits(t, "f16", got, want)
	}
}

// Packed from their transpose, in memory that held others, weights are those packed from their rows.
func TestPackTransposed(t *testing.T) {
	atLevels(t, func(t *testing.T) {
		var got F32
		for _, size := range [][2]int{{70, 9}, {1, 1}, {32, 40}, {33, 3}, {64, 2}} {
			out, in := size[0], size[1]
			ld := out + 5
			src, w := normals(newRand(15), in*ld), make([]float32, out*in)
			for o := range out {
				for i := range in {
					w[o*in+i] = src[i*ld+o]
				}
			}
			got.PackTransposed(out, in, src[:(in-1)*ld+out], ld)
			want := must(PackF32(out, in, rowsOf(w, in)))
			if got.Out != out || got.In != in {
				t.Errorf("%d x %d: %d x %d", out, in, got.Out, got.In)
			}
			sameBits(t, fmt.Sprintf("%d x %d", out, in), got.data, want.data)
		}
	})
}

func TestPackErrors(t *testing.T) {
	if _, err := PackF32(0, 4, nil); err == nil || !strings.Contains(err.Error(), "0 x 4") {
		t.Errorf("PackF32(0, 4): %v", err)
	}
	if _, err := PackBF16(4, -1, nil); err == nil {
		t.Error("PackBF16(4, -1) succeeded")
	}
	broken := errors.New("row 33 is unreadable")
	_, err := PackF32(40, 2, func(o int, _ []float32) error {
		if o == 33 {
			return broken
		}
		return nil
	})
	if !errors.Is(err, broken) {
		t.Errorf("PackF32 with an unreadable row: %v", err)
	}
}

func TestMulChecksSizes(t *testing.T) {
	w := must(NewF32(nil, 40, 8))
	for name, call := range map[string]func(){
		"short dst":         func() { w.Mul(make([]float32, 79), 40, make([]float32, 16), 8, 2, 0, 2) },
		"short x":           func() { w.Mul(make([]float32, 80), 40, make([]float32, 15), 8, 2, 0, 2) },
		"panel beyond":      func() { w.Mul(make([]float32, 80), 40, make([]float32, 16), 8, 2, 0, 3) },
		"a short transpose": func() { new(F32).PackTransposed(40, 3, make([]float32, 119), 40) },
		"narrow rows":       func() { w.Mul(make([]float32, 80), 39, make([]float32, 16), 8, 2, 0, 2) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			call()
		}()
	}
	w.Mul(nil, 40, nil, 8, 0, 0, 2) // no rows: nothing to do
}
