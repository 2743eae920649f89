package safetensors

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/tensor"
)

func TestWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	infos := []tensor.Info{{Name: "a", DType: tensor.U8, Shape: tensor.Shape{3}}, {Name: "b", DType: tensor.U8, Shape: tensor.Shape{2}}}
	meta := map[string]string{"k": "one"}
	put := func(w *Writer, name, value string) {
		t.Helper()
		to, err := w.Tensor(name)
		if err == nil {
			_, err = to.Write([]byte(value))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	w, err := Create(path, meta, infos)
	if err != nil {
		t.Fatal(err)
	}
	put(w, "b", "yz")
	if _, err := w.Tensor("c"); err == nil || !strings.Contains(err.Error(), `"c"`) {
		t.Errorf("a tensor that is not there: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Continue(path, map[string]string{"k": "two"}, infos); err == nil || !strings.Contains(err.Error(), "something else") {
		t.Errorf("continued with other metadata: %v", err)
	}
	if w, err = Continue(path, meta, infos); err != nil {
		t.Fatal(err)
	}
	put(w, "a", "vwx")
	to, _ := w.Tensor("a")
	if _, err := to.Write([]byte("four")); err == nil {
		t.Error("wrote beyond a tensor")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, _ := f.Stat()
	h, err := ReadHeader(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"a": "vwx", "b": "yz"} {
		e, _ := h.Lookup(name)
		got := make([]byte, e.End-e.Begin)
		if _, err := f.ReadAt(got, e.Begin); err != nil || string(got) != want {
			t.Errorf("%s holds %q, want %q (%v)", name, got, want, err)
		}
	}
	if h.Metadata["k"] != "one" {
		t.Errorf("metadata %v", h.Metadata)
	}
}
