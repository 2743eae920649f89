package tensor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

func f64Bytes(v ...float64) []byte {
	b := make([]byte, 8*len(v))
	for i, x := range v {
		binary.LittleEndian.PutUint64(b[8*i:], math.Float64bits(x))
	}
	return b
}

func f32Bytes(v ...float32) []byte {
	b := make([]byte, 4*len(v))
	encodeF32Go(b, v)
	return b
}

func TestDecodeF64(t *testing.T) {
	src := f64Bytes(1, 1+0x1p-24, 1+0x1p-24+0x1p-52, 1+3*0x1p-24, 0x1p-150, 0x1.8p-150, math.Inf(-1), math.MaxFloat32+0x1p102)
	want := []float32{1, 1, 1 + 0x1p-23, 1 + 0x1p-22, 0, 0x1p-149, float32(math.Inf(-1)), math.MaxFloat32}
	got := make([]float32, len(want))
	if err := Decode(got, src, F64); err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("element %d: got %x, want %x", i, got[i], want[i])
		}
	}
	err := Decode(got[:2], f64Bytes(1, -1e300), F64)
	var o *OverflowError
	if !errors.As(err, &o) || *o != (OverflowError{1, -1e300, F32}) {
		t.Errorf("got error %v", err)
	}
}

func TestEncodeWideTypes(t *testing.T) {
	src := []float32{0, -1.5, 0x1p-149, math.MaxFloat32, float32(math.Inf(1)), math.Float32frombits(0xffa00001)}
	got32 := make([]byte, 4*len(src))
	if err := Encode(got32, src, F32); err != nil {
		t.Fatal(err)
	}
	got64 := make([]byte, 8*len(src))
	if err := Encode(got64, src, F64); err != nil {
		t.Fatal(err)
	}
	for i, v := range src {
		if g := binary.LittleEndian.Uint32(got32[4*i:]); g != math.Float32bits(v) {
			t.Errorf("F32 of %g: got %08x", v, g)
		}
		if g := f64At(got64, i); g != float64(v) && v == v {
			t.Errorf("F64 of %g: got %g", v, g)
		}
	}
	if g := f64At(got64, len(src)-1); g == g || !math.Signbit(g) {
		t.Errorf("F64 of a negative NaN: got %g", g)
	}
}

func TestWrongLengthsAndTypes(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"too few bytes", Decode(make([]float32, 3), make([]byte, 5), F16), "5 bytes for 3 elements, want 6"},
		{"too many bytes", Decode(make([]float32, 3), make([]byte, 13), F32), "13 bytes for 3 elements, want 12"},
		{"bytes for none", Decode(nil, make([]byte, 18), Q4_0), "18 bytes for 0 elements"},
		{"part of a block", Decode(make([]float32, 33), make([]byte, 18), Q4_0), "33 elements are not a whole number of blocks of 32"},
		{"integers", Decode(make([]float32, 1), make([]byte, 4), I32), "I32: not a weight type"},
		{"invalid", Decode(nil, nil, Invalid), "not a weight type"},
		{"unknown", Decode(nil, nil, 200), "DType(200): not a weight type"},

		{"encode too short", Encode(make([]byte, 3), make([]float32, 2), BF16), "3 bytes for 2 elements, want 4"},
		{"encode blocks", Encode(make([]byte, 18), make([]float32, 32), Q4_0), "only F64, F32, F16 and BF16 are written"},
		{"encode F8", Encode(make([]byte, 1), make([]float32, 1), F8E4M3), "only F64"},
		{"encode unknown", Encode(nil, nil, 200), "only F64"},

		{"copy of another length", Convert(make([]byte, 3), I8, make([]byte, 4), I8), "4 bytes for 3 bytes"},
		{"convert from integers", Convert(make([]byte, 4), F32, make([]byte, 4), I32), "I32 is not a weight type"},
		{"convert from unknown", Convert(nil, F32, nil, 200), "DType(200) is not a weight type"},
		{"convert to unknown", Convert(nil, 200, nil, F32), "only F64"},
		{"convert to blocks", Convert(make([]byte, 18), Q4_0, make([]byte, 128), F32), "only F64"},
		{"convert part of a block", Convert(make([]byte, 64), F16, make([]byte, 19), Q4_0), "19 bytes are not a whole number of blocks of 18"},
		{"convert to too few", Convert(make([]byte, 62), F16, make([]byte, 18), Q4_0), "62 bytes for 32 elements, want 64"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%s: got error %v, want %q", c.name, c.err, c.want)
		}
	}
}

// Convert is Encode after Decode, also where the elements are more than one chunk.
func TestConvertByWayOfFloat32(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(7, 7))
		for from := Invalid; from < numDTypes; from++ {
			if !from.isWeight() {
				continue
			}
			src := smallValues(rng, from, 3*chunk/from.BlockSize()*from.BlockBytes())
			for _, n := range []int{0, 1, 3 * chunk / from.BlockSize()} {
				src := src[:n*from.BlockBytes()]
				values := make([]float32, n*from.BlockSize())
				if err := Decode(values, src, from); err != nil {
					t.Fatal(err)
				}
				for _, to := range []DType{F64, F32, F16, BF16} {
					if from == F64 && (to == F16 || to == BF16 || to == F64) {
						continue // never by way of float32
					}
					want, got := make([]byte, len(values)*to.BlockBytes()), make([]byte, len(values)*to.BlockBytes())
					if err := Encode(want, values, to); err != nil {
						t.Fatal(err)
					}
					if err := Convert(got, to, src, from); err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(got, want) {
						t.Errorf("%v to %v: %d elements differ from Decode and Encode", from, to, len(values))
					}
				}
			}
		}
	})
}

// smallValues gives random bytes of whole blocks that decode to finite values which fit F16.
func smallValues(rng *rand.Rand, d DType, n int) []byte {
	src := make([]byte, n)
	for i := range src {
		src[i] = byte(rng.Uint32())
	}
	size := d.BlockBytes()
	if d.IsBlock() {
		// Every F16 scale lies at an even place: with two bits of its exponent cleared it
		// is below 1/8. Some of the integers lose these bits too, which does no harm.
		for i := 1; i < n; i += 2 {
			src[i] &= 0xaf
		}
		return src
	}
	for i := 0; i < n; i += size {
		v := float32(rng.NormFloat64())
		switch d {
		case F64:
			copy(src[i:], f64Bytes(rng.NormFloat64()))
		case F32:
			copy(src[i:], f32Bytes(v))
		case F16:
			binary.LittleEndian.PutUint16(src[i:], f32ToF16(v))
		case BF16:
			binary.LittleEndian.PutUint16(src[i:], f32ToBF16(v))
		case F8E4M3, F8E5M2:
			src[i] &= 0xbf
		}
	}
	return src
}

func TestConvertEqualTypesCopies(t *testing.T) {
	src := []byte{1, 0xfc, 0xff, 0x7f, 0x01, 0x7e, 7, 9} // with signalling NaNs
	for _, d := range []DType{F64, F32, F16, BF16, F8E4M3, I32, Bool} {
		got := make([]byte, len(src))
		if err := Convert(got, d, src, d); err != nil || !bytes.Equal(got, src) {
			t.Errorf("%v: got %x, %v", d, got, err)
		}
	}
}

func TestConvertNamesTheOverflow(t *testing.T) {
	const n, at = 3*chunk + 5, 2*chunk + 70
	for _, c := range []struct {
		from  DType
		value float64
		to    DType
	}{
		{F32, 65520, F16}, {BF16, -0x1p16, F16}, {F64, 65520, F16}, {F64, 1e300, F16}, {F64, -1e39, BF16},
		{F64, 0x1.ffp127, BF16}, {F64, 1e39, F32}, {F32, math.MaxFloat32, BF16},
	} {
		src := make([]byte, n*c.from.BlockBytes())
		switch c.from {
		case F64:
			copy(src[at*8:], f64Bytes(c.value))
		case F32:
			copy(src[at*4:], f32Bytes(float32(c.value)))
		case BF16:
			binary.LittleEndian.PutUint16(src[at*2:], f32ToBF16(float32(c.value)))
		}
		err := Convert(make([]byte, n*c.to.BlockBytes()), c.to, src, c.from)
		var o *OverflowError
		if !errors.As(err, &o) || *o != (OverflowError{at, c.value, c.to}) {
			t.Errorf("%v %g to %v: got error %v", c.from, c.value, c.to, err)
		}
	}
	// Just below half way, F64 fits; float32 would have rounded it up to half way.
	got := make([]byte, 2)
	if err := Convert(got, F16, f64Bytes(math.Nextafter(65520, 0)), F64); err != nil || binary.LittleEndian.Uint16(got) != 0x7bff {
		t.Errorf("F64 just below 65520: got %x, %v", got, err)
	}
	if want := "element 2: 70000 is too large for F16"; (&OverflowError{2, 70000, F16}).Error() != want {
		t.Errorf("message is not %q", want)
	}
}

func TestConvertKeepsNonFinite(t *testing.T) {
	src := f64Bytes(math.NaN(), math.Inf(1), math.Inf(-1))
	for _, f := range []format{formatF16, formatBF16} {
		got := make([]byte, 6)
		if err := Convert(got, f.d, src, F64); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			want := f64At(src, i)
			if g := f.value(binary.LittleEndian.Uint16(got[2*i:])); g != want && want == want || want != want && g == g {
				t.Errorf("%v of %g: got %g", f.d, want, g)
			}
		}
	}
}
