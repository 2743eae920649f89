package safetensors

import (
	"strings"
	"testing"
)

// TestPeer compares what is accepted with safetensors 0.8.0 of PyPI. Its verdicts were
// recorded with
//
//	safetensors.deserialize(struct.pack("<Q", len(header)) + header + bytes(data))
//
// which raises SafetensorError or returns. Where ours differs, why says so.
func TestPeer(t *testing.T) {
	const (
		accepts = true
		refuses = false
	)
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	// with is a header of one tensor of two bytes, with an extra member or none.
	with := func(extra string) string {
		return `{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]` + extra + `}}`
	}
	shape := func(s string) string { return `{"a":{"dtype":"U8","shape":` + s + `,"data_offsets":[0,2]}}` }
	offsets := func(s string) string { return `{"a":{"dtype":"U8","shape":[2],"data_offsets":` + s + `}}` }
	dtype := func(s string, bytes string) string {
		return `{"a":{"dtype":"` + s + `","shape":[8],"data_offsets":[0,` + bytes + `]}}`
	}
	two := func(first, second string) string {
		return `{"a":{"dtype":"U8",` + first + `},"b":{"dtype":"U8",` + second + `}}`
	}
	const notHere = "package tensor has no such type"
	const twice = "a key that comes twice has no agreed meaning"

	for _, tc := range []struct {
		name   string
		header string
		data   int
		peer   bool
		want   string // part of our error; "" where we accept
		why    string // why we differ, where we do
	}{
		// The text.
		{"one tensor", with(""), 2, accepts, "", ""},
		{"no tensor", "{}", 0, accepts, "", ""},
		{"space before", " \n\t" + with(""), 2, accepts, "", ""},
		{"space after", with("") + " \n\t\r", 2, accepts, "", ""},
		{"NUL after", with("") + "\x00\x00", 2, refuses, "follows the object", ""},
		{"byte after", with("") + "x", 2, refuses, "follows the object", ""},
		{"trailing comma", strings.TrimSuffix(with(""), "}") + ",}", 2, refuses, `want '"', found the byte '}'`, ""},
		{"not ended", `{"a":`, 0, refuses, "the end of the header", ""},
		{"array", "[]", 0, refuses, "an array, not a JSON object", ""},
		{"null", "null", 0, refuses, "null, not a JSON object", ""},
		{"byte order mark", "\xef\xbb\xbf{}", 0, refuses, "not a JSON object", ""},
		{"invalid UTF-8", "{\"\xff\":{}}", 0, refuses, "UTF-8 at byte 2", ""},
		{"lone surrogate", `{"\ud800":{}}`, 0, refuses, "half of a surrogate pair", ""},
		{"control character", "{\"a\x01\":{}}", 0, refuses, "control character", ""},
		{"unknown escape", `{"\x":{}}`, 0, refuses, `unknown escape \x`, ""},
		{"escaped NUL", `{"a\u0000":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}`, 2, accepts, "", ""},
		{"escaped key", `{"a":{"dt\u0079pe":"U8","shape":[2],"data_offsets":[0,2]}}`, 2, accepts, "", ""},
		{"empty name", `{"":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}`, 2, accepts, "", ""},

		// The metadata.
		{"metadata last", `{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"__metadata__":{"k":"v"}}`, 2, accepts, "", ""},
		{"metadata null value", `{"__metadata__":{"k":null}}`, 0, refuses, `"k" is null, not a string`, ""},
		{"metadata object value", `{"__metadata__":{"k":{}}}`, 0, refuses, `"k" is an object`, ""},
		{"metadata array", `{"__metadata__":[]}`, 0, refuses, "__metadata__ is an array", ""},
		{"metadata string", `{"__metadata__":"x"}`, 0, refuses, "__metadata__ is a string", ""},
		{"metadata twice", `{"__metadata__":{},"__metadata__":{}}`, 0, refuses, `"__metadata__" twice`, ""},
		{"metadata key twice", `{"__metadata__":{"k":"a","k":"b"}}`, 0, accepts, `the key "k" twice`, twice},

		// The members of a tensor.
		{"extra key", with(`,"x":1`), 2, accepts, "", ""},
		{"extra value nested", with(`,"x":{"y":[1,-0.5e+3,null,true,false,"\u00e9\\"]}`), 2, accepts, "", ""},
		{"extra value deep", with(`,"x":` + deep(100)), 2, accepts, "", ""},
		{"extra value too deep", with(`,"x":` + deep(200)), 2, refuses, "nest deeper than 128", ""},
		{"extra value 1e999", with(`,"x":1e999`), 2, refuses, "out of range", ""},
		{"extra value 01", with(`,"x":01`), 2, refuses, "malformed number", ""},
		{"extra value lone surrogate", with(`,"x":"\ud800"`), 2, refuses, "half of a surrogate pair", ""},
		{"extra value not JSON", with(`,"x":nil`), 2, refuses, "want a value", ""},
		{"extra key twice", with(`,"x":1,"x":2`), 2, accepts, `the key "x" comes twice`, twice},
		{"dtype twice", with(`,"dtype":"U8"`), 2, refuses, `the key "dtype" comes twice`, ""},
		{"shape twice", with(`,"shape":[2]`), 2, refuses, `the key "shape" comes twice`, ""},
		{"data_offsets twice", with(`,"data_offsets":[0,2]`), 2, refuses, `the key "data_offsets" comes twice`, ""},
		{"name twice", two(`"shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]`, `"shape":[0],"data_offsets":[2,2]`), 2, accepts, `names "a" twice`, twice},
		{"name twice by an escape", `{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"\u0061":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}`, 2, accepts, `names "a" twice`, twice},
		{"dtype missing", `{"a":{"shape":[2],"data_offsets":[0,2]}}`, 2, refuses, `"a": dtype is missing`, ""},
		{"shape missing", `{"a":{"dtype":"U8","data_offsets":[0,2]}}`, 2, refuses, `"a": shape is missing`, ""},
		{"data_offsets missing", `{"a":{"dtype":"U8","shape":[2]}}`, 2, refuses, `"a": data_offsets is missing`, ""},
		{"DType", `{"a":{"DType":"U8","shape":[2],"data_offsets":[0,2]}}`, 2, refuses, "dtype is missing", ""},
		{"tensor null", `{"a":null}`, 0, refuses, `"a": its description is null`, ""},
		{"tensor as an array", `{"a":["U8",[2],[0,2]]}`, 2, accepts, `"a": its description is an array`, "the format has objects; the peer's JSON library takes an array of the fields too"},

		// Numbers.
		{"extent 2.0", shape("[2.0]"), 2, refuses, "shape holds 2.0", ""},
		{"extent 2e0", shape("[2e0]"), 2, refuses, "shape holds 2e0", ""},
		{"extent -2", shape("[-2]"), 2, refuses, "shape holds -2", ""},
		{"extent -0", shape("[-0]"), 2, refuses, "shape holds -0", ""},
		{"extent 02", shape("[02]"), 2, refuses, "malformed number", ""},
		{"extent in a string", shape(`["2"]`), 2, refuses, "shape holds a string", ""},
		{"extent 2^63", shape("[9223372036854775808]"), 2, refuses, "overflows", ""},
		{"extent 2^64", shape("[18446744073709551616]"), 2, refuses, "overflows", ""},
		{"shape null", shape("null"), 2, refuses, "shape is null", ""},
		{"offset 1e0", offsets("[0,2e0]"), 2, refuses, "data_offsets holds 2e0", ""},
		{"offset -0", offsets("[-0,2]"), 2, refuses, "data_offsets holds -0", ""},
		{"offset 2^64-1", offsets("[0,18446744073709551615]"), 2, refuses, "overflows", ""},
		{"three offsets", offsets("[0,2,3]"), 2, refuses, "more than two", ""},
		{"one offset", offsets("[0]"), 2, refuses, "1 numbers, not two", ""},
		{"no offset", offsets("[]"), 2, refuses, "0 numbers, not two", ""},
		{"offsets null", offsets("null"), 2, refuses, "data_offsets is null", ""},

		// Shapes that overflow.
		{"elements overflow", shape("[4294967296,4294967296]"), 2, refuses, `"a": shape`, ""},
		{"bytes overflow", `{"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,2]}}`, 2, refuses, `"a": more bytes than fit`, ""},
		{"overflow, then 0", `{"a":{"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}}`, 0, refuses, "more elements", ""},
		{"0, then overflow", `{"a":{"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}}`, 0, accepts, "more elements", "the same shape is refused by the peer in another order of its extents"},

		// The layout of the data.
		{"end before start", offsets("[2,0]"), 2, refuses, `"a": data_offsets [2, 0] end before`, ""},
		{"beyond the file", offsets("[0,2]"), 1, refuses, `"a": data_offsets [0, 2] reach beyond`, ""},
		{"far beyond the file", offsets("[0,9223372036854775807]"), 2, refuses, "reach beyond", ""},
		{"trailing byte", with(""), 3, refuses, "trailing bytes", ""},
		{"trailing byte without tensors", "{}", 1, refuses, "trailing bytes", ""},
		{"hole at the start", offsets("[1,3]"), 3, refuses, `"a": data_offsets [1, 3] leave a hole`, ""},
		{"overlap", two(`"shape":[2],"data_offsets":[0,2]`, `"shape":[2],"data_offsets":[1,3]`), 3, refuses, `"b": data_offsets [1, 3] overlap those of tensor "a"`, ""},
		{"same range", two(`"shape":[2],"data_offsets":[0,2]`, `"shape":[2],"data_offsets":[0,2]`), 2, refuses, "overlap", ""},
		{"empty within another", two(`"shape":[2],"data_offsets":[0,2]`, `"shape":[0],"data_offsets":[1,1]`), 2, refuses, `"b"`, ""},
		{"empty at the start", two(`"shape":[2],"data_offsets":[0,2]`, `"shape":[0],"data_offsets":[0,0]`), 2, accepts, "", ""},
		{"in reverse", two(`"shape":[2],"data_offsets":[2,4]`, `"shape":[2],"data_offsets":[0,2]`), 4, accepts, "", ""},
		{"bytes and type disagree", `{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,2]}}`, 2, refuses, `"a": F16 of shape [2] takes 4 bytes`, ""},
		{"zero extent with bytes", `{"a":{"dtype":"F32","shape":[0,4],"data_offsets":[0,4]}}`, 4, refuses, `"a"`, ""},

		// Element types.
		{"BOOL", dtype("BOOL", "8"), 8, accepts, "", ""},
		{"U8", dtype("U8", "8"), 8, accepts, "", ""},
		{"I8", dtype("I8", "8"), 8, accepts, "", ""},
		{"F8_E5M2", dtype("F8_E5M2", "8"), 8, accepts, "", ""},
		{"F8_E4M3", dtype("F8_E4M3", "8"), 8, accepts, "", ""},
		{"I16", dtype("I16", "16"), 16, accepts, "", ""},
		{"U16", dtype("U16", "16"), 16, accepts, "", ""},
		{"F16", dtype("F16", "16"), 16, accepts, "", ""},
		{"BF16", dtype("BF16", "16"), 16, accepts, "", ""},
		{"I32", dtype("I32", "32"), 32, accepts, "", ""},
		{"U32", dtype("U32", "32"), 32, accepts, "", ""},
		{"F32", dtype("F32", "32"), 32, accepts, "", ""},
		{"I64", dtype("I64", "64"), 64, accepts, "", ""},
		{"U64", dtype("U64", "64"), 64, accepts, "", ""},
		{"F64", dtype("F64", "64"), 64, accepts, "", ""},
		{"F4", dtype("F4", "4"), 4, accepts, `"a": element type "F4"`, notHere},
		{"F6_E2M3", dtype("F6_E2M3", "6"), 6, accepts, `element type "F6_E2M3"`, notHere},
		{"F6_E3M2", dtype("F6_E3M2", "6"), 6, accepts, `element type "F6_E3M2"`, notHere},
		{"F8_E8M0", dtype("F8_E8M0", "8"), 8, accepts, `element type "F8_E8M0"`, notHere},
		{"F8_E4M3FNUZ", dtype("F8_E4M3FNUZ", "8"), 8, accepts, `element type "F8_E4M3FNUZ"`, notHere},
		{"F8_E5M2FNUZ", dtype("F8_E5M2FNUZ", "8"), 8, accepts, `element type "F8_E5M2FNUZ"`, notHere},
		{"C64", dtype("C64", "64"), 64, accepts, `element type "C64"`, notHere},
		{"lower case", dtype("u8", "8"), 8, refuses, `element type "u8"`, ""},
		{"a block type of GGUF", dtype("Q8_0", "8"), 8, refuses, `element type "Q8_0"`, ""},
		{"unknown", dtype("I4", "8"), 8, refuses, `element type "I4"`, ""},
		{"number", `{"a":{"dtype":1,"shape":[2],"data_offsets":[0,2]}}`, 2, refuses, `"a": dtype is a number`, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := read(file(tc.header, tc.data))
			if tc.want == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
			} else {
				wantError(t, err, tc.want)
			}
			ours := tc.want == ""
			if ours != tc.peer && tc.why == "" {
				t.Error("differs from the peer without a reason")
			}
			if ours == tc.peer && tc.why != "" {
				t.Error("a reason for a difference that is not there")
			}
		})
	}
}
