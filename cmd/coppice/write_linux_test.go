package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// longWrite is a command that writes texts for some seconds, without its output, and the
// bytes that it ends with.
func longWrite(t *testing.T) (args []string, want []byte) {
	t.Helper()
	if testing.Short() {
		t.Skip("NOT CHECKED with -short: write, which runs a model for some seconds")
	}
	model := makeModel(t, filepath.Join(t.TempDir(), "m"), "vocab=257", "tokenizer=true", "hidden=128", "width=512", "layers=4")
	args = []string{"write", model, "--tokens", "6000", "--length", "60", "--quiet", "-o"}
	whole := filepath.Join(t.TempDir(), "whole.jsonl")
	succeed(t, append(args, whole)...)
	want, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	return args, want
}

// Killed or interrupted with some texts finished, write goes on from there under the same
// command and ends with the same bytes.
func TestKillWrite(t *testing.T) {
	args, want := longWrite(t)
	parent := t.TempDir()
	out, kept := filepath.Join(parent, "out.jsonl"), filepath.Join(parent, ".out.jsonl.coppice-texts")
	for signal, code := range map[syscall.Signal]int{syscall.SIGKILL: -1, syscall.SIGINT: exitInterrupted, syscall.SIGTERM: exitInterrupted} {
		p := start(t, append(args, out)...)
		size := func() int64 {
			if st, err := os.Stat(kept); err == nil {
				return st.Size()
			}
			return 0
		}
		for !over(p) && size() < 2000 {
			time.Sleep(200 * time.Microsecond)
		}
		p.Process.Signal(signal)
		if got := p.end(t); got == exitDone {
			t.Logf("NOT CHECKED: write was over before it could be sent %v", signal)
		} else if got != code {
			t.Errorf("%v: exit code %d, want %d\n%s", signal, got, code, &p.stderr)
		} else if _, err := os.Stat(out); err == nil || size() < 2000 {
			t.Errorf("%v: an output is there, or %d bytes are kept", signal, size())
		} else {
			refuse(t, exitUsage, []string{"holds unfinished texts of another run: its seed is 0, this run's 1; choose another output, or --force"}, append(args, out, "--seed", "1")...)
		}
		succeed(t, append(args, out)...)
		ends(t, out, want)
	}
}

// A second run into the same file is refused while the first lives.
func TestWriteTwice(t *testing.T) {
	args, want := longWrite(t)
	parent := t.TempDir()
	out := filepath.Join(parent, "out.jsonl")
	p := start(t, append(args, out)...)
	killAt(p, syscall.SIGSTOP, filepath.Join(parent, ".out.jsonl.coppice-texts"), 0)
	refuse(t, exitUsage, []string{"out.jsonl: is being written by another run of Coppice"}, append(args, out, "--force")...)
	p.Process.Signal(syscall.SIGCONT)
	if code := p.end(t); code != exitDone {
		t.Fatalf("exit code %d\n%s", code, &p.stderr)
	}
	ends(t, out, want)
}

// A disk that is full is exit code 1 and says so; the texts that were finished stay, and where
// there is room the same command ends as if nothing had been.
func TestWriteFullDisk(t *testing.T) {
	args, want := longWrite(t)
	parent := mountTmpfs(t, "8k")
	out := filepath.Join(parent, "out.jsonl")
	refuse(t, exitFailed, []string{"writing the output: .*no space left on device .*free space or choose another -o"}, append(args, out)...)
	if _, err := os.Stat(out); err == nil {
		t.Error("an output is there")
	}
	kept, err := os.ReadFile(filepath.Join(parent, ".out.jsonl.coppice-texts"))
	if err != nil || len(kept) < 4000 {
		t.Fatalf("%d bytes are kept, %v", len(kept), err)
	}
	room := t.TempDir()
	if err := os.WriteFile(filepath.Join(room, ".out.jsonl.coppice-texts"), kept, 0o666); err != nil {
		t.Fatal(err)
	}
	out = filepath.Join(room, "out.jsonl")
	succeed(t, append(args, out)...)
	ends(t, out, want)
}
