package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// longEval is an evaluation that takes about half a second of processor time: the
// arguments without -o.
func longEval(t testing.TB) []string {
	t.Helper()
	m := textModel(t, "hidden=128", "width=384")
	data := filepath.Join(t.TempDir(), "words.jsonl")
	var b strings.Builder
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 300 { // with no beginning in common, so that each request takes its time
		fmt.Fprintf(&b, "{\"text\":\"%x%x %x number %d\"}\n", r.Uint64(), r.Uint64(), r.Perm(20), i)
	}
	if err := os.WriteFile(data, []byte(b.String()), 0o666); err != nil {
		t.Fatal(err)
	}
	return []string{"eval", m, "--tasks", "lambada_openai", "--data", "lambada_openai=" + data, "--log-tokens"}
}

// signalAt sends a signal once the ledger has grown to some bytes, or the process ended.
func signalAt(p *running, sig syscall.Signal, ledger string, bytes int64) {
	for !over(p) {
		if st, err := os.Stat(ledger); err == nil && st.Size() >= bytes {
			break
		}
		time.Sleep(100 * time.Microsecond)
	}
	p.Process.Signal(sig)
}

// Killed again and again at random moments, an evaluation goes on where it was, and its
// results are those of one that was not killed.
func TestEvalKill(t *testing.T) {
	args := longEval(t)
	dir := t.TempDir()
	whole, out := filepath.Join(dir, "whole"), filepath.Join(dir, "out")
	succeed(t, append(args, "-o", whole, "--quiet")...)
	st, err := os.Stat(filepath.Join(whole, "ledger.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	ledger := filepath.Join(out, "ledger.jsonl")
	r := rand.New(rand.NewPCG(1, 2))
	killed, before := 0, int64(0)
	for i := range 6 {
		p := start(t, append(args, "-o", out)...)
		signalAt(p, syscall.SIGKILL, ledger, st.Size()*int64(i)/6+r.Int64N(st.Size()/6))
		if p.end(t) == -1 {
			killed++
		}
		now, err := os.Stat(ledger)
		if err != nil {
			continue // killed before the first line
		}
		if now.Size() < before-200 { // no more than a torn line may go
			t.Fatalf("the ledger shrank from %d to %d bytes", before, now.Size())
		}
		before = now.Size()
		if files, _ := filepath.Glob(filepath.Join(out, "results_*")); len(files) > 0 {
			t.Log("finished before it was killed")
			break
		}
	}
	if killed < 2 {
		t.Errorf("only %d runs were killed before their end", killed)
	}
	if files, _ := filepath.Glob(filepath.Join(out, "results_*")); len(files) == 0 {
		succeed(t, append(args, "-o", out, "--quiet")...)
	}
	if err := compareResults(whole, out); err != nil {
		t.Error(err)
	}
}

// A second evaluation into a directory in which one is running is refused, and harms it not.
func TestEvalTwice(t *testing.T) {
	args := longEval(t)
	dir := t.TempDir()
	whole, out := filepath.Join(dir, "whole"), filepath.Join(dir, "out")
	succeed(t, append(args, "-o", whole, "--quiet")...)
	p := start(t, append(args, "-o", out)...)
	signalAt(p, syscall.SIGSTOP, filepath.Join(out, "ledger.jsonl"), 1000)
	refuse(t, exitUsage, []string{"is being written by another run of Coppice"}, append(args, "-o", out)...)
	refuse(t, exitUsage, []string{"is being written by another run of Coppice"}, append(args, "-o", out, "--force")...)
	p.Process.Signal(syscall.SIGCONT)
	if code := p.end(t); code != exitDone {
		t.Fatalf("exit code %d\n%s", code, &p.stderr)
	}
	if err := compareResults(whole, out); err != nil {
		t.Error(err)
	}
}

// Interrupted, an evaluation says what it keeps, exits with 4, and the same command goes on.
func TestEvalInterrupt(t *testing.T) {
	args := longEval(t)
	dir := t.TempDir()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		out := filepath.Join(dir, sig.String())
		ledger := filepath.Join(out, "ledger.jsonl")
		p := start(t, append(args, "-o", out)...)
		signalAt(p, sig, ledger, 2000)
		if code := p.end(t); code != exitInterrupted {
			t.Fatalf("%v: exit code %d, want %d\n%s", sig, code, exitInterrupted, &p.stderr)
		}
		if want := "interrupted; what was finished is kept in " + ledger + "; the same command goes on from there"; !strings.Contains(p.stderr.String(), want) {
			t.Errorf("%v: said %q", sig, &p.stderr)
		}
		kept := len(ledgerAnswers(t, out))
		if kept == 0 || kept == 300 {
			t.Errorf("%v: %d of 300 requests are kept", sig, kept)
		}
		var c struct {
			Models []struct {
				Usage struct {
					Resumed int `json:"requests_from_ledger"`
				}
			}
		}
		decode(t, succeed(t, append(args, "-o", out, "--json", "--quiet")...).stdout, &c)
		if got := c.Models[0].Usage.Resumed; got != kept {
			t.Errorf("%v: went on from %d requests, want %d", sig, got, kept)
		}
	}
	p := start(t, append(args[:len(args)-1:len(args)-1], "--threads", "1")...)
	time.Sleep(100 * time.Millisecond)
	p.Process.Signal(syscall.SIGINT)
	if code := p.end(t); code == exitInterrupted && !strings.Contains(p.stderr.String(), "interrupted; nothing was kept; with -o DIR") {
		t.Errorf("without -o: said %q", &p.stderr)
	} else if code != exitInterrupted && code != exitDone {
		t.Errorf("without -o: exit code %d\n%s", code, &p.stderr)
	}
}

// A disk that is full is exit code 1, and what was written before can be gone on from.
func TestEvalFullDisk(t *testing.T) {
	args := longEval(t)
	whole := filepath.Join(t.TempDir(), "whole")
	succeed(t, append(args, "-o", whole, "--quiet")...)
	small := mountTmpfs(t, "12k")
	out := filepath.Join(small, "out")
	refuse(t, exitFailed, []string{"writing the results: .*no space left on device"}, append(args, "-o", out)...)
	kept := filepath.Join(t.TempDir(), "kept")
	if err := os.Mkdir(kept, 0o777); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(out, "ledger.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(kept, "ledger.jsonl"), b, 0o666); err != nil {
		t.Fatal(err)
	}
	r := succeed(t, append(args, "-o", kept)...)
	if len(ledgerAnswers(t, kept)) != 300 {
		t.Errorf("%d answers", len(ledgerAnswers(t, kept)))
	}
	if err := compareResults(whole, kept); err != nil {
		t.Errorf("%v\n%s", err, r.stderr)
	}

	// Room for the ledger but not for the results.
	room := mountTmpfs(t, "64k")
	refuse(t, exitFailed, []string{"writing the results: .*no space left on device"}, append(args, "-o", filepath.Join(room, "out"))...)
	if files, _ := filepath.Glob(filepath.Join(room, "out", "results_*")); len(files) > 0 {
		t.Errorf("a part of the results looks whole: %q", files)
	}
	if left := hidden(t, filepath.Join(room, "out")); left != nil {
		t.Errorf("left behind: %q", left)
	}

	// Standard output that cannot be written.
	for _, verb := range [][]string{append(args[:len(args)-1:len(args)-1], "--limit", "2"), {"generate", args[1], "--prompt", "on and on", "--max-tokens", "200"}} {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		p := &running{Cmd: exec.Command("coppice", verb...)}
		p.Stdout, p.Stderr = full, &p.stderr
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		if code := p.end(t); code != exitFailed || !strings.Contains(p.stderr.String(), "no space left on device") {
			t.Errorf("%s: exit code %d, want %d\n%s", verb[0], code, exitFailed, &p.stderr)
		}
		full.Close()
	}
}

// A directory that cannot be written is exit code 1.
func TestEvalReadOnly(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("NOT CHECKED: nothing is read-only to root")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	refuse(t, exitFailed, []string{"writing the results: .*permission denied"}, append(longEval(t), "-o", filepath.Join(dir, "out"))...)
}

// An interruption is heard at the prompt of a chat, while nothing is typed.
func TestChatInterrupt(t *testing.T) {
	m := textModel(t)
	if err := writeTokenizer(m, []string{"chat={{ messages[0].content }}"}); err != nil {
		t.Fatal(err)
	}
	p := &running{Cmd: exec.Command("coppice", "generate", m, "--chat", "--max-tokens", "2")}
	in, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	prompts, err := p.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(prompts, make([]byte, 2)); err != nil { // "> "
		t.Fatal(err)
	}
	p.Process.Signal(syscall.SIGINT)
	rest := make(chan string)
	go func() {
		b, _ := io.ReadAll(prompts)
		rest <- string(b)
	}()
	select {
	case said := <-rest:
		if !strings.Contains(said, "interrupted") {
			t.Errorf("said %q", said)
		}
	case <-time.After(20 * time.Second):
		t.Error("an interruption is not heard at the prompt")
		p.Process.Kill()
	}
	in.Close()
	if code := p.end(t); code != exitInterrupted {
		t.Errorf("exit code %d, want %d", code, exitInterrupted)
	}
}
