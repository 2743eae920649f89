package tensor

import (
	"math"
	"strings"
	"testing"
)

func TestParseDTypeOfEveryName(t *testing.T) {
	for d := Invalid + 1; d < numDTypes; d++ {
		for _, name := range []string{d.String(), strings.ToLower(d.String())} {
			if got, err := ParseDType(name); err != nil || got != d {
				t.Errorf("%q: got %v, %v", name, got, err)
			}
		}
		if d.BlockSize() < 1 || d.BlockBytes() < 1 {
			t.Errorf("%v: blocks of %d elements in %d bytes", d, d.BlockSize(), d.BlockBytes())
		}
	}
	for _, name := range []string{"", "invalid", "F31", "Q4_2", "DType(3)"} {
		if d, err := ParseDType(name); err == nil || d != Invalid {
			t.Errorf("%q: got %v, %v", name, d, err)
		}
	}
}

func TestUnknownDType(t *testing.T) {
	for _, d := range []DType{Invalid, numDTypes, 255} {
		if d.IsFloat() || d.IsBlock() || d.BlockBytes() != 0 || d.BlockSize() != 1 {
			t.Errorf("%v: taken for a type", d)
		}
	}
	if got := DType(255).String(); got != "DType(255)" {
		t.Errorf("got %q", got)
	}
}

func TestElements(t *testing.T) {
	for _, c := range []struct {
		shape Shape
		want  int64
		err   string
	}{
		{nil, 1, ""},
		{Shape{7}, 7, ""},
		{Shape{3, 0, 5}, 0, ""},
		{Shape{128256, 3072}, 394002432, ""},
		{Shape{math.MaxInt64}, math.MaxInt64, ""},
		{Shape{1 << 32, 1 << 31}, 0, "more elements than fit"},
		{Shape{1 << 62, 2}, 0, "more elements than fit"},
		{Shape{math.MaxInt64, math.MaxInt64, math.MaxInt64}, 0, "more elements than fit"},
		{Shape{4, -1}, 0, "negative"},
		{Shape{0, -1}, 0, "negative"},
	} {
		got, err := c.shape.Elements()
		if got != c.want || !says(err, c.err) {
			t.Errorf("%v: got %d, %v", c.shape, got, err)
		}
	}
}

// says reports whether err has that text, or is nil for an empty one.
func says(err error, text string) bool {
	if text == "" {
		return err == nil
	}
	return err != nil && strings.Contains(err.Error(), text)
}

func TestInfoSizes(t *testing.T) {
	for _, c := range []struct {
		dtype             DType
		shape             Shape
		bytes, rowBytes   int64
		rows, rowElements int
		err               string
	}{
		{BF16, Shape{8192, 3072}, 50331648, 6144, 8192, 3072, ""},
		{F32, nil, 4, 4, 1, 1, ""},
		{F16, Shape{5}, 10, 2, 5, 1, ""},
		{F32, Shape{0, 4}, 0, 0, 0, 4, ""},
		{Q4_1, Shape{3, 64}, 120, 40, 3, 64, ""},
		{Q6_K, Shape{2, 2, 256}, 840, 420, 2, 512, ""},
		{Q4_1, Shape{64, 3}, 0, 0, 64, 3, "a row of 3 elements is not a whole number of Q4_1 blocks of 32"},
		{Q4_0, nil, 0, 0, 1, 1, "a row of 1 elements"},
		{F64, Shape{1 << 31, 1 << 31}, 0, 0, 1 << 31, 1 << 31, "more bytes than fit"},
		{Invalid, Shape{2}, 0, 0, 2, 1, "element type invalid has no size"},
		{255, Shape{2}, 0, 0, 2, 1, "element type DType(255) has no size"},
	} {
		i := Info{Name: "some.weight", DType: c.dtype, Shape: c.shape}
		got, err := i.Bytes()
		if got != c.bytes || !says(err, c.err) || err != nil && !strings.Contains(err.Error(), `"some.weight"`) {
			t.Errorf("%v %v: got %d bytes, %v", c.dtype, c.shape, got, err)
		}
		if i.RowBytes() != c.rowBytes || i.Rows() != c.rows || i.RowElements() != c.rowElements {
			t.Errorf("%v %v: rows %d of %d bytes, %d elements", c.dtype, c.shape, i.Rows(), i.RowBytes(), i.RowElements())
		}
	}
}

func TestShapeEqual(t *testing.T) {
	for _, c := range []struct {
		a, b Shape
		want bool
	}{{nil, Shape{}, true}, {Shape{2, 3}, Shape{2, 3}, true}, {Shape{2, 3}, Shape{3, 2}, false}, {Shape{2}, Shape{2, 1}, false}} {
		if got := c.a.Equal(c.b); got != c.want {
			t.Errorf("%v, %v: got %v", c.a, c.b, got)
		}
	}
}
