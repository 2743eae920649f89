package safetensors

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/tensor"
)

// file is a file of that header and so many bytes of data.
func file(header string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	b = append(b, header...)
	return append(b, make([]byte, data)...)
}

func read(b []byte) (*Header, error) {
	return ReadHeader(bytes.NewReader(b), int64(len(b)))
}

// wantError checks that err names all of the parts.
func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
}

// The seven files of the report modelaudit#1607, safetensors#823: what strict readers
// wrongly refuse, and what must stay refused.
func TestReport(t *testing.T) {
	const a = `"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}`
	for _, tc := range []struct {
		name   string
		header string
		data   int
		want   []tensor.Info
		errs   []string
	}{
		{"zero extent", `{"a":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]}}`, 0,
			[]tensor.Info{{Name: "a", DType: tensor.F32, Shape: tensor.Shape{0, 4}}}, nil},
		{"scalar", `{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}`, 4,
			[]tensor.Info{{Name: "a", DType: tensor.F32, Shape: tensor.Shape{}}}, nil},
		{"metadata {}", `{"__metadata__":{},` + a + `}`, 2,
			[]tensor.Info{{Name: "a", DType: tensor.U8, Shape: tensor.Shape{2}}}, nil},
		{"metadata null", `{"__metadata__":null,` + a + `}`, 2,
			[]tensor.Info{{Name: "a", DType: tensor.U8, Shape: tensor.Shape{2}}}, nil},
		{"one element in no bytes", `{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,0]}}`, 0,
			nil, []string{`"a"`, "takes 4 bytes", "hold 0"}},
		{"hole", `{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}`, 3,
			nil, []string{`"b"`, "hole", "1 to 2"}},
		{"number in metadata", `{"__metadata__":{"step":1},` + a + `}`, 2,
			nil, []string{"__metadata__", `"step"`, "a number, not a string"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, err := read(file(tc.header, tc.data))
			if tc.errs != nil {
				wantError(t, err, tc.errs...)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []tensor.Info
			for _, e := range h.Tensors {
				got = append(got, e.Info)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The header may list tensors in any order; the entries come in that of the data, and
// an empty tensor may stand between two others.
func TestOrderAndRanges(t *testing.T) {
	const header = `{"c":{"dtype":"BF16","shape":[1,2],"data_offsets":[2,6]},` +
		`"__metadata__":{"format":"pt","\u00e9\n":"\ud83d\ude00"},` +
		`"b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]},` +
		`"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}`
	b := file(header, 6)
	h, err := read(b)
	if err != nil {
		t.Fatal(err)
	}
	start := int64(8 + len(header))
	want := []Entry{
		{tensor.Info{Name: "a", DType: tensor.U8, Shape: tensor.Shape{2}}, start, start + 2},
		{tensor.Info{Name: "b", DType: tensor.U8, Shape: tensor.Shape{0}}, start + 2, start + 2},
		{tensor.Info{Name: "c", DType: tensor.BF16, Shape: tensor.Shape{1, 2}}, start + 2, start + 6},
	}
	if diff := cmp.Diff(want, h.Tensors); diff != "" {
		t.Error(diff)
	}
	if h.DataStart != start {
		t.Errorf("DataStart = %d, want %d", h.DataStart, start)
	}
	if diff := cmp.Diff(map[string]string{"format": "pt", "é\n": "😀"}, h.Metadata); diff != "" {
		t.Error(diff)
	}
	if e, ok := h.Lookup("c"); !ok || e.Begin != start+2 {
		t.Errorf("Lookup(c) = %v, %v", e, ok)
	}
	if _, ok := h.Lookup("__metadata__"); ok {
		t.Error("Lookup finds __metadata__")
	}
}

func TestNoTensors(t *testing.T) {
	h, err := read(file(`{"__metadata__":{"a":"b"}} `, 0))
	if err != nil || len(h.Tensors) != 0 {
		t.Errorf("got %v, %v", h, err)
	}
}

// A length is compared with the file before anything is allocated.
func TestHeaderLength(t *testing.T) {
	for _, tc := range []struct {
		name   string
		length uint64
		want   string
	}{
		{"0", 0, "a header of 0 bytes"},
		{"1", 1, "a header of 1 bytes"},
		{"one more than the file", 3, "truncated: the header claims 3 bytes, the file has 2"},
		{"the limit", maxHeader, "truncated"},
		{"above the limit", maxHeader + 1, "claims 16000001 bytes, the limit is 16000000"},
		{"2^31", 1 << 31, "claims 2147483648"},
		{"2^63-1", 1<<63 - 1, "claims 9223372036854775807"},
		{"2^64-1", 1<<64 - 1, "claims 18446744073709551615"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := append(binary.LittleEndian.AppendUint64(nil, tc.length), "{}"...)
			_, err := read(b)
			wantError(t, err, tc.want)
		})
	}
	for n := range 8 {
		_, err := read(make([]byte, n))
		wantError(t, err, "too few for the length")
	}
}

// Every prefix of a file is refused.
func TestTruncated(t *testing.T) {
	whole := file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 8)
	if _, err := read(whole); err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if _, err := read(whole[:n]); err == nil {
			t.Errorf("%d of %d bytes are accepted", n, len(whole))
		}
	}
}

// A file that became shorter since its size was asked for, or cannot be read.
func TestShrunk(t *testing.T) {
	whole := file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 8)
	for _, n := range []int{0, 7, 8, 20} {
		_, err := ReadHeader(bytes.NewReader(whole[:n]), int64(len(whole)))
		wantError(t, err, "became shorter")
	}
}

func TestSyntaxErrorsSayWhere(t *testing.T) {
	_, err := read(file(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}]`, 2))
	wantError(t, err, "byte 52", `want '}', found the byte ']'`)
	_, err = read(file("{\"a\xff\":1}", 0))
	wantError(t, err, "not valid UTF-8 at byte 3")
}

// The tensors of a 3B model, and 100,000 in a header of 11 MB.
func BenchmarkReadHeader(b *testing.B) {
	for _, n := range []int{254, 100_000} {
		infos := make([]tensor.Info, n)
		for i := range infos {
			infos[i] = tensor.Info{Name: benchName(i), DType: tensor.BF16, Shape: tensor.Shape{8, 4}}
		}
		prefix, entries, err := EncodeHeader(map[string]string{"format": "pt"}, infos)
		if err != nil {
			b.Fatal(err)
		}
		// The benchmark's reader holds the header alone: no data is ever read.
		size := entries[len(entries)-1].End
		b.Run(fmt.Sprintf("tensors=%d", n), func(b *testing.B) {
			b.SetBytes(int64(len(prefix)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ReadHeader(bytes.NewReader(prefix), size); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
