package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Killed once it has saved sums, calib goes on from there under the same command and ends
// with the same bytes; so it does after SIGTERM, which makes it save.
func TestKillCalib(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT CHECKED with -short: killing calib, which runs a model for some seconds")
	}
	model := makeModel(t, filepath.Join(t.TempDir(), "m"), "vocab=257", "tokenizer=true", "hidden=128", "width=512", "layers=4")
	text := filepath.Join(t.TempDir(), "text.jsonl")
	var b strings.Builder
	for i := range 400 {
		fmt.Fprintf(&b, "{\"text\": \"%d %s\"}\n", i, strings.Repeat(fmt.Sprintf("words of document %d. ", i), 20))
	}
	if err := os.WriteFile(text, []byte(b.String()), 0o666); err != nil {
		t.Fatal(err)
	}
	parent := t.TempDir()
	args := []string{"calib", model, "--calib", text, "--tokens", "80000", "--ctx", "128", "--quiet", "-o"}
	whole := filepath.Join(parent, "whole")
	succeed(t, append(args, whole)...)
	want, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
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
		if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: other bytes than of a whole run, %v", s.signal, err)
		}
		if left := hidden(t, parent); left != nil {
			t.Errorf("%v: left behind: %q", s.signal, left)
		}
		if err := os.Remove(out); err != nil {
			t.Fatal(err)
		}
	}
}
