//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// bench is a run in progress.
type bench struct {
	options
	ctx         context.Context
	work, model string
	report      report
}

// usage is what one process took.
type usage struct {
	// Wall and CPU are in seconds; CPU is user and system time of all threads.
	Wall float64 `json:"wall_s"`
	CPU  float64 `json:"cpu_s"`
	// Peak is the largest resident set in bytes (VmHWM).
	Peak int64 `json:"peak_bytes"`
}

// series is one measurement repeated, in the order in which it was taken.
type series []usage

// wall is the median time in seconds.
func (s series) wall() float64 {
	return s.median(func(u usage) float64 { return u.Wall })
}

// cores is the median number of cores kept busy.
func (s series) cores() float64 {
	return s.median(func(u usage) float64 { return u.CPU / u.Wall })
}

// peak is the largest of all, not the median: a limit holds for every run.
func (s series) peak() int64 {
	var most int64
	for _, u := range s {
		most = max(most, u.Peak)
	}
	return most
}

func (s series) median(of func(usage) float64) float64 {
	values := make([]float64, len(s))
	for i, u := range s {
		values[i] = of(u)
	}
	return median(values)
}

// median of at least one value; of an even number, the mean of the two in the middle.
func median(values []float64) float64 {
	slices.Sort(values)
	middle := len(values) / 2
	if len(values)%2 == 1 {
		return values[middle]
	}
	return (values[middle-1] + values[middle]) / 2
}

// run runs a program to its end and returns what it took and printed. A failure carries
// its command line and the end of its error output.
func (b *bench) run(name string, args ...string) (usage, []byte, error) {
	var stdout, stderr bytes.Buffer
	command := exec.CommandContext(b.ctx, name, args...)
	command.Stdout, command.Stderr = &stdout, &stderr
	start := time.Now()
	err := command.Run()
	wall := time.Since(start).Seconds()
	if err != nil {
		text := stderr.String()
		text = text[max(0, len(text)-2000):]
		return usage{}, nil, fmt.Errorf("%s: %w\n%s", strings.Join(command.Args, " "), err, text)
	}
	state := command.ProcessState
	took := usage{Wall: wall, CPU: (state.UserTime() + state.SystemTime()).Seconds()}
	if resources, ok := state.SysUsage().(*syscall.Rusage); ok {
		took.Peak = resources.Maxrss << 10 // Linux counts in KiB
	}
	return took, stdout.Bytes(), nil
}

// record adds a measurement to the report and says so.
func (b *bench) record(name string, u usage) {
	b.report.Measurements[name] = append(b.report.Measurements[name], u)
	say("%-22s %8.3f s, %.2f cores, %.0f MiB", name, u.Wall, u.CPU/u.Wall, mebibytes(u.Peak))
}

// settle removes what earlier steps wrote, waits until nothing is left to be written, so
// that one step's dirty pages are not charged to the next, and reads the input into the
// page cache.
func (b *bench) settle(input string) error {
	entries, err := os.ReadDir(b.work)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if path := filepath.Join(b.work, entry.Name()); path != b.coppice {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	syscall.Sync()
	return filepath.WalkDir(input, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		// Hiding the file's own WriteTo keeps the buffer, and so this process, small.
		_, err = io.CopyBuffer(io.Discard, struct{ io.Reader }{file}, make([]byte, 1<<20))
		return err
	})
}

// output is a path in the directory for outputs.
func (b *bench) output(name string) string { return filepath.Join(b.work, name) }

// python is the interpreter of the peers, or empty.
func (b *bench) python() string {
	if b.venv == "" {
		return ""
	}
	return filepath.Join(b.venv, "bin", "python")
}

// checkSpace fails early where the outputs would not fit.
func checkSpace(dir string, need int64) error {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < need {
		return fmt.Errorf("%s has %.1f GB free and the outputs take up to %.1f GB; set -dir", dir, float64(free)/1e9, float64(need)/1e9)
	}
	return nil
}
