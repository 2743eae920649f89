package checkpoint

import (
	"encoding/binary"
	"os"
	"runtime/debug"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A file's pages in the page cache can be read where they are, through a mapping, or be
// copied out by pread. The copy takes about as long again as the reading; a mapping by
// pages of 4 KB takes more, a fault for each few of them. But newer kernels keep files in
// larger units (ext4 since Linux 6.16, XFS longer), and one of 2 MB that lies in the file
// as the mapping lies in memory is entered by one fault. Reading it is as fast as memory.

// largePage is the bytes that one entry of the second level maps, with pages of 4 KB.
const largePage = 2 << 20

// mapping is a whole file in the address space, entered as it is read.
type mapping struct {
	mu      sync.Mutex
	opened  bool
	bytes   []byte // nil where the file cannot be mapped
	pagemap *os.File
}

// lendRows shows the rows of rb bytes in [off, off+n) of the file, in order, to see, which
// gets the offset of the first it is shown, where they lie in memory; those that no large
// page maps are left to read. It reports whether all were shown. If not, see may have been
// shown bytes that are none of the file's: read all rows then, which also tells what is
// wrong with the file.
func (f *dataFile) lendRows(off, n, rb int64, see func(off int64, b []byte) error, read func(off, n int64) error) (shown bool, err error) {
	m := &f.mapping
	if m.open(f); m.bytes == nil {
		return false, nil
	}
	held := m.holds(func() {
		for end := off + n; off < end && err == nil; {
			page := off &^ (largePage - 1)
			// The rows that begin in this page; the last may end in the next.
			k := min(end-off, (page+largePage-off+rb-1)/rb*rb)
			if m.enter(page) {
				err = see(off, m.bytes[off:off+k:off+k])
			} else {
				err = read(off, k)
			}
			off += k
		}
	})
	// Beyond the end of a file that was cut within a page, there are zeros and no fault.
	st, serr := f.Stat()
	return held && serr == nil && st.Size() >= f.size, err
}

// open maps the file once, if that can be of use.
func (m *mapping) open(f *dataFile) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.opened {
		return
	}
	m.opened = true
	if f.size < largePage || int64(int(f.size)) != f.size {
		return
	}
	pagemap, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(f.size), unix.PROT_READ, unix.MAP_SHARED)
	if err == nil && address(b)%largePage == 0 {
		// What is not in the page cache yet comes in large units then.
		_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
		m.bytes, m.pagemap = b, pagemap
		return
	}
	pagemap.Close()
	if err == nil {
		_ = unix.Munmap(b)
	}
}

// enter enters the first small page of a large one, for which the kernel enters all that it
// can with one entry, or some neighbours, and reports whether the last one came with it.
func (m *mapping) enter(at int64) bool {
	page := int64(os.Getpagesize())
	if at+largePage > int64(len(m.bytes)) || unix.Madvise(m.bytes[at:at+page], unix.MADV_POPULATE_READ) != nil {
		return false
	}
	var entry [8]byte // Documentation/admin-guide/mm/pagemap.rst in Linux: bit 63 says that the page is present
	last := int64(address(m.bytes)) + at + largePage - page
	_, err := m.pagemap.ReadAt(entry[:], last/page*8)
	return err == nil && binary.NativeEndian.Uint64(entry[:])>>63 == 1
}

// holds calls do and reports whether the mapping held under it: it does not where the file
// was cut short or its disk fails.
func (m *mapping) holds(do func()) (held bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch r := recover().(type) {
		case nil:
		case interface{ Addr() uintptr }: // runtime/debug.SetPanicOnFault
			if r.Addr()-address(m.bytes) >= uintptr(len(m.bytes)) {
				panic(r)
			}
		default:
			panic(r)
		}
	}()
	do()
	return true
}

// leave takes out of the address space what was entered. Who reads there enters it again.
func (m *mapping) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bytes != nil {
		_ = unix.Madvise(m.bytes, unix.MADV_DONTNEED)
	}
}

func (m *mapping) close() {
	if m.bytes != nil {
		m.pagemap.Close()
		_ = unix.Munmap(m.bytes)
		m.bytes = nil
	}
}

func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }
