package kernel

import (
	"syscall"
	"unsafe"
)

// adviseHuge asks for huge pages where whole ones fit. Without them all works as well,
// so that a refusal is nothing to report.
func adviseHuge(b []byte) {
	const hugePage = 2 << 20
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) % hugePage)
	if n := (len(b) - skip) / hugePage * hugePage; n > 0 {
		_ = syscall.Madvise(b[skip:skip+n], syscall.MADV_HUGEPAGE)
	}
}
