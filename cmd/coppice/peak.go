package main

import (
	"fmt"
	"math"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
)

// resetPeakMemory gives memory that is not used any more back to the system and lets
// peakMemory begin anew, so that of two models in one process each is counted alone.
// Where the system cannot do that (Linux 4.0 and later can) the peak stays the process's.
func resetPeakMemory() {
	debug.FreeOSMemory()
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // see proc(5)
}

// peakMemory is the most memory that this process held since resetPeakMemory, in bytes; 0
// where the system does not say.
func peakMemory() int64 {
	return procBytes("/proc/self/status", "VmHWM")
}

// freeMemory is what this process can still take of the machine's memory, or of what its
// container may have of it, in bytes; 0 where the system does not say.
func freeMemory() int64 {
	free := procBytes("/proc/meminfo", "MemAvailable")
	group, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return free
	}
	for line := range strings.SplitSeq(string(group), "\n") {
		if name, ok := strings.CutPrefix(line, "0::"); ok { // of version 2; see cgroups(7)
			free = min(free, groupMemory("/sys/fs/cgroup", name))
		}
	}
	return free
}

// groupMemory is what a control group of version 2, and all that it is part of, still let
// a process take, in bytes. Files in the page cache are given back where there is need.
func groupMemory(root, name string) int64 {
	free := int64(math.MaxInt64)
	number := func(file string) (int64, bool) {
		b, err := os.ReadFile(filepath.Join(root, name, file))
		if err != nil {
			return 0, false
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		return n, err == nil // "max" is no number and no limit
	}
	for {
		limit, limited := number("memory.max")
		used, known := number("memory.current")
		if limited && known {
			stat, _ := os.ReadFile(filepath.Join(root, name, "memory.stat"))
			for line := range strings.SplitSeq(string(stat), "\n") {
				if what, n, _ := strings.Cut(line, " "); what == "active_file" || what == "inactive_file" {
					pages, _ := strconv.ParseInt(n, 10, 64)
					used -= pages
				}
			}
			free = min(free, max(limit-used, 1))
		}
		if name == "/" || name == "." {
			return free
		}
		name = path.Dir(name)
	}
}

// procBytes reads a line "key: 12 kB" of a file of such lines.
func procBytes(path, key string) int64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		var kib int64
		if n, _ := fmt.Sscanf(line, key+": %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}
