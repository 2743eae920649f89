package gguf_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/gguf"
	w "github.com/coppice-lm/coppice/internal/ggufwrite"
	"github.com/coppice-lm/coppice/tensor"
)

func read(b []byte) (*gguf.File, error) { return gguf.Read(bytes.NewReader(b), int64(len(b))) }

// zeros is a tensor of the size its type and shape imply.
func zeros(t testing.TB, name string, d tensor.DType, shape ...int) w.Tensor {
	t.Helper()
	info := tensor.Info{Name: name, DType: d, Shape: shape}
	n, err := info.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return w.Tensor{Info: info, Data: make([]byte, n)}
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

func TestRead(t *testing.T) {
	kv := []gguf.KeyValue{
		w.Pair("general.architecture", gguf.StringValue("llama")),
		w.Pair("general.alignment", gguf.Uint32Value(64)),
	}
	tensors := []w.Tensor{
		zeros(t, "token_embd.weight", tensor.Q8_0, 3, 64),
		zeros(t, "norm", tensor.F32, 5),
		zeros(t, "scalar", tensor.BF16),
		zeros(t, "none", tensor.F16, 0, 4),
		zeros(t, "four", tensor.I8, 2, 3, 4, 5),
	}
	for _, version := range []uint32{2, 3} {
		b := w.Build(kv, tensors, version, 64)
		f, err := read(b)
		if err != nil {
			t.Fatal(err)
		}
		if f.Version != version || f.Alignment != 64 || f.DataStart%64 != 0 {
			t.Errorf("version %d, alignment %d, data from %d", f.Version, f.Alignment, f.DataStart)
		}
		if diff := cmp.Diff(kv, f.KV); diff != "" {
			t.Error(diff)
		}
		if len(f.Tensors) != len(tensors) {
			t.Fatalf("%d tensors, want %d", len(f.Tensors), len(tensors))
		}
		at := f.DataStart
		for i, e := range f.Tensors {
			if diff := cmp.Diff(tensors[i].Info, e.Info); diff != "" {
				t.Error(diff)
			}
			at = (at + 63) / 64 * 64
			if e.Begin != at || e.End != at+int64(len(tensors[i].Data)) {
				t.Errorf("%s has the range [%d, %d), want %d bytes from %d", e.Name, e.Begin, e.End, len(tensors[i].Data), at)
			}
			at = e.End
		}
		if at != int64(len(b)) {
			t.Errorf("tensors end at %d of %d bytes", at, len(b))
		}
	}
}

// Every type number that ggml gives to a type of package tensor is read as that type.
func TestTensorTypes(t *testing.T) {
	for d, number := range w.TypeNumbers {
		f, err := read(w.Build(nil, []w.Tensor{zeros(t, "x", d, 2, 256)}, 3, 32))
		if err != nil || f.Tensors[0].DType != d {
			t.Errorf("type %d: got %v, %v, want %v", number, f, err, d)
		}
	}
}

// Every prefix of a file is refused, unless it cuts only the padding before no data.
func TestTruncated(t *testing.T) {
	b := w.Build([]gguf.KeyValue{
		w.Pair("a", gguf.StringsValue("x", "", "yz")),
		w.Pair("b", gguf.ArrayValue(gguf.Array, gguf.Int32sValue(1, 2), gguf.StringsValue("q"))),
		w.Pair("c", gguf.BoolValue(true)),
	}, []w.Tensor{zeros(t, "t", tensor.F32, 3)}, 3, 32)
	if _, err := read(b); err != nil {
		t.Fatal(err)
	}
	for n := range b {
		if _, err := read(b[:n]); err == nil {
			t.Errorf("%d of %d bytes are accepted", n, len(b))
		}
		// The same where only the reader knows.
		if _, err := gguf.Read(bytes.NewReader(b[:n]), int64(len(b))); err == nil && n < len(b)-12-32 {
			t.Errorf("a file that shrank to %d of %d bytes is accepted", n, len(b))
		}
	}
}

// head is the start of a file, to be followed by hand-made bytes.
func head(tensors, keys uint64) []byte {
	b := append([]byte("GGUF"), 3, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, tensors)
	return binary.LittleEndian.AppendUint64(b, keys)
}

func str(s string) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, uint64(len(s))), s...)
}

func u32(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }
func u64(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// entry describes a tensor; extents are in file order.
func entry(name string, extents []uint64, number uint32, offset uint64) []byte {
	b := join(str(name), u32(uint32(len(extents))))
	for _, n := range extents {
		b = append(b, u64(n)...)
	}
	return join(b, u32(number), u64(offset))
}

func TestHostile(t *testing.T) {
	one := func(value ...[]byte) []byte { return join(head(0, 1), str("k"), join(value...), make([]byte, 64)) }
	tensors := func(entries ...[]byte) []byte {
		return join(head(uint64(len(entries)), 0), join(entries...), make([]byte, 512))
	}
	alignment := func(v gguf.Value) []byte {
		return w.Build([]gguf.KeyValue{w.Pair("general.alignment", v)}, nil, 3, 32)
	}
	nested := func(depth int) []byte {
		b := u32(9)
		for range depth {
			b = append(b, join(u32(9), u64(1))...)
		}
		return one(b, u32(0), u64(0))
	}
	f32 := []uint64{4}
	for _, tc := range []struct {
		name string
		file []byte
		want []string
	}{
		{"empty", nil, []string{"not a GGUF file"}},
		{"other magic", make([]byte, 64), []string{"not a GGUF file", `\x00\x00\x00\x00`}},
		{"version 0", join([]byte("GGUF"), u32(0), make([]byte, 64)), []string{"version 0"}},
		{"version 1", join([]byte("GGUF"), u32(1), make([]byte, 64)), []string{"version 1", "convert the file again"}},
		{"version 4", join([]byte("GGUF"), u32(4), make([]byte, 64)), []string{"version 4"}},
		{"big-endian", join([]byte("GGUF"), u32(3<<24), make([]byte, 64)), []string{"big-endian"}},
		{"big-endian magic", join([]byte("FUGG"), u32(3<<24), make([]byte, 64)), []string{"big-endian"}},

		{"tensor count", head(1<<40, 0), []string{"1099511627776 tensors"}},
		{"tensor count 2^64-1", head(math.MaxUint64, 0), []string{"18446744073709551615 tensors"}},
		{"key count", head(0, 1<<63), []string{"9223372036854775808 keys"}},
		{"key name length", join(head(0, 1), u64(1<<62), make([]byte, 64)), []string{"key 1 of 1", "4611686018427387904"}},
		{"key name too long", join(head(0, 1), u64(70000), make([]byte, 80000)), []string{"key 1 of 1", "70000 bytes", "65535"}},
		{"key empty", join(head(0, 1), str(""), u32(0), make([]byte, 64)), []string{"key 1 of 1 is empty"}},
		{"key not UTF-8", join(head(0, 1), str("\xff"), u32(0), make([]byte, 64)), []string{"key 1 of 1", "not valid UTF-8"}},
		{"key twice", join(head(0, 2), str("k"), u32(0), []byte{1}, str("k"), u32(0), []byte{1}, make([]byte, 64)), []string{`key "k" comes twice`}},

		{"value type", one(u32(13)), []string{`key "k"`, "value type 13"}},
		{"string length", one(u32(8), u64(1<<63)), []string{`key "k"`, "9223372036854775808"}},
		{"string longer than the file", one(u32(8), u64(65)), []string{`key "k"`, "truncated: 65"}},
		{"array type", one(u32(9), u32(99), u64(1)), []string{`key "k"`, "element type 99"}},
		{"array count", one(u32(9), u32(4), u64(1<<62)), []string{`key "k"`, "truncated: 4611686018427387904"}},
		{"array of strings, count", one(u32(9), u32(8), u64(9)), []string{`key "k"`, "truncated: 9"}},
		{"string in an array", one(u32(9), u32(8), u64(2), str("a"), u64(1<<40)), []string{`key "k": element 1`, "1099511627776"}},
		{"nested 8 deep", nested(8), []string{`key "k"`, "nest deeper than 8"}},
		{"nested 100,000 deep", nested(100_000), []string{`key "k"`, "nest deeper than 8"}},

		{"alignment 0", alignment(gguf.Uint32Value(0)), []string{`"general.alignment" is 0`, "power of two"}},
		{"alignment 48", alignment(gguf.Uint32Value(48)), []string{`"general.alignment" is 48`, "power of two"}},
		{"alignment uint64", alignment(w.Scalar(gguf.Uint64, 32)), []string{`"general.alignment"`, "uint64", "uint32"}},
		{"alignment string", alignment(gguf.StringValue("32")), []string{`"general.alignment"`, "string"}},
		{"alignment beyond the file", w.Build([]gguf.KeyValue{w.Pair("general.alignment", gguf.Uint32Value(1<<31))},
			[]w.Tensor{zeros(t, "a", tensor.F32, 1)}, 3, 32), []string{`tensor "a"`, "outside the file"}},

		{"tensor name length", join(head(1, 0), u64(1<<62), make([]byte, 64)), []string{"tensor 1 of 1", "4611686018427387904"}},
		{"tensor name not UTF-8", tensors(entry("\xff", f32, 0, 0)), []string{"tensor 1 of 1", "UTF-8"}},
		{"tensor twice", tensors(entry("a", f32, 0, 0), entry("a", f32, 0, 32)), []string{`tensor "a" comes twice`}},
		{"five dimensions", tensors(entry("a", []uint64{1, 1, 1, 1, 1}, 0, 0)), []string{`tensor "a"`, "5 dimensions"}},
		{"2^32-1 dimensions", join(head(1, 0), str("a"), u32(math.MaxUint32), make([]byte, 64)), []string{`tensor "a"`, "4294967295 dimensions"}},
		{"extent 2^63", tensors(entry("a", []uint64{1 << 63}, 0, 0)), []string{`tensor "a"`, "overflows"}},
		{"elements overflow", tensors(entry("a", []uint64{1 << 32, 1 << 32}, 0, 0)), []string{`tensor "a"`, "63 bits"}},
		{"bytes overflow", tensors(entry("a", []uint64{1 << 62}, 0, 0)), []string{`tensor "a"`, "63 bits"}},
		{"part of a block", tensors(entry("a", []uint64{33, 2}, 8, 0)), []string{`tensor "a"`, "33 elements", "Q8_0"}},
		{"scalar of blocks", tensors(entry("a", nil, 8, 0)), []string{`tensor "a"`, "Q8_0"}},
		{"IQ4_NL", tensors(entry("a", f32, 20, 0)), []string{`tensor "a"`, "20", "IQ4_NL"}},
		{"MXFP4", tensors(entry("a", f32, 39, 0)), []string{`tensor "a"`, "39", "MXFP4"}},
		{"removed type", tensors(entry("a", f32, 4, 0)), []string{`tensor "a"`, "4", "Q4_2"}},
		{"unknown type", tensors(entry("a", f32, 1000, 0)), []string{`tensor "a"`, "1000", "unknown"}},
		{"offset not aligned", tensors(entry("a", f32, 0, 16)), []string{`tensor "a"`, "16", "alignment 32"}},
		{"offset beyond the file", tensors(entry("a", f32, 0, 1<<20)), []string{`tensor "a"`, "1048576", "outside the file"}},
		{"offset 2^64-32", tensors(entry("a", f32, 0, math.MaxUint64-31)), []string{`tensor "a"`, "outside the file"}},
		{"data beyond the file", tensors(entry("a", []uint64{512}, 0, 0)), []string{`tensor "a"`, "2048 bytes", "outside the file"}},
		{"overlap", tensors(entry("a", []uint64{9}, 0, 32), entry("b", []uint64{9}, 0, 0)), []string{`"a"`, `"b"`, "overlap"}},
		{"same range", tensors(entry("a", f32, 0, 0), entry("b", f32, 0, 0)), []string{`"a"`, `"b"`, "overlap"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := read(tc.file)
			wantError(t, err, tc.want...)
		})
	}
	if _, err := read(nested(7)); err != nil {
		t.Errorf("arrays eight deep: %v", err)
	}
}

// zeroFile is a file of any size that is b and then zeros, as a sparse file is.
type zeroFile []byte

func (z zeroFile) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(z)) {
		copy(p, z[off:])
	}
	return len(p), nil
}

// A sparse file really has as many bytes as it claims; it is refused for the memory
// they would take, before they take it.
func TestMemoryIsBounded(t *testing.T) {
	const size = 1 << 40
	for _, tc := range []struct {
		name string
		file []byte
		want string
	}{
		{"one string", join(head(0, 1), str("k"), u32(8), u64(1<<39)), `key "k"`},
		{"array of numbers", join(head(0, 1), str("k"), u32(9), u32(10), u64(1<<35)), `key "k"`},
		{"array of empty strings", join(head(0, 1), str("k"), u32(9), u32(8), u64(1<<36)), `key "k": element`},
		{"array of empty arrays", join(head(0, 1), str("k"), u32(9), u32(9), u64(1<<36)), `key "k": element`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var err error
			n := allocated(func() { _, err = gguf.Read(zeroFile(tc.file), size) })
			wantError(t, err, tc.want, "more than 48 MiB")
			if n > 1<<20 {
				t.Errorf("%d bytes were allocated", n)
			}
		})
	}
}

// allocated is the number of bytes that f allocates, whether it keeps them or not.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestSplitPaths(t *testing.T) {
	for _, tc := range []struct {
		path string
		want []string
	}{
		{"m.gguf", []string{"m.gguf"}},
		{"m-1-of-2.gguf", []string{"m-1-of-2.gguf"}},
		{"m-00001-of-00002.bin", []string{"m-00001-of-00002.bin"}},
		{"d/m-00001-of-00001.gguf", []string{"d/m-00001-of-00001.gguf"}},
		{"/d-00001-of-00009/m.x-00002-of-00003.gguf", []string{
			"/d-00001-of-00009/m.x-00001-of-00003.gguf",
			"/d-00001-of-00009/m.x-00002-of-00003.gguf",
			"/d-00001-of-00009/m.x-00003-of-00003.gguf"}},
	} {
		got, err := gguf.SplitPaths(tc.path)
		if err != nil {
			t.Errorf("%s: %v", tc.path, err)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Error(diff)
		}
	}
	for _, path := range []string{"m-00000-of-00002.gguf", "m-00003-of-00002.gguf", "m-00001-of-00000.gguf"} {
		_, err := gguf.SplitPaths(path)
		wantError(t, err, path)
	}
}
