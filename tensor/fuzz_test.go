package tensor

import (
	"bytes"
	"testing"
)

// No bytes, lengths or types make anything here panic, and what the functions say of
// the same bytes agrees.
func FuzzBytes(f *testing.F) {
	for d := range numDTypes + 1 {
		f.Add(uint8(d), uint8(F16), bytes.Repeat([]byte{0x01, 0x3c}, d.BlockBytes()))
		f.Add(uint8(d), uint8(BF16), bytes.Repeat([]byte{0xff, 0x7b, 0x80}, d.BlockBytes()))
	}
	f.Fuzz(func(t *testing.T, from, to uint8, src []byte) {
		d := DType(from)
		size, elems := d.BlockBytes(), 0
		if size > 0 {
			elems = len(src) / size * d.BlockSize()
		}
		values := make([]float32, elems)
		err := Decode(values, src, d)
		lo, hi, finite := MinMax(src, d)
		all := AllFinite(src, d)
		sum, _, _ := Sums(src, d)
		if size == 0 || len(src)%size != 0 {
			if err == nil || finite || all || sum == sum {
				t.Fatalf("%v: %d bytes accepted: %v, %v, %v, %g", d, len(src), err, finite, all, sum)
			}
		} else if d.isWeight() {
			want := true
			for _, v := range values {
				want = want && v-v == 0
				if finite && (v < lo || v > hi) {
					t.Fatalf("%v: %g outside %g to %g", d, v, lo, hi)
				}
			}
			if finite != want || d != F64 && all != want {
				t.Fatalf("%v: finite %v, all %v, want %v", d, finite, all, want)
			}
		}

		out := DType(to)
		converted := make([]byte, elems/out.BlockSize()*out.BlockBytes())
		if Convert(converted, out, src, d) == nil && d == out && !bytes.Equal(converted, src) {
			t.Fatalf("%v: the copy differs", d)
		}
	})
}
