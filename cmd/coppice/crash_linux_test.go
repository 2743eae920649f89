package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The crash tests run the program as a process and end it in the middle of its work.
// Their models are of one size, about 70 MB, with files that are mostly holes: made in
// no time, but written by the program as any other.

const crashConfig = `{
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 1024, "intermediate_size": 4096,
  "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 2048,
  "max_position_embeddings": 2048, "tie_word_embeddings": true, "torch_dtype": "bfloat16"
}
`

// killAt ends a process once a path is there (or the process is over), after a while more.
func killAt(p *running, sig syscall.Signal, path string, more time.Duration) {
	for !over(p) {
		if matches, _ := filepath.Glob(path); len(matches) > 0 {
			break
		}
		time.Sleep(200 * time.Microsecond)
	}
	time.Sleep(more)
	p.Process.Signal(sig)
}

// over reports whether the process has ended and waits to be collected.
func over(p *running) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}

// hidden lists what stands in a directory under a hidden name.
func hidden(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names
}

// crashCase is a command that writes out, with the model that it should write.
type crashCase struct {
	name string
	args []string // without -o DIR
}

func crashCases(t *testing.T) []crashCase {
	dir := t.TempDir()
	model := sparseModel(t, filepath.Join(dir, "model"), crashConfig, 2)
	file := sparseGGUF(t, filepath.Join(dir, "model.gguf"), crashConfig)
	return []crashCase{
		{"prune", []string{"prune", model, "--ratio", "0.1"}},
		{"import", []string{"import", file}},
	}
}

// Killed at any moment the program leaves nothing that looks whole and is not, and the
// same command then succeeds without --force and leaves nothing hidden.
func TestKill(t *testing.T) {
	for _, c := range crashCases(t) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			parent := t.TempDir()
			out, whole := filepath.Join(parent, "out"), filepath.Join(t.TempDir(), "whole")
			begin := time.Now()
			succeed(t, append(c.args, "-o", whole, "--quiet")...)
			took := time.Since(begin)
			want := tree(t, whole)
			stage := filepath.Join(parent, ".out.coppice-partial")
			r := rand.New(rand.NewPCG(1, 2))
			// Half of the moments are random; the others are those between two steps.
			moments := []string{stage, filepath.Join(stage, "*.safetensors"), filepath.Join(stage, "config.json"), out}
			killed := 0
			for i := range 8 {
				p := start(t, append(c.args, "-o", out)...)
				if i%2 == 0 {
					killAt(p, syscall.SIGKILL, "/", time.Duration(r.Int64N(int64(took))))
				} else {
					killAt(p, syscall.SIGKILL, moments[i/2], time.Duration(r.Int64N(int64(2*time.Millisecond))))
				}
				if p.end(t) == -1 {
					killed++
				}
				if _, err := os.Lstat(out); err == nil {
					// It came after the one step that publishes: all of it must be there.
					unchanged(t, out, want)
					if err := os.RemoveAll(out); err != nil {
						t.Fatal(err)
					}
				}
			}
			if killed < 3 {
				t.Errorf("only %d of 8 runs were killed before their end", killed)
			}
			succeed(t, append(c.args, "-o", out, "--quiet")...)
			unchanged(t, out, want)
			if left := hidden(t, parent); left != nil {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// A killed --force leaves the older model or the new one, whole.
func TestKillForce(t *testing.T) {
	c := crashCases(t)[0]
	parent := t.TempDir()
	out := makeModel(t, filepath.Join(parent, "out"))
	old := tree(t, out)
	whole := filepath.Join(t.TempDir(), "whole")
	succeed(t, append(c.args, "-o", whole, "--quiet")...)
	stage := filepath.Join(parent, ".out.coppice-partial")
	for _, moment := range []string{stage, filepath.Join(stage, "config.json"), filepath.Join(stage, "*.safetensors")} {
		p := start(t, append(c.args, "-o", out, "--force")...)
		killAt(p, syscall.SIGKILL, moment, 0)
		p.end(t)
		now := tree(t, out)
		if _, isOld := now["coppice_plan.json"]; !isOld {
			unchanged(t, out, old)
			// What was killed with --force gives no leave to replace the old model.
			refuse(t, exitUsage, []string{"is not empty; use --force"}, append(c.args, "-o", out)...)
			unchanged(t, out, old)
			continue
		}
		unchanged(t, out, tree(t, whole))
	}
	succeed(t, append(c.args, "-o", out, "--quiet", "--force")...)
	unchanged(t, out, tree(t, whole))
	if left := hidden(t, parent); left != nil {
		t.Errorf("left behind: %q", left)
	}
}

// Interrupted the program says so, exits with 4, and leaves nothing.
func TestInterrupt(t *testing.T) {
	for _, c := range crashCases(t) {
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
			t.Run(c.name+" "+sig.String(), func(t *testing.T) {
				parent := t.TempDir()
				var p *running
				for range 5 { // a run that ends before it is interrupted tells nothing
					p = start(t, append(c.args, "-o", filepath.Join(parent, "out"), "--threads", "1")...)
					killAt(p, sig, filepath.Join(parent, ".out.coppice-partial", "*.safetensors"), 0)
					if p.end(t) != exitDone {
						break
					}
					clearDir(t, parent)
				}
				if code := p.ProcessState.ExitCode(); code != exitInterrupted {
					t.Fatalf("exit code %d, want %d\n%s", code, exitInterrupted, &p.stderr)
				}
				if !strings.Contains(p.stderr.String(), "interrupted; nothing was published") {
					t.Errorf("said %q", &p.stderr)
				}
				if left := tree(t, parent); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		}
	}
}

// A disk that is full is exit code 1, says so, and leaves nothing behind.
func TestFullDisk(t *testing.T) {
	for _, c := range crashCases(t) {
		c.fullDisk(t, "20m", "out")
	}
}

// fullDisk runs the command on a file system of a size that is too small for its output,
// and under a limit on the size of files.
func (c crashCase) fullDisk(t *testing.T, size, out string) {
	t.Run(c.name+" tmpfs", func(t *testing.T) {
		parent := mountTmpfs(t, size)
		refuse(t, exitFailed, []string{"writing the output: .*no space left on device .*free space or choose another -o"}, append(c.args, "-o", filepath.Join(parent, out))...)
		if left := tree(t, parent); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	t.Run(c.name+" file size limit", func(t *testing.T) {
		parent := t.TempDir()
		// The limit is in KiB (bash) or half of them (dash): below a file of the output in either.
		p := &running{Cmd: exec.Command("sh", append([]string{"-c", `ulimit -f 10000 && exec coppice "$@"`, "sh"}, append(c.args, "-o", filepath.Join(parent, out))...)...)}
		p.Stderr = &p.stderr
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		if code := p.end(t); code != exitFailed || !strings.Contains(p.stderr.String(), "file too large") {
			t.Errorf("exit code %d, want %d\n%s", code, exitFailed, &p.stderr)
		}
		if left := tree(t, parent); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

// An output that is a mount point cannot be renamed: the model is built inside it, and
// all the same nothing there passes for one before it is whole.
func TestMountPoint(t *testing.T) {
	c := crashCases(t)[0]
	whole := filepath.Join(t.TempDir(), "whole")
	succeed(t, append(c.args, "-o", whole, "--quiet")...)
	want := tree(t, whole)
	out := mountTmpfs(t, "400m")
	stage := filepath.Join(out, ".coppice-partial")
	for _, moment := range []string{stage, filepath.Join(stage, "*.safetensors"), filepath.Join(stage, "config.json"), filepath.Join(out, "*.safetensors")} {
		p := start(t, append(c.args, "-o", out)...)
		killAt(p, syscall.SIGKILL, moment, 0)
		if code := p.end(t); code == exitDone {
			unchanged(t, out, want) // it was faster
			clearDir(t, out)
			continue
		}
		if _, err := os.Stat(filepath.Join(out, "config.json")); err == nil {
			// Whole; killed later still, it leaves what the next run clears.
			for _, hidden := range []string{".coppice-lock", ".coppice-partial"} {
				if err := os.RemoveAll(filepath.Join(out, hidden)); err != nil {
					t.Fatal(err)
				}
			}
			unchanged(t, out, want)
			clearDir(t, out)
			continue
		}
		refuse(t, exitInput, []string{"config.json"}, "verify", out)
	}
	succeed(t, append(c.args, "-o", out, "--quiet")...)
	unchanged(t, out, want)

	refuse(t, exitUsage, []string{"is not empty; use --force"}, append(c.args, "-o", out)...)
	// A killed --force leaves the old model until the new one is whole, and gives no
	// leave to replace it without --force.
	smaller := append(slices.Clone(c.args[:2]), "--ratio", "0.5", "-o", out)
	p := start(t, append(smaller, "--force")...)
	killAt(p, syscall.SIGKILL, filepath.Join(stage, "*.safetensors"), 0)
	if p.end(t) == -1 {
		refuse(t, exitUsage, []string{"is not empty; use --force"}, smaller...)
		for name, what := range want {
			if got := tree(t, out)[name]; got != what {
				t.Errorf("%s of the old model is %q, was %q", name, got, what)
			}
		}
	}
	succeed(t, append(smaller, "--force", "--quiet")...)
	succeed(t, "verify", out, "--against", c.args[1])
	if left := hidden(t, out); left != nil {
		t.Errorf("left behind: %q", left)
	}

	// Full, it is as it was.
	small := mountTmpfs(t, "20m")
	refuse(t, exitFailed, []string{"no space left on device"}, append(c.args, "-o", small)...)
	if left := tree(t, small); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// mountTmpfs mounts a file system of limited size for the time of the test.
func mountTmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("coppice-test", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("NOT CHECKED on a file system of its own, which only root can mount: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func clearDir(t *testing.T, dir string) {
	t.Helper()
	for name := range tree(t, dir) {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}
