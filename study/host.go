package study

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/coppice-lm/coppice/engine/cpu/kernel"
)

// ThisHost describes the machine for work on that many threads, without naming it. What
// the system does not say is "unknown", or 0.
func ThisHost(threads int) Host {
	h := Host{
		OS: runtime.GOOS, Arch: runtime.GOARCH, CPU: "unknown", Cores: runtime.NumCPU(),
		Threads: threads, Level: kernel.Active().String(),
	}
	if name, ok := procField("/proc/cpuinfo", "model name"); ok {
		h.CPU = name
	}
	if memory, ok := procField("/proc/meminfo", "MemTotal"); ok {
		fmt.Sscanf(memory, "%d kB", &h.Memory)
		h.Memory <<= 10
	}
	return h
}

// procField returns what follows the first "key:" in a file of such lines.
func procField(path, key string) (value string, ok bool) {
	text, _ := os.ReadFile(path) // other systems have no such file
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == key {
			return strings.TrimSpace(value), true
		}
	}
	return "", false
}
