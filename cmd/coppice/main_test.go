package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/internal/synth"
	"github.com/coppice-lm/coppice/tensor"
)

// The test binary is the program too: run under the name coppice, as scripts and the
// crash tests do, it is main.
func TestMain(m *testing.M) {
	testscript.Main(tests{m}, map[string]func(){"coppice": func() {
		code := process()
		recordPeak()
		os.Exit(code)
	}})
}

// tests runs the tests with a directory for what several of them read.
type tests struct{ *testing.M }

func (m tests) Run() int {
	var err error
	if realDir, err = os.MkdirTemp("", "coppice-real-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(realDir)
	return m.M.Run()
}

// realDir is where the real model is imported.
var realDir string

// peakEnv names a file in which the program, as a test runs it, leaves the kernel's
// account of it. VmHWM in it is the peak of resident memory; the usage that wait
// returns would include the parent's, from which the process was forked.
const peakEnv = "COPPICE_TEST_STATUS"

func recordPeak() {
	path := os.Getenv(peakEnv)
	if path == "" || runtime.GOOS != "linux" {
		return
	}
	b, err := os.ReadFile("/proc/self/status")
	if err == nil {
		err = os.WriteFile(path, b, 0o666)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(100)
	}
}

// result is how a run of the program ended.
type result struct {
	code           int
	stdout, stderr string
}

// coppice runs the program in this process.
func coppice(args ...string) result {
	var stdout, stderr bytes.Buffer
	code := run(context.Background(), args, &stdout, &stderr)
	return result{code, stdout.String(), stderr.String()}
}

// succeed runs the program and fails the test if it does not exit with 0.
func succeed(t testing.TB, args ...string) result {
	t.Helper()
	r := coppice(args...)
	if r.code != exitDone {
		t.Fatalf("coppice %q: exit code %d\n%s", args, r.code, r.stderr)
	}
	return r
}

// refuse runs the program, which must exit with the code and a message that matches
// every pattern.
func refuse(t testing.TB, code int, patterns []string, args ...string) {
	t.Helper()
	r := coppice(args...)
	if r.code != code {
		t.Errorf("coppice %q: exit code %d, want %d\n%s", args, r.code, code, r.stderr)
	}
	for _, p := range patterns {
		if !regexp.MustCompile(p).MatchString(r.stderr) {
			t.Errorf("coppice %q: the message lacks %q:\n%s", args, p, r.stderr)
		}
	}
}

// decode reads the program's JSON into v.
func decode(t testing.TB, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("not JSON: %v\n%s", err, text)
	}
}

// tree describes everything below a directory, hidden files too: type, permissions and
// content by relative path.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	m, err := treeOf(dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func treeOf(dir string) (map[string]string, error) {
	m := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		m[rel] = st.Mode().String()
		switch {
		case st.Mode().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			m[rel] += fmt.Sprintf(" %d bytes %x", len(b), sha256.Sum256(b))
		case st.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			m[rel] += " " + to
		}
		return nil
	})
	return m, err
}

// unchanged fails the test if a directory is not as tree described it.
func unchanged(t testing.TB, dir string, before map[string]string) {
	t.Helper()
	if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
		t.Errorf("%s changed:\n%s", dir, diff)
	}
}

// makeModel writes a small checkpoint of random weights with the settings, as the
// script command synth takes them.
func makeModel(t testing.TB, dir string, settings ...string) string {
	t.Helper()
	if err := synthModel(dir, settings); err != nil {
		t.Fatal(err)
	}
	return dir
}

// readTensor returns a tensor's bytes in Hugging Face order.
func readTensor(t testing.TB, c *checkpoint.Checkpoint, name string) (tensor.Info, []byte) {
	t.Helper()
	info, ok := c.Lookup(name)
	if !ok {
		t.Fatalf("%s: no tensor %q", c.Path, name)
	}
	b := make([]byte, info.RowBytes()*int64(info.Rows()))
	if err := c.ReadRows(name, b, 0, info.Rows()); err != nil {
		t.Fatal(err)
	}
	return info, b
}

// open opens a checkpoint for the time of the test.
func open(t testing.TB, path string) *checkpoint.Checkpoint {
	t.Helper()
	c, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// writeModel writes a checkpoint of the given tensors in one file, whatever they are.
func writeModel(t testing.TB, dir string, config []byte, infos []tensor.Info, data func(tensor.Info) []byte) string {
	t.Helper()
	sink, err := checkpoint.Create(dir, "", false)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Abort()
	if err := sink.Layout(infos, checkpoint.DefaultShardBytes); err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		if err := sink.WriteAt(i.Name, data(i), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := sink.Commit(config); err != nil {
		t.Fatal(err)
	}
	return dir
}

// random returns the bytes that synth gives a tensor.
func random(t testing.TB, info tensor.Info) []byte {
	t.Helper()
	var all []byte
	if err := synth.Fill(info, 1, func(b []byte, _ int64) error { all = append(all, b...); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func writeJSON(t testing.TB, path string, v any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
}

// running is a coppice at work.
type running struct {
	*exec.Cmd
	stderr bytes.Buffer
}

func start(t testing.TB, args ...string) *running {
	t.Helper()
	p := &running{Cmd: exec.Command("coppice", args...)}
	p.Stderr = &p.stderr
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// end waits and returns the exit code, or -1 where a signal ended the process.
func (p *running) end(t testing.TB) int {
	t.Helper()
	var exit *exec.ExitError
	if err := p.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return p.ProcessState.ExitCode()
}
