package checkpoint

import (
	"os"

	"golang.org/x/sys/unix"
)

// otherDevice reports whether two directories are on different file systems.
func otherDevice(a, b string) bool {
	var s, t unix.Stat_t
	return unix.Stat(a, &s) == nil && unix.Stat(b, &t) == nil && s.Dev != t.Dev
}

// writable reports whether entries can be made in a directory.
func writable(dir string) bool { return unix.Access(dir, unix.W_OK|unix.X_OK) == nil }

// exchange swaps two directories in one step.
func exchange(a, b string) error {
	return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
}

// startWriteback asks the kernel to begin writing a file's dirty pages to disk, so that
// the final fsync finds little left to do. It is a hint: an error changes nothing.
func startWriteback(f *os.File) {
	_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
}
