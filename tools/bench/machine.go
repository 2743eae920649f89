//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/coppice-lm/coppice/study"
)

// machine says on what the figures were taken, without naming the host.
type machine struct {
	CPU         string `json:"cpu"`
	Cores       int    `json:"cores"`
	MemoryBytes int64  `json:"memory_bytes"`
	Kernel      string `json:"kernel"`
	Filesystem  string `json:"filesystem"`
	Disk        string `json:"disk"`
	Go          string `json:"go"`
	// Load is the load average of the minute before the run; a busy machine is no
	// place for figures.
	Load float64 `json:"load_before"`
}

// describeMachine reads /proc; what cannot be read is "unknown", as it decides nothing.
func describeMachine(dir string) machine {
	host := study.ThisHost(0)
	m := machine{
		CPU: host.CPU, Cores: host.Cores, MemoryBytes: host.Memory, Kernel: "unknown",
		Go: runtime.Version() + " " + host.OS + "/" + host.Arch,
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(release))
	}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		fmt.Sscan(string(load), &m.Load)
	}
	if m.Load > 0.5 {
		say("the load average is %.1f: other programs are running, and the figures will be off", m.Load)
	}
	m.Filesystem, m.Disk = mount(dir)
	return m
}

// mount returns the type and the device of the file system that holds dir: the mount
// point that is its longest prefix.
func mount(dir string) (fstype, device string) {
	fstype, device = "unknown", "unknown"
	dir, err := filepath.Abs(dir)
	if err != nil {
		return
	}
	text, _ := os.ReadFile("/proc/self/mounts")
	longest := -1
	for line := range strings.Lines(string(text)) {
		// The device, the mount point, the type, and options.
		f := strings.Fields(line)
		if len(f) < 3 || len(f[1]) < longest {
			continue
		}
		if relative, err := filepath.Rel(f[1], dir); err == nil && filepath.IsLocal(relative) {
			longest, fstype, device = len(f[1]), f[2], filepath.Base(f[0])
		}
	}
	return
}

// peerVersions asks the virtual environment which versions it holds.
func (b *bench) peerVersions() map[string]string {
	if b.python() == "" {
		say("no -venv: the peers are not measured")
		return nil
	}
	const program = `import importlib.metadata as m, json, platform
print(json.dumps({"python": platform.python_version(), **{p: m.version(p) for p in ("torch", "transformers", "optipfair", "safetensors", "gguf")}}))`
	versions := map[string]string{}
	_, out, err := b.run(b.python(), "-c", program)
	if err == nil {
		err = json.Unmarshal(out, &versions)
	}
	if err != nil {
		say("the versions of the peers are unknown: %v", err)
	}
	return versions
}
