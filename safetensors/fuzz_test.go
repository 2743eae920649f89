package safetensors

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/tensor"
)

// Whatever the bytes: no panic, and a header that is accepted covers the file, has the
// sizes it says, and is the same after it was written and read again.
func FuzzReadHeader(f *testing.F) {
	f.Add(file(`{"a":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]}}`, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := read(b)
		if err != nil {
			return
		}
		at := h.DataStart
		infos := make([]tensor.Info, len(h.Tensors))
		for i, e := range h.Tensors {
			if e.Begin != at {
				t.Fatalf("%q begins at %d, want %d", e.Name, e.Begin, at)
			}
			if n, err := e.Bytes(); err != nil || n != e.End-e.Begin {
				t.Fatalf("%q has %d bytes, want %d (%v)", e.Name, e.End-e.Begin, n, err)
			}
			at, infos[i] = e.End, e.Info
		}
		if at != int64(len(b)) {
			t.Fatalf("tensors end at %d of %d", at, len(b))
		}
		prefix, _, err := EncodeHeader(h.Metadata, infos)
		if err != nil {
			t.Fatal(err)
		}
		again, err := read(append(prefix, b[h.DataStart:]...))
		if err != nil {
			t.Fatalf("%v\n%s", err, prefix)
		}
		if len(h.Metadata) > 0 && !cmp.Equal(h.Metadata, again.Metadata) {
			t.Fatal(cmp.Diff(h.Metadata, again.Metadata))
		}
		for i, e := range again.Tensors {
			if !cmp.Equal(e.Info, infos[i]) {
				t.Fatal(cmp.Diff(infos[i], e.Info))
			}
		}
	})
}
