package tensor

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"testing"
)

// format describes a binary floating-point type for the oracles of these tests, which
// compute with real numbers where the package shifts bits.
type format struct {
	d        DType
	mantBits int
	expBits  int
	infinite bool // the largest exponent holds infinities and NaNs
}

var (
	formatF16    = format{F16, 10, 5, true}
	formatBF16   = format{BF16, 7, 8, true}
	formatF8E4M3 = format{F8E4M3, 3, 4, false}
	formatF8E5M2 = format{F8E5M2, 2, 5, true}
)

func (f format) bias() int { return 1<<(f.expBits-1) - 1 }

// value is the number that bits stand for, by the definition of the format.
func (f format) value(bits uint16) float64 {
	mant := int(bits) & (1<<f.mantBits - 1)
	exp := int(bits) >> f.mantBits & (1<<f.expBits - 1)
	sign := 1.0
	if bits>>(f.mantBits+f.expBits)&1 == 1 {
		sign = -1
	}
	switch top := 1<<f.expBits - 1; {
	case f.infinite && exp == top && mant == 0:
		return math.Inf(int(sign))
	case f.infinite && exp == top, !f.infinite && exp == top && mant == 1<<f.mantBits-1:
		return math.NaN()
	case exp == 0:
		return math.Copysign(math.Ldexp(float64(mant), 1-f.bias()-f.mantBits), sign)
	default:
		return sign * math.Ldexp(float64(mant+1<<f.mantBits), exp-f.bias()-f.mantBits)
	}
}

// round is x rounded to nearest even at the format's precision, without an upper limit.
func (f format) round(x float64) float64 {
	if x == 0 || math.IsInf(x, 0) {
		return x
	}
	_, e := math.Frexp(x) // x has exponent e-1
	place := max(e-1, 1-f.bias()) - f.mantBits
	return math.Copysign(math.Ldexp(math.RoundToEven(math.Ldexp(x, -place)), place), x)
}

// largest is the largest finite value.
func (f format) largest() float64 {
	return math.Ldexp(2-math.Ldexp(1, -f.mantBits), f.bias())
}

// all16 is every 16-bit pattern in order.
func all16() []byte {
	b := make([]byte, 2<<16)
	for i := range 1 << 16 {
		binary.LittleEndian.PutUint16(b[2*i:], uint16(i))
	}
	return b
}

func TestDecodeEvery16BitValue(t *testing.T) {
	for _, f := range []format{formatF16, formatBF16} {
		eachLevel(t, func(t *testing.T) {
			got := make([]float32, 1<<16)
			if err := Decode(got, all16(), f.d); err != nil {
				t.Fatal(err)
			}
			for i, g := range got {
				checkValue(t, f, uint16(i), g)
			}
		})
	}
}

func TestDecodeEvery8BitValue(t *testing.T) {
	for _, f := range []format{formatF8E4M3, formatF8E5M2} {
		got, src := make([]float32, 256), make([]byte, 256)
		for i := range src {
			src[i] = byte(i)
		}
		if err := Decode(got, src, f.d); err != nil {
			t.Fatal(err)
		}
		for i, g := range got {
			checkValue(t, f, uint16(i), g)
		}
	}
	// The numbers of the specification's table 2.
	for _, c := range []struct {
		d    DType
		bits byte
		want float32
	}{
		{F8E4M3, 0x7e, 448}, {F8E4M3, 0x08, 0x1p-6}, {F8E4M3, 0x07, 0.875 * 0x1p-6}, {F8E4M3, 0x81, -0x1p-9},
		{F8E5M2, 0x7b, 57344}, {F8E5M2, 0x04, 0x1p-14}, {F8E5M2, 0x03, 0.75 * 0x1p-14}, {F8E5M2, 0x81, -0x1p-16},
	} {
		got := make([]float32, 1)
		if err := Decode(got, []byte{c.bits}, c.d); err != nil || got[0] != c.want {
			t.Errorf("%v %#02x: got %g, %v; want %g", c.d, c.bits, got[0], err, c.want)
		}
	}
}

func checkValue(t *testing.T, f format, bits uint16, got float32) {
	t.Helper()
	want := f.value(bits)
	negative := bits>>(f.mantBits+f.expBits)&1 == 1
	if got != float32(want) && !(got != got && want != want) || math.Signbit(float64(got)) != negative {
		t.Fatalf("%v %#04x: got %g (%08x), want %g", f.d, bits, got, math.Float32bits(got), want)
	}
}

// Decoding and encoding again changes nothing but makes a NaN quiet.
func TestEncodeOfDecodedIsIdentity(t *testing.T) {
	for _, f := range []format{formatF16, formatBF16} {
		eachLevel(t, func(t *testing.T) {
			values, back := make([]float32, 1<<16), make([]byte, 2<<16)
			if err := Decode(values, all16(), f.d); err != nil {
				t.Fatal(err)
			}
			if err := Encode(back, values, f.d); err != nil {
				t.Fatal(err)
			}
			for i := range 1 << 16 {
				want := uint16(i)
				if math.IsNaN(f.value(want)) {
					want |= 1 << (f.mantBits - 1)
				}
				if got := binary.LittleEndian.Uint16(back[2*i:]); got != want {
					t.Fatalf("%v %#04x came back as %#04x, want %#04x", f.d, i, got, want)
				}
			}
		})
	}
}

// Half way between any two finite neighbours lies a tie, which goes to the even one; the
// next float32 to each side goes to the nearer one. Half way beyond the largest is an overflow.
func TestEncodeAtEveryMidpoint(t *testing.T) {
	for _, f := range []format{formatF16, formatBF16} {
		eachLevel(t, func(t *testing.T) {
			var in []float32
			var want []uint16
			inf := uint16((1<<f.expBits - 1) << f.mantBits)
			for bits := range inf - 1 {
				mid := float32((f.value(bits) + f.value(bits+1)) / 2)
				if 2*float64(mid) != f.value(bits)+f.value(bits+1) {
					t.Fatalf("%v %#04x: the midpoint is not a float32", f.d, bits)
				}
				sign := uint16(1 << 15)
				below, above := math.Nextafter32(mid, 0), math.Nextafter32(mid, math.MaxFloat32)
				in = append(in, mid, below, above, -mid, -below, -above)
				even := bits + bits&1
				want = append(want, even, bits, bits+1, sign|even, sign|bits, sign|(bits+1))
			}
			got := make([]byte, 2*len(in))
			if err := Encode(got, in, f.d); err != nil {
				t.Fatal(err)
			}
			for i := range in {
				if g := binary.LittleEndian.Uint16(got[2*i:]); g != want[i] {
					t.Fatalf("%v of %g (%08x): got %#04x, want %#04x", f.d, in[i], math.Float32bits(in[i]), g, want[i])
				}
			}

			limit := float32(f.largest() + math.Ldexp(1, f.bias()-f.mantBits-1))
			for _, at := range []int{0, 1, 70, 200} { // in the vector code and in the tail
				for _, v := range []float32{limit, -limit, math.MaxFloat32} {
					row := make([]float32, 201)
					row[at] = v
					err := Encode(make([]byte, 2*len(row)), row, f.d)
					var o *OverflowError
					if !errors.As(err, &o) || *o != (OverflowError{Index: at, Value: float64(v), To: f.d}) {
						t.Errorf("%v of %g at %d: got error %v", f.d, v, at, err)
					}
				}
			}
			row := []float32{math.Nextafter32(limit, 0), float32(math.Inf(1)), float32(math.Inf(-1))}
			b := make([]byte, 6)
			if err := Encode(b, row, f.d); err != nil {
				t.Fatal(err)
			}
			for i, want := range []uint16{inf - 1, inf, inf | 1<<15} {
				if g := binary.LittleEndian.Uint16(b[2*i:]); g != want {
					t.Errorf("%v of %g: got %#04x, want %#04x", f.d, row[i], g, want)
				}
			}
		})
	}
}

// Random float32 and float64 of every magnitude that the type can hold or nearly so.
func TestRoundingOfRandomValues(t *testing.T) {
	const n = 1 << 16
	for _, f := range []format{formatF16, formatBF16} {
		eachLevel(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(3, uint64(f.d)))
			f32s, f64s := make([]float32, n), make([]byte, 8*n)
			for i := range n {
				exp := rng.IntN(2*f.bias()+f.mantBits+2) - f.bias() - f.mantBits - 2
				x := math.Ldexp(1+rng.Float64(), exp)
				if rng.IntN(2) == 0 {
					x = -x
				}
				if i%4 == 0 { // within float64's last places of a tie of float32's and the type's places
					x = math.Float64frombits(math.Float64bits(x)&^(1<<(51-f.mantBits)-1)|1<<(51-f.mantBits)) * (1 + float64(rng.IntN(3)-1)*0x1p-52)
				}
				if math.Abs(f.round(x)) > f.largest() {
					x /= 2
				}
				f32s[i] = float32(x)
				if math.Abs(f.round(float64(f32s[i]))) > f.largest() {
					f32s[i] /= 2
				}
				binary.LittleEndian.PutUint64(f64s[8*i:], math.Float64bits(x))
			}
			fromF32, fromF64 := make([]byte, 2*n), make([]byte, 2*n)
			if err := Encode(fromF32, f32s, f.d); err != nil {
				t.Fatal(err)
			}
			if err := Convert(fromF64, f.d, f64s, F64); err != nil {
				t.Fatal(err)
			}
			doubleRounded := 0
			for i := range n {
				x := f64At(f64s, i)
				if got, want := f.value(binary.LittleEndian.Uint16(fromF32[2*i:])), f.round(float64(f32s[i])); got != want {
					t.Fatalf("%v of float32 %x: got %x, want %x", f.d, f32s[i], got, want)
				}
				want := f.round(x)
				if got := f.value(binary.LittleEndian.Uint16(fromF64[2*i:])); got != want {
					t.Fatalf("%v of float64 %x: got %x, want %x", f.d, x, got, want)
				}
				if f.round(float64(float32(x))) != want {
					doubleRounded++
				}
			}
			if doubleRounded < n/100 {
				t.Errorf("only %d values would have shown double rounding", doubleRounded)
			}
		})
	}
}
