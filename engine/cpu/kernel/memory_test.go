package kernel

import "testing"

// Weights in one block are made as those in slices of their own, and do not overlap;
// in a block that is used again, too.
func TestMemory(t *testing.T) {
	var m Memory
	testMemory(t, &m, 70, 40)
	m.Reset()
	testMemory(t, &m, 70, 33) // smaller
	m.Reset()
	testMemory(t, &m, 99, 41) // larger
}

func testMemory(t *testing.T, m *Memory, out, in int) {
	t.Helper()
	r := newRand(31)
	x := normals(r, out*in)
	row := func(o int, dst []float32) error { copy(dst, x[o*in:]); return nil }
	for range 2 {
		must(NewF32(m, out, in))
		must(NewBF16(m, out, in))
		must(NewF32(m, out, in))
	}
	m.Allocate()
	var all []interface{ Row(o int, dst []float32) }
	for range 2 {
		a, b, c := must(NewF32(m, out, in)), must(NewBF16(m, out, in)), must(NewF32(m, out, in))
		for p := range a.Panels() {
			if err := a.Pack(p, p+1, row); err != nil {
				t.Fatal(err)
			}
			if err := b.Pack(p, p+1, row); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, a, b, c)
	}
	if len(m.free) != 0 {
		t.Errorf("%d bytes are left of the block", len(m.free))
	}
	got, rounded := make([]float32, in), make([]uint16, in)
	for i, w := range all {
		for o := range out {
			w.Row(o, got)
			want := append([]float32(nil), x[o*in:(o+1)*in]...)
			switch i % 3 {
			case 1:
				RoundBF16(rounded, want)
				WidenBF16(want, rounded)
			case 2:
				clear(want) // never packed
			}
			sameBits(t, "row", got, want)
		}
	}
}
