package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/tensor"
)

var quantTypes = []tensor.DType{tensor.Q8_0, tensor.Q4_0, tensor.Q4_1}

// randomBlocks returns n blocks with random quants and scales near 1/16.
func randomBlocks(r *rand.Rand, t tensor.DType, n int) []byte {
	size := t.BlockBytes()
	b := make([]byte, n*size)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	for i := range n {
		binary.LittleEndian.PutUint16(b[i*size:], uint16(0x2c00+r.IntN(1024)|r.IntN(2)<<15))
		if t == tensor.Q4_1 {
			binary.LittleEndian.PutUint16(b[i*size+2:], uint16(0x2c00+r.IntN(1024)|r.IntN(2)<<15))
		}
	}
	return b
}

// blockValue is element i of a row of GGUF blocks: ggml's definition of the types.
func blockValue(t tensor.DType, row []byte, i int) float64 {
	b := row[i/32*t.BlockBytes():]
	d, e := float64(widenF16(binary.LittleEndian.Uint16(b))), i%32
	switch t {
	case tensor.Q8_0:
		return d * float64(int8(b[2+e]))
	case tensor.Q4_0:
		return d * float64(int(b[2+e%16]>>(e/16*4)&15)-8)
	default:
		return d*float64(b[4+e%16]>>(e/16*4)&15) + float64(widenF16(binary.LittleEndian.Uint16(b[2:])))
	}
}

func TestQuant(t *testing.T) {
	r := newRand(21)
	for _, typ := range quantTypes {
		for _, c := range []struct{ rows, in, out int }{{1, 32, 1}, {3, 96, 33}, {2, 576, 64}} {
			bytes := c.in / 32 * typ.BlockBytes()
			file := randomBlocks(r, typ, c.out*c.in/32)
			w := must(PackQuant(typ, c.out, c.in, func(o int, dst []byte) error {
				copy(dst, file[o*bytes:][:bytes])
				return nil
			}))
			x := normals(r, c.rows*c.in)
			var q Q8
			q.Quantise(x, c.in, c.rows, c.in)

			row := make([]float32, c.in)
			want, bound := make([]float64, c.rows*c.out), make([]float64, c.rows*c.out)
			for o := range c.out {
				w.Row(o, row)
				for i, v := range row {
					exact := blockValue(typ, file[o*bytes:], i)
					if math.Abs(float64(v)-exact) > 1e-6*math.Abs(exact)+1e-7 {
						t.Fatalf("%s: Row(%d)[%d] = %v, want %v", typ, o, i, v, exact)
					}
					for n := range c.rows {
						want[n*c.out+o] += exact * float64(x[n*c.in+i])
						// Half a step of the activations, and float32 sums.
						bound[n*c.out+o] += math.Abs(exact) * (float64(q.scale[(n*c.in+i)/32])*0.5001 + 1e-5)
					}
				}
			}
			var twin []float32
			atLevels(t, func(t *testing.T) {
				what := fmt.Sprintf("%s %+v", typ, c)
				got := make([]float32, c.rows*c.out)
				for p := range w.Panels() {
					w.Mul(got, c.out, &q, p, p+1)
				}
				for i := range got {
					if d := math.Abs(float64(got[i]) - want[i]); !(d <= bound[i]) {
						t.Fatalf("%s: element %d is %v, want %v within %.3g", what, i, got[i], want[i], bound[i])
					}
				}
				if active == Generic {
					twin = got
				}
				sameBits(t, what, got, twin)
				// A row's result does not depend on the others.
				var one Q8
				alone := make([]float32, c.out)
				for n := range c.rows {
					one.Quantise(x[n*c.in:], c.in, 1, c.in)
					w.Mul(alone, c.out, &one, 0, w.Panels())
					sameBits(t, what+" alone", got[n*c.out:][:c.out], alone)
				}
			})
		}
	}
}

// The extreme quants of both sides, where 16-bit sums come closest to overflow.
func TestQuantExtremes(t *testing.T) {
	for _, typ := range quantTypes {
		for _, fill := range []byte{0x80, 0x7f, 0xff, 0x00, 0x81} {
			w := must(PackQuant(typ, 32, 32, func(_ int, dst []byte) error {
				for i := range dst {
					dst[i] = fill
				}
				binary.LittleEndian.PutUint16(dst, 0x3c00) // 1
				if typ == tensor.Q4_1 {
					binary.LittleEndian.PutUint16(dst[2:], 0x3c00)
				}
				return nil
			}))
			x := make([]float32, 32)
			for i := range x {
				x[i] = 127
				if fill == 0x81 && i%2 == 1 {
					x[i] = -127
				}
			}
			row := make([]float32, 32)
			w.Row(0, row)
			var want float32
			for i := range row {
				want += row[i] * x[i]
			}
			var q Q8
			q.Quantise(x, 32, 1, 32)
			atLevels(t, func(t *testing.T) {
				got := make([]float32, 32)
				w.Mul(got, 32, &q, 0, 1)
				for j, v := range got {
					if v != want {
						t.Fatalf("%s filled with %#x: column %d is %v, want %v", typ, fill, j, v, want)
					}
				}
			})
		}
	}
}

func TestQuantise(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	block := func(v ...float32) []float32 { return append(v, make([]float32, 32-len(v))...) }
	for name, c := range map[string]struct {
		x     []float32
		scale float32
		first int8
	}{
		"zeros":     {block(), 0, 0},
		"plain":     {block(127, -3), 1, 127},
		"negative":  {block(-254, 1), 2, -127},
		"subnormal": {block(1e-40), 0, 0},
		"infinite":  {block(1, inf), nan, 0},
		"NaN first": {block(nan, 1), nan, 0},
		"NaN last":  {append(make([]float32, 31), nan), nan, 0},
	} {
		var q Q8
		q.Quantise(c.x, 32, 1, 32)
		if s := q.scale[0]; s != c.scale && (s == s || c.scale == c.scale) || q.quant[0] != c.first {
			t.Errorf("%s: scale %v, first %d; want %v, %d", name, s, q.quant[0], c.scale, c.first)
		}
		sum := int32(0)
		for _, v := range q.quant {
			sum += int32(v)
		}
		if sum != q.sum[0] {
			t.Errorf("%s: sum %d, want %d", name, q.sum[0], sum)
		}
	}
}

func TestPackQuantErrors(t *testing.T) {
	if _, err := NewQuant(tensor.Q6_K, 32, 256); err == nil || !strings.Contains(err.Error(), "Q6_K") {
		t.Errorf("Q6_K: %v", err)
	}
	if _, err := NewQuant(tensor.Q8_0, 32, 40); err == nil || !strings.Contains(err.Error(), "multiple of 32") {
		t.Errorf("inner size 40: %v", err)
	}
}
