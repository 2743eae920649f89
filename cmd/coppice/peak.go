package main

import (
	"fmt"
	"os"
	"runtime/debug"
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

// freeMemory is what programs can still take of the machine's memory, in bytes; 0 where
// the system does not say.
func freeMemory() int64 { return procBytes("/proc/meminfo", "MemAvailable") }

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
