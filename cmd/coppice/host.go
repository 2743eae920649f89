package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/coppice-lm/coppice/engine/cpu/kernel"
	"github.com/coppice-lm/coppice/study"
)

// host says what this machine is, as far as the system tells.
func (a *app) host() study.Host {
	h := study.Host{OS: runtime.GOOS, Arch: runtime.GOARCH, Cores: runtime.NumCPU(), Threads: a.threads, Level: kernel.Active().String()}
	h.CPU = procField("/proc/cpuinfo", "model name")
	var kib int64
	if n, _ := fmt.Sscanf(procField("/proc/meminfo", "MemTotal"), "%d kB", &kib); n == 1 {
		h.Memory = kib << 10
	}
	return h
}

// procField is the value of the first line of a file under /proc that has the key, or "".
func procField(path, key string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if k, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
