package checkpoint

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// writeIn writes a file by calls of so many bytes: the page cache keeps it in units that
// are no larger.
func writeIn(t *testing.T, content []byte, size int) *dataFile {
	t.Helper()
	path := filepath.Join(t.TempDir(), "data")
	w, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for b := content; len(b) > 0; {
		n, err := w.Write(b[:min(size, len(b))])
		if err != nil {
			t.Fatal(err)
		}
		b = b[n:]
	}
	f, err := openData(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// The rows of these tests. The first of them end where a large page does.
const (
	rowBytes  = 6*1024 + 2
	firstEnd  = 2 * largePage
	rowsBegin = firstEnd % rowBytes
	rowsAll   = 1500
)

func rowContent() []byte {
	content := make([]byte, rowsBegin+rowsAll*rowBytes)
	r := rand.NewChaCha8([32]byte{})
	r.Read(content)
	return content
}

// lendAll returns the rows as lendRows shows them, and how many bytes were lent. It calls
// before each time that rows are shown.
func lendAll(t *testing.T, f *dataFile, before func()) (got []byte, lent int, shown bool, err error) {
	t.Helper()
	shown, err = f.lendRows(rowsBegin, f.size-rowsBegin, rowBytes, func(off int64, b []byte) error {
		before()
		if off != int64(rowsBegin+len(got)) || len(b)%rowBytes != 0 {
			t.Errorf("%d bytes at %d after %d", len(b), off, len(got))
		}
		got, lent = append(got, b...), lent+len(b)
		return nil
	}, func(off, n int64) error {
		b := make([]byte, n)
		err := f.readFull(b, off)
		got = append(got, b...)
		return err
	})
	return got, lent, shown, err
}

// requireLent skips where the system has no large pages for files.
func requireLent(t *testing.T, lent int) {
	t.Helper()
	if lent == 0 {
		t.Skip("this kernel and file system map no file by large pages: reading through a mapping was not checked")
	}
}

// Whatever is lent and whatever is read, the rows are the file's.
func TestLendRows(t *testing.T) {
	content := rowContent()
	most := 0
	for _, size := range []int{len(content), 3 << 20, 4096} {
		f := writeIn(t, content, size)
		for range 2 { // entered anew the second time
			got, lent, shown, err := lendAll(t, f, func() {})
			if err != nil {
				t.Fatal(err)
			}
			if shown && !bytes.Equal(got, content[rowsBegin:]) {
				t.Errorf("written by %d bytes, %d of %d lent: other bytes than the file's", size, lent, len(got))
			}
			if size == 4096 && lent > 0 {
				t.Logf("%d bytes of small pages were lent", lent) // a kernel that puts them together
			}
			most = max(most, lent)
			f.mapping.leave()
		}
	}
	requireLent(t, most)
	if whole := len(content) / largePage * largePage; most > whole+rowBytes {
		t.Errorf("%d bytes were lent, and large pages can map the first %d at most", most, whole)
	}
}

// A file that is cut while its rows are lent is no crash, wherever it is cut.
func TestLendRowsOfFileThatShrinks(t *testing.T) {
	content := rowContent()[:firstEnd]
	for _, size := range []int{0, rowsBegin, largePage + 1, len(content) - 1} { // after the last there is no fault, but a zero
		f := writeIn(t, content, len(content))
		_, lent, shown, err := lendAll(t, f, func() {
			if err := os.Truncate(f.path, int64(size)); err != nil {
				t.Error(err)
			}
		})
		if lent == 0 {
			// The first rows were lent, but reading them was a fault; or none ever are.
			_, lent, _, _ = lendAll(t, writeIn(t, content, len(content)), func() {})
		}
		requireLent(t, lent)
		if shown && err == nil {
			t.Errorf("cut at %d of %d bytes, all rows were shown", size, len(content))
		}
	}
}

// A fault that has nothing to do with the mapping is not taken for one of it.
func TestLendRowsPanics(t *testing.T) {
	f := writeIn(t, rowContent(), 1<<30)
	lent := 0
	defer func() {
		if r := recover(); r == nil {
			requireLent(t, lent)
			t.Error("a nil dereference was passed over")
		}
	}()
	lendAll(t, f, func() {
		lent++
		var p *int
		*p = 1
	})
}
