package gguf

import (
	"fmt"

	"github.com/coppice-lm/coppice/tensor"
)

// tensorTypes has a row for every element type that ggml numbers (enum ggml_type): its
// name, and the type of package tensor where there is one.
var tensorTypes = map[uint32]struct {
	name  string
	dtype tensor.DType
}{
	0:  {"F32", tensor.F32},
	1:  {"F16", tensor.F16},
	2:  {"Q4_0", tensor.Q4_0},
	3:  {"Q4_1", tensor.Q4_1},
	4:  {name: "Q4_2"},
	5:  {name: "Q4_3"},
	6:  {"Q5_0", tensor.Q5_0},
	7:  {"Q5_1", tensor.Q5_1},
	8:  {"Q8_0", tensor.Q8_0},
	9:  {name: "Q8_1"},
	10: {"Q2_K", tensor.Q2_K},
	11: {"Q3_K", tensor.Q3_K},
	12: {"Q4_K", tensor.Q4_K},
	13: {"Q5_K", tensor.Q5_K},
	14: {"Q6_K", tensor.Q6_K},
	15: {name: "Q8_K"},
	16: {name: "IQ2_XXS"},
	17: {name: "IQ2_XS"},
	18: {name: "IQ3_XXS"},
	19: {name: "IQ1_S"},
	20: {name: "IQ4_NL"},
	21: {name: "IQ3_S"},
	22: {name: "IQ2_S"},
	23: {name: "IQ4_XS"},
	24: {"I8", tensor.I8},
	25: {"I16", tensor.I16},
	26: {"I32", tensor.I32},
	27: {"I64", tensor.I64},
	28: {"F64", tensor.F64},
	29: {name: "IQ1_M"},
	30: {"BF16", tensor.BF16},
	31: {name: "Q4_0_4_4"},
	32: {name: "Q4_0_4_8"},
	33: {name: "Q4_0_8_8"},
	34: {name: "TQ1_0"},
	35: {name: "TQ2_0"},
	36: {name: "IQ4_NL_4_4"},
	37: {name: "IQ4_NL_4_8"},
	38: {name: "IQ4_NL_8_8"},
	39: {name: "MXFP4"},
	40: {name: "NVFP4"},
	41: {name: "Q1_0"},
}

// parseTensorType returns the element type of that number.
func parseTensorType(number uint32) (tensor.DType, error) {
	row, ok := tensorTypes[number]
	switch {
	case !ok:
		return tensor.Invalid, fmt.Errorf("element type %d is unknown", number)
	case row.dtype == tensor.Invalid:
		return tensor.Invalid, fmt.Errorf("element type %d (%s) is not supported: use a file in F32, F16, BF16, Q8_0, Q4_0 to Q5_1 or Q2_K to Q6_K", number, row.name)
	}
	return row.dtype, nil
}
