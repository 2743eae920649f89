package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// startSlurm starts a Slurm cluster of one node, this machine, and has the commands of Slurm
// find it. Debian's packages slurm-wlm and munge have all of it.
func startSlurm(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("NOT CHECKED: the example for Slurm; its daemons need root to start here")
	}
	paths := map[string]string{}
	for _, name := range []string{"munged", "slurmctld", "slurmd"} {
		path, err := exec.LookPath(name)
		if err != nil {
			if path = "/usr/sbin/" + name; exec.Command("test", "-x", path).Run() != nil {
				t.Skipf("NOT CHECKED: the example for Slurm, which is not installed: %v (Debian: slurm-wlm, munge)", err)
			}
		}
		paths[name] = path
	}
	// The names of sockets are short, those of t.TempDir may be not.
	dir, err := os.MkdirTemp("", "slurm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	host, _, _ = strings.Cut(host, ".")
	key := make([]byte, 1024)
	rand.Read(key)
	conf := filepath.Join(dir, "slurm.conf")
	for name, text := range map[string]string{
		"key": string(key),
		"slurm.conf": strings.NewReplacer("DIR", dir, "HOST", host, "PORT1", freePort(t), "PORT2", freePort(t)).Replace(`ClusterName=test
SlurmctldHost=HOST(127.0.0.1)
SlurmctldPort=PORT1
SlurmdPort=PORT2
AuthType=auth/munge
AuthInfo=socket=DIR/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=DIR/state
SlurmdSpoolDir=DIR/spool
SlurmctldPidFile=DIR/slurmctld.pid
SlurmdPidFile=DIR/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
NodeName=HOST NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
`)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"state", "spool"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SLURM_CONF", conf)
	in := func(name string) string { return filepath.Join(dir, name) }
	daemon(t, paths["munged"], "-F", "--force", "--socket="+in("munge.socket"), "--key-file="+in("key"), "--pid-file="+in("munge.pid"),
		"--log-file="+in("munge.log"), "--seed-file="+in("seed"), "--num-threads=1")
	until(t, "munged", func() bool { _, err := os.Stat(in("munge.socket")); return err == nil })
	daemon(t, paths["slurmctld"], "-D", "-i", "-f", conf)
	daemon(t, paths["slurmd"], "-D", "-f", conf, "-N", host)
	until(t, "the node", func() bool {
		out, err := exec.Command("sinfo", "--noheader", "--format=%T").Output()
		return err == nil && strings.TrimSpace(string(out)) == "idle"
	})
}

// freePort is a port that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// daemon starts a program that is ended with the test, and shows what it said if that fails.
func daemon(t *testing.T, path string, args ...string) {
	t.Helper()
	c := exec.Command(path, args...)
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Signal(os.Interrupt)
		kill := time.AfterFunc(5*time.Second, func() { c.Process.Kill() })
		c.Wait()
		kill.Stop()
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(path), &said)
		}
	})
}

// until waits for something to be so.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !so(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after two minutes", what)
		}
	}
}

// The job array of examples/slurm measures a study as one machine does, and submitted again
// finds nothing to do.
func TestSlurm(t *testing.T) {
	startSlurm(t)
	whole := tinyStudy(t)
	runStudy(t, exitDone, whole, "--quiet")
	file := tinyStudy(t)
	base := strings.TrimSuffix(file, ".yaml")
	submit, err := filepath.Abs(filepath.Join("..", "..", "examples", "slurm", "submit.sh"))
	if err != nil {
		t.Fatal(err)
	}
	run := func() string {
		c := exec.Command("sh", submit, file)
		c.Dir = filepath.Dir(file)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	t.Logf("%s", run())
	until(t, "the jobs", func() bool {
		out, err := exec.Command("squeue", "--noheader").Output()
		return err == nil && len(bytes.TrimSpace(out)) == 0
	})
	logs, err := filepath.Glob(filepath.Join(filepath.Dir(file), "slurm-*.out"))
	if err != nil || len(logs) != 6 { // 5 cells and the merge
		t.Errorf("%d logs of jobs, want 6 (%v)", len(logs), err)
	}
	// Lines of a merged ledger have an order of their own.
	merged := filepath.Join(t.TempDir(), "whole.jsonl")
	runStudy(t, exitDone, "merge", "-o", merged, strings.TrimSuffix(whole, ".yaml")+".ledger.jsonl")
	if diff := cmp.Diff(ledgerLines(t, merged), ledgerLines(t, base+".ledger.jsonl")); diff != "" {
		t.Error(diff)
	}
	if out := run(); out != fmt.Sprintf("all cells of %s are measured\n", file) {
		t.Errorf("submitted again: %q", out)
	}
	if t.Failed() {
		for _, log := range logs {
			b, _ := os.ReadFile(log)
			t.Logf("%s:\n%s", filepath.Base(log), b)
		}
	}
}
