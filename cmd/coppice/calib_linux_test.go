package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// longCalib is a calibration that takes a second for each 10,000 tokens, without its output,
// and the bytes that it ends with.
func longCalib(t *testing.T, tokens int) (args []string, want []byte) {
	t.Helper()
	if testing.Short() {
		t.Skip("NOT CHECKED with -short: calib, which runs a model for some seconds")
	}
	model := makeModel(t, filepath.Join(t.TempDir(), "m"), "vocab=257", "tokenizer=true", "hidden=128", "width=512", "layers=4")
	args = []string{"calib", model, "--calib", calibrationText(t, 400, "words of a document"), "--tokens", fmt.Sprint(tokens), "--ctx", "128", "--quiet", "-o"}
	whole := filepath.Join(t.TempDir(), "whole")
	succeed(t, append(args, whole)...)
	want, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	return args, want
}

// ends checks that the statistics are whole, with nothing beside them, and removes them.
func ends(t *testing.T, out string, want []byte) {
	t.Helper()
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want) {
		t.Errorf("other bytes than of a whole run, %v", err)
	}
	if left := hidden(t, filepath.Dir(out)); left != nil {
		t.Errorf("left behind: %q", left)
	}
	if err := os.Remove(out); err != nil {
		t.Fatal(err)
	}
}

// Killed once it has saved sums, calib goes on from there under the same command and ends
// with the same bytes; so it does after SIGTERM, which makes it save.
func TestKillCalib(t *testing.T) {
	args, want := longCalib(t, 80_000)
	parent := t.TempDir()
	out := filepath.Join(parent, "out")
	for _, s := range []struct {
		signal syscall.Signal
		moment string
		code   int
	}{{syscall.SIGKILL, ".out.coppice-state", -1}, {syscall.SIGTERM, ".out.coppice-part", exitInterrupted}} {
		p := start(t, append(args, out)...)
		killAt(p, s.signal, filepath.Join(parent, s.moment), 0)
		if code := p.end(t); code == exitDone {
			t.Logf("NOT CHECKED: calib was over before it could be sent %v", s.signal)
		} else if code != s.code {
			t.Errorf("%v: exit code %d, want %d", s.signal, code, s.code)
		} else if _, err := os.Stat(out); err == nil {
			t.Errorf("%v: an output is there", s.signal)
		}
		succeed(t, append(args, out)...)
		ends(t, out, want)
	}
}

// A second run into the same file is refused while the first lives, and harms it not.
func TestCalibTwice(t *testing.T) {
	args, want := longCalib(t, 20_000)
	parent := t.TempDir()
	out := filepath.Join(parent, "out")
	p := start(t, append(args, out)...)
	killAt(p, syscall.SIGSTOP, filepath.Join(parent, ".out.coppice-part"), 0)
	refuse(t, exitUsage, []string{"out: is being written by another run of Coppice"}, append(args, out)...)
	refuse(t, exitUsage, []string{"out: is being written by another run of Coppice"}, append(args, out, "--seed", "1", "--force")...)
	p.Process.Signal(syscall.SIGCONT)
	if code := p.end(t); code != exitDone {
		t.Fatalf("exit code %d\n%s", code, &p.stderr)
	}
	ends(t, out, want)
}

// A disk that is full is exit code 1 and says so; where there is room the same command ends
// as if nothing had been.
func TestCalibFullDisk(t *testing.T) {
	args, want := longCalib(t, 10_000)
	out := filepath.Join(mountTmpfs(t, "4m"), "out")
	if len(want) < 4<<20 {
		t.Fatalf("%d bytes of statistics fit", len(want))
	}
	refuse(t, exitFailed, []string{"writing the output: .*no space left on device .*free space or choose another -o"}, append(args, out)...)
	if _, err := os.Stat(out); err == nil {
		t.Error("an output is there")
	}
	room := filepath.Join(t.TempDir(), "out")
	succeed(t, append(args, room)...)
	ends(t, room, want)
}
