//go:build linux || darwin

package study

import (
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

// diskFree is how many bytes an ordinary user may still write to the disk of a directory.
func diskFree(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(min(uint64(st.Bavail)*uint64(st.Bsize), 1<<62)), nil
}

// deviceOf tells disks apart.
func deviceOf(st fs.FileInfo) any {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return s.Dev
	}
	return nil
}
