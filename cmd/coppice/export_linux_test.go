package main

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/internal/synth"
)

// exportCases are exports of the model of the crash tests: to one file with a Modelfile, and
// to parts.
func exportCases(t *testing.T) []crashCase {
	model := sparseModel(t, filepath.Join(t.TempDir(), "model"), crashConfig, 2)
	if err := synth.WriteTokenizer(model); err != nil {
		t.Fatal(err)
	}
	return []crashCase{
		{"one file", []string{"export", model, "--modelfile"}},
		{"parts", []string{"export", model, "--split-max-size", "20MB"}},
	}
}

// ggufFiles are the files that a reader would begin with: those that are no later part.
func ggufFiles(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	var first []string
	for _, f := range all {
		if !strings.Contains(f, "-of-") || strings.Contains(f, "-00001-of-") {
			first = append(first, f)
		}
	}
	return first
}

// Killed at any moment export leaves nothing that opens and is not whole, and the same
// command then succeeds without --force and leaves nothing hidden.
func TestExportKill(t *testing.T) {
	for _, c := range exportCases(t) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			parent, aside := t.TempDir(), t.TempDir()
			begin := time.Now()
			succeed(t, append(c.args, "-o", filepath.Join(aside, "m.gguf"), "--quiet")...)
			took := time.Since(begin)
			want := tree(t, aside)
			r := rand.New(rand.NewPCG(1, 2))
			moments := []string{filepath.Join(parent, ".*-partial"), filepath.Join(parent, ".*-partial", "*.gguf"), filepath.Join(parent, "*.gguf")}
			killed := 0
			for i := range 8 {
				p := start(t, append(c.args, "-o", filepath.Join(parent, "m.gguf"))...)
				if i%2 == 0 {
					killAt(p, syscall.SIGKILL, "/", time.Duration(r.Int64N(int64(took))))
				} else {
					killAt(p, syscall.SIGKILL, moments[i/2%len(moments)], time.Duration(r.Int64N(int64(time.Millisecond))))
				}
				if p.end(t) == -1 {
					killed++
				}
				if first := ggufFiles(t, parent); len(first) > 0 {
					// It came with the last rename: all of it must be there.
					for name, what := range want {
						if got := tree(t, parent)[name]; got != what {
							t.Fatalf("killed, and %s is there while %s is %q, want %q", first[0], name, got, what)
						}
					}
					clearDir(t, parent)
				}
			}
			if killed < 3 {
				t.Errorf("only %d of 8 runs were killed before their end", killed)
			}
			succeed(t, append(c.args, "-o", filepath.Join(parent, "m.gguf"), "--quiet")...)
			unchanged(t, parent, want)
		})
	}
}

// A killed --force leaves the older file or the new one, whole, and no leave to replace it.
func TestExportKillForce(t *testing.T) {
	c := exportCases(t)[0]
	parent := t.TempDir()
	out := filepath.Join(parent, "m.gguf")
	old := []byte("not ours")
	for range 3 {
		if err := os.WriteFile(out, old, 0o666); err != nil {
			t.Fatal(err)
		}
		p := start(t, append(c.args, "-o", out, "--force")...)
		killAt(p, syscall.SIGKILL, filepath.Join(parent, ".*-partial", "*.gguf"), 0)
		p.end(t)
		now, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(now, old) {
			refuse(t, exitUsage, []string{"m.gguf: exists; use --force"}, append(c.args, "-o", out)...)
			continue
		}
		m, err := checkpoint.Open(out)
		if err != nil {
			t.Fatal(err)
		}
		m.Close()
	}
	succeed(t, append(c.args, "-o", out, "--quiet", "--force")...)
	if left := hidden(t, parent); left != nil {
		t.Errorf("left behind: %q", left)
	}
}

// Interrupted and on a full disk export says so and leaves nothing.
func TestExportStopped(t *testing.T) {
	for _, c := range exportCases(t) {
		t.Run(c.name+" interrupted", func(t *testing.T) {
			parent := t.TempDir()
			var p *running
			for range 5 { // a run that ends before it is interrupted tells nothing
				p = start(t, append(c.args, "-o", filepath.Join(parent, "m.gguf"), "--threads", "1")...)
				killAt(p, syscall.SIGINT, filepath.Join(parent, ".*-partial", "*.gguf"), 0)
				if p.end(t) != exitDone {
					break
				}
				clearDir(t, parent)
			}
			if code := p.ProcessState.ExitCode(); code != exitInterrupted || !strings.Contains(p.stderr.String(), "interrupted; nothing was published") {
				t.Errorf("exit code %d\n%s", code, &p.stderr)
			}
			if left := tree(t, parent); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
		c.fullDisk(t, "30m", "m.gguf")
	}
}
