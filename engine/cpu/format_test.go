package cpu

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/arch"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/tensor"
)

// source is one tensor "w" of rows of a stored type.
type source struct {
	info tensor.Info
	data []byte
}

func (s source) Lookup(name string) (tensor.Info, bool) { return s.info, name == s.info.Name }

func (s source) ReadRows(_ string, dst []byte, first, n int) error {
	size := int(s.info.RowBytes())
	copy(dst, s.data[first*size:(first+n)*size])
	return nil
}

const testRows = 40

// sourceOf makes a tensor of testRows rows of waves, rounded to the type.
func sourceOf(t *testing.T, d tensor.DType, in int) source {
	t.Helper()
	s := source{info: tensor.Info{Name: "w", DType: d, Shape: tensor.Shape{testRows, in}}}
	s.data = make([]byte, testRows*in/d.BlockSize()*d.BlockBytes())
	x := make([]float32, testRows*in)
	for i := range x {
		x[i] = float32(math.Sin(float64(i*i%1009))) / 3
	}
	var err error
	if d.IsBlock() {
		err = tensor.Quantise(s.data, x, d)
	} else {
		err = tensor.Encode(s.data, x, d)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newLoader(s source, p engine.Precision) *loader {
	return &loader{ctx: context.Background(), src: s, precision: p, pool: &pool{threads: 1}, readers: []rowReader{{src: s}}}
}

var whole = arch.Projection{Weight: "w", Rows: testRows, OfRows: testRows}

// Every stored type is packed as each precision wants it, and the packed rows are those
// of the file rounded once: not at all where the types are the same.
func TestFormats(t *testing.T) {
	precisions := map[engine.Precision]tensor.DType{
		engine.F32: tensor.F32, engine.BF16: tensor.BF16, engine.F16: tensor.F16,
		engine.Q8_0: tensor.Q8_0, engine.Q4_0: tensor.Q4_0, engine.Q4_1: tensor.Q4_1,
	}
	for _, stored := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16, tensor.Q8_0, tensor.Q4_0, tensor.Q4_1} {
		const in = 96
		s := sourceOf(t, stored, in)
		for precision, format := range precisions {
			l := newLoader(s, precision)
			if d := l.format(in, whole); d != format {
				t.Errorf("%v, stored in %v: packed in %v", precision, stored, d)
			}
			checkRows(t, fmt.Sprintf("%v, stored in %v", precision, stored), s, format, l.matrix(in, whole), l.err)
			if d := l.vocabularyFormat(in, whole); d != format && (d != tensor.Q8_0 || stored == format) {
				t.Errorf("%v, stored in %v: the vocabulary is packed in %v", precision, stored, d)
			}
		}
		l := newLoader(s, engine.Stored)
		if d := l.vocabularyFormat(in, whole); d != stored {
			t.Errorf("stored in %v: the vocabulary is packed in %v", stored, d)
		}
		checkRows(t, fmt.Sprintf("stored, in %v", stored), s, stored, l.matrix(in, whole), l.err)
	}
}

// checkRows compares the rows of a packed matrix with those of the file in the format.
func checkRows(t *testing.T, what string, s source, format tensor.DType, m *matrix, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	in := m.in
	want := make([]float32, testRows*in)
	if err := tensor.Decode(want, s.data, s.info.DType); err != nil {
		t.Fatal(err)
	}
	if format != s.info.DType {
		b := make([]byte, testRows*in/format.BlockSize()*format.BlockBytes())
		if format.IsBlock() {
			err = tensor.Quantise(b, want, format)
		} else {
			err = tensor.Encode(b, want, format)
		}
		if err == nil {
			err = tensor.Decode(want, b, format)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	got := make([]float32, in)
	for o := range testRows {
		m.Row(o, got)
		for i, v := range got {
			if v != want[o*in+i] {
				t.Fatalf("%s: row %d, element %d is %v, expected %v", what, o, i, v, want[o*in+i])
			}
		}
	}
}

// Rows that are no whole number of blocks are in F16 where blocks are asked for.
func TestFormatWithoutBlocks(t *testing.T) {
	const in = 33
	s := sourceOf(t, tensor.BF16, in)
	for _, precision := range []engine.Precision{engine.Q8_0, engine.Q4_0, engine.Q4_1} {
		l := newLoader(s, precision)
		if d := l.vocabularyFormat(in, whole); d != tensor.F16 {
			t.Errorf("%v: the vocabulary is packed in %v, expected F16", precision, d)
		}
		checkRows(t, precision.String(), s, tensor.F16, l.matrix(in, whole), l.err)
	}
}

// Weights beyond half precision are named.
func TestFormatOverflow(t *testing.T) {
	s := sourceOf(t, tensor.BF16, 32)
	copy(s.data[5*64+2:], []byte{0, 0x7f}) // the second element of row 5: 2^127
	for _, precision := range []engine.Precision{engine.F16, engine.Q8_0, engine.Q4_0, engine.Q4_1} {
		l := newLoader(s, precision)
		l.matrix(32, whole)
		if l.err == nil || !strings.Contains(l.err.Error(), `tensor "w", row 5`) {
			t.Errorf("%v: error %v", precision, l.err)
		}
	}
}
