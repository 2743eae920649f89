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
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}
