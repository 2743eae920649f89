package energy

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fakeSMI puts a shell script in PATH as nvidia-smi. It returns the empty directory of a
// machine without RAPL.
func fakeSMI(t *testing.T, script string) (powercap string) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("no shell: nvidia-smi is not imitated, and reading it not checked")
	}
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "nvidia-smi"), []byte("#!/bin/sh\n"+script), 0o777); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":/bin:/usr/bin")
	return t.TempDir()
}

// TestGPUs: power is integrated over time; a GPU that does not tell its power is absent.
func TestGPUs(t *testing.T) {
	none := fakeSMI(t, `
[ "$*" = "--query-gpu=index,power.draw --format=csv,noheader,nounits --loop-ms=100" ] || exit 2
while :; do printf '0, 100.00\n1, [N/A]\n2, 50.50 W\n'; sleep 0.02; done`)
	m := open(t, Options{Powercap: none, TDP: 0})
	if !m.Measures() {
		t.Error("it says that it does not measure")
	}
	if err := m.Idle(context.Background(), time.Millisecond); err != nil {
		t.Fatal(err)
	}
	s := m.Start()
	time.Sleep(50 * time.Millisecond)
	r := s.Stop()
	if r.Meter != "nvidia-smi" || r.Joules == nil || math.Abs(*r.Joules-150.5*r.Seconds) > 1e-6 || len(r.Domains) != 2 || r.Domains[1].Name != "GPU-2" {
		t.Errorf("150.5 W for %v s: %+v", r.Seconds, r)
	}
	if !strings.Contains(r.Absent, `nvidia-smi: GPU-1: its power.draw is "[N/A]"`) || !strings.Contains(r.Absent, "rapl: no zone") {
		t.Errorf("what is absent: %q", r.Absent)
	}
	if r.IdleWatts == nil || math.Abs(*r.IdleWatts-150.5) > 1e-6 {
		t.Errorf("idle power %v", r.IdleWatts)
	}
}

// TestGPUChanges: between two values a GPU draws what the first says.
func TestGPUChanges(t *testing.T) {
	n, start := newNVIDIA(), time.Now()
	after := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	n.line("0, 100", after(0))
	n.line("0, 300", after(2))
	got, _ := n.read(after(3))
	if got[0].joules != 500 || got[0].lost != "" {
		t.Errorf("2 s of 100 W and 1 s of 300 W: %+v", got[0])
	}
	n.line("0, 0", after(4))
	if got, _ = n.read(after(8)); got[0].joules != 800 || got[0].lost != "" {
		t.Errorf("1 s more of 300 W, then nothing: %+v", got[0])
	}
	if got, _ = n.read(after(10)); got[0].lost != "no value for 6 seconds" {
		t.Errorf("after 6 s without a value: %+v", got[0])
	}
}

// TestGPULines: lines come in any pieces, and what is no value is never one.
func TestGPULines(t *testing.T) {
	n := newNVIDIA()
	for _, piece := range []string{"index, power.draw [W]\n0,", " 12.5\r\n1", ", [Not Supported]\n2, NaN\n3, -1\n4, 1e9\n5\n-1, 3\n", strings.Repeat("x", 10_000), "\n6, 1"} {
		if k, err := n.Write([]byte(piece)); k != len(piece) || err != nil {
			t.Fatal(k, err)
		}
	}
	counters, _ := n.read(time.Now())
	for i, want := range []string{"", `its power.draw is "[Not Supported]"`, `its power.draw is "NaN"`, `its power.draw is "-1"`, `its power.draw is "1e9"`, `its power.draw is ""`} {
		if counters[i].lost != want {
			t.Errorf("%s: %q, expected %q", counters[i].name, counters[i].lost, want)
		}
	}
	if len(counters) != 6 || n.gpus[0].watts != 12.5 || len(n.said) > 4096 {
		t.Errorf("counters %+v", counters)
	}
}

// TestSMIFails: a program that fails, prints nothing, or ends is a reason.
func TestSMIFails(t *testing.T) {
	for name, test := range map[string]struct{ script, reason string }{
		"no driver": {"echo 'NVIDIA-SMI has failed'; exit 9", `nvidia-smi: exit status 9 (it says "NVIDIA-SMI has failed")`},
		"no GPU":    {"echo 'No devices were found' >&2", `nvidia-smi: it printed no value and ended (it says "No devices were found")`},
		"dies":      {"echo 0, 5; exit 1", "nvidia-smi: GPU-0: nvidia-smi: exit status 1"},
	} {
		m := open(t, Options{Powercap: fakeSMI(t, test.script)})
		r := m.Start().Stop()
		if r.Meter != "none" || r.Joules != nil || !strings.Contains(r.Absent, test.reason) {
			t.Errorf("%s: %+v, expected %q", name, r, test.reason)
		}
	}
}

// TestSMIOnce: a program that prints once and ends is run again.
func TestSMIOnce(t *testing.T) {
	m := open(t, Options{Powercap: fakeSMI(t, "echo 0, 7")})
	s := m.Start()
	for before := m.nvidia.count(); m.nvidia.count() < before+2; {
		time.Sleep(time.Millisecond)
	}
	if r := s.Stop(); r.Joules == nil || math.Abs(*r.Joules-7*r.Seconds) > 1e-6 {
		t.Errorf("7 W for %v s: %+v", r.Seconds, r)
	}
}

// TestSMIKilled: nvidia-smi ends with the meter, and with the context.
func TestSMIKilled(t *testing.T) {
	for _, end := range []string{"close", "cancel"} {
		pidFile := filepath.Join(t.TempDir(), "pid")
		none := fakeSMI(t, "echo $$ > "+pidFile+"\nwhile :; do echo 0, 1; sleep 0.01; done")
		ctx, cancel := context.WithCancel(context.Background())
		m := Open(ctx, Options{Powercap: none})
		s := m.Start()
		if end == "cancel" {
			cancel()
			m.done.Wait()
		}
		m.Close()
		cancel()
		text, err := os.ReadFile(pidFile)
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		if p, err := os.FindProcess(pid); err == nil && p.Signal(syscall.Signal(0)) == nil {
			t.Errorf("%s: nvidia-smi still runs", end)
		}
		if r := s.Stop(); r.Joules != nil || !strings.Contains(r.Absent, "the meter was closed") {
			t.Errorf("%s: after the end the reading is %+v", end, r)
		}
	}
}
