package study

import (
	"cmp"
	"fmt"
	"strconv"
)

// Size says in words how much of the model stays: "60 %" of the neurons gone, "width 640",
// "expansion 1.5", or "" of a dense cell.
func (c *Cell) Size() string {
	switch {
	case c.Width != 0:
		return fmt.Sprintf("width %d", c.Width)
	case c.Expansion != 0:
		return "expansion " + strconv.FormatFloat(c.Expansion, 'g', -1, 64)
	case c.Ratio != 0:
		return strconv.FormatFloat(100*c.Ratio, 'g', 6, 64) + " %"
	}
	return ""
}

// String names the cell for people, as far as it differs from others of its study.
func (c *Cell) String() string {
	s := c.Model + " " + c.Method
	if size := c.Size(); size != "" {
		s += " " + size
	}
	if c.Allocation != "" && c.Allocation != uniform {
		s += " " + c.Allocation
	}
	if c.Seed != 0 {
		s += fmt.Sprintf(" seed %d", c.Seed)
	}
	return s + " " + c.DType
}

// Compare orders cells for tables and merged ledgers: by model, precision, and size from
// the largest to the smallest; the dense model comes first, and maxabs before the other
// methods of a size.
func (c *Cell) Compare(o *Cell) int {
	return cmp.Or(
		cmp.Compare(c.Model, o.Model),
		cmp.Compare(dtypeOrder(c.DType), dtypeOrder(o.DType)),
		cmp.Compare(methodOrder(c.Method)/2, methodOrder(o.Method)/2), // dense against all others
		cmp.Compare(c.Ratio, o.Ratio),
		cmp.Compare(o.Width, c.Width),
		cmp.Compare(o.Expansion, c.Expansion),
		cmp.Compare(methodOrder(c.Method), methodOrder(o.Method)),
		cmp.Compare(c.Method, o.Method),
		cmp.Compare(c.Allocation, o.Allocation),
		cmp.Compare(c.Seed, o.Seed),
		cmp.Compare(c.ID, o.ID),
	)
}

func dtypeOrder(dtype string) int {
	if dtype == "f32" {
		return 0
	}
	return 1
}

// methodOrder is 0 for dense, 2 for maxabs and 3 for others.
func methodOrder(method string) int {
	switch method {
	case Dense:
		return 0
	case maxAbs:
		return 2
	}
	return 3
}

// The names that studies give a meaning of their own.
const (
	maxAbs   = "maxabs" // the published recipe, which others are compared with
	uniform  = "uniform"
	measured = "measured"
)
