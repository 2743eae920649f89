package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coppice-lm/coppice/study"
)

// runStudy runs the program as a process, which is what a study's own commands are: in the
// process of the tests they would be the tests.
func runStudy(t testing.TB, code int, args ...string) result {
	t.Helper()
	p := &running{Cmd: exec.Command("coppice", append([]string{"study"}, args...)...)}
	var stdout bytes.Buffer
	p.Stdout, p.Stderr = &stdout, &p.stderr
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	if got := p.end(t); got != code {
		t.Fatalf("coppice study %q: exit code %d, want %d\n%s", args, got, code, &p.stderr)
	}
	return result{code, stdout.String(), p.stderr.String()}
}

// tinyStudy writes a study of 5 cells that takes a second or two: its file.
func tinyStudy(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	m := makeModel(t, filepath.Join(dir, "m"), "vocab=300", "dtype=f32", "hidden=128", "width=384")
	if err := writeTokenizer(m, nil); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	var words, story strings.Builder
	r := rand.New(rand.NewPCG(5, 6))
	for i := range 60 { // with no beginning in common, so that each request takes its time
		fmt.Fprintf(&words, "{\"text\":\"%x %x number %d\"}\n", r.Uint64(), r.Uint64(), i)
	}
	for range 300 {
		fmt.Fprintf(&story, "It was %d paces to the wood, and %d back.\n", r.IntN(1000), r.IntN(1000))
	}
	write("data/lambada_openai/test.jsonl", words.String())
	write("story.txt", story.String())
	write("tiny.yaml", `version: 1
models: [{path: m}]
methods: [best, maxabs]
ratios: [0.3, 0.6]
calibration: {text: [story.txt], tokens: 3000, ctx: 64}
tasks: [lambada_openai]
data: data
text: {files: [story.txt], ctx: 512}
threads: 1
`)
	return filepath.Join(dir, "tiny.yaml")
}

// ledgerLines is a study's ledger without what differs from run to run.
func ledgerLines(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, line := range strings.Split(string(b), "\n") {
		line, _, _ = strings.Cut(line, `,"run":`)
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

// evalLines counts the requests that the evaluations of a study have kept, and those that
// stand there twice.
func evalLines(t testing.TB, file string) (requests, twice int) {
	t.Helper()
	ledgers, err := filepath.Glob(filepath.Join(strings.TrimSuffix(file, ".yaml")+".study", "cells", "*", "results*", "ledger.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range ledgers {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, line := range bytes.Split(b, []byte("\n")) {
			key, _, ok := bytes.Cut(line, []byte(`,"loglikelihood"`))
			if !ok {
				continue
			}
			requests++
			if seen[string(key)] {
				twice++
			}
			seen[string(key)] = true
		}
	}
	return requests, twice
}

// killsVar says how often TestStudyKill kills a study.
const killsVar = "COPPICE_TEST_KILLS"

// Killed again and again at random moments, a study goes on where it was: no finished cell
// is lost, nothing is left of what it started, and the ledger ends as one that was not
// disturbed, in its very lines.
func TestStudyKill(t *testing.T) {
	kills := 6
	if text := os.Getenv(killsVar); text != "" {
		var err error
		if kills, err = strconv.Atoi(text); err != nil {
			t.Fatalf("%s: %v", killsVar, err)
		}
	}
	whole := tinyStudy(t)
	begin := time.Now()
	runStudy(t, exitDone, whole, "--quiet")
	took := time.Since(begin)
	want := ledgerLines(t, strings.TrimSuffix(whole, ".yaml")+".ledger.jsonl")
	requests, _ := evalLines(t, whole)

	r := rand.New(rand.NewPCG(1, 2))
	killed, rounds, finished := 0, 0, 0
	for killed < kills {
		file := tinyStudy(t)
		ledger := strings.TrimSuffix(file, ".yaml") + ".ledger.jsonl"
		rounds++
		before := 0
		for over := false; !over; {
			p := start(t, "study", file)
			if killed >= kills {
				if code := p.end(t); code != exitDone {
					t.Fatalf("exit code %d\n%s", code, &p.stderr)
				}
				break
			}
			// A moment within a few steps, so that a study is killed in all of them.
			killAt(p, syscall.SIGKILL, "/", time.Duration(r.Int64N(int64(took)/3)))
			switch code := p.end(t); code {
			case -1:
				killed++
			case exitDone:
				over = true
			default:
				t.Fatalf("exit code %d\n%s", code, &p.stderr)
			}
			if l, err := study.ReadLedger(ledger); err == nil {
				if len(l.Records) < before {
					t.Fatalf("the ledger had %d records and has %d", before, len(l.Records))
				}
				before = len(l.Records)
				finished += before
			} else if !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(want, ledgerLines(t, ledger)); diff != "" {
			t.Fatalf("after %d kills in all:\n%s", killed, diff)
		}
		got, twice := evalLines(t, file)
		if got != requests || twice != 0 {
			t.Errorf("%d requests, %d of them twice; want %d", got, twice, requests)
		}
		if left, _ := filepath.Glob(filepath.Join(strings.TrimSuffix(file, ".yaml")+".study", "scratch", "*")); len(left) > 0 {
			t.Errorf("left in the scratch directory: %q", left)
		}
	}
	t.Logf("killed %d times in %d studies, with %d finished cells in the ledger in all of these moments; an undisturbed one takes %v", killed, rounds, finished, took)
}

// workingIn lists the processes whose working directory is dir, as a study's commands have
// that of its file.
func workingIn(t testing.TB, dir string) []string {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && to == dir {
			found = append(found, link)
		}
	}
	return found
}

// What a killed study started ends with it.
func TestStudyChildrenEnd(t *testing.T) {
	file := tinyStudy(t)
	dir, err := filepath.EvalSymlinks(filepath.Dir(file))
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, "study", file)
	for len(workingIn(t, dir)) == 0 && !over(p) {
		time.Sleep(time.Millisecond)
	}
	p.Process.Signal(syscall.SIGKILL)
	if code := p.end(t); code != -1 {
		t.Fatalf("it ended with exit code %d before it was killed\n%s", code, &p.stderr)
	}
	// The first command takes longer than this by itself.
	for deadline := time.Now().Add(200 * time.Millisecond); len(workingIn(t, dir)) > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("still running: %q", workingIn(t, dir))
		}
		time.Sleep(time.Millisecond)
	}
}

// Interrupted, a study says what is kept, exits with 4, and the same command goes on.
func TestStudyInterrupt(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		file := tinyStudy(t)
		base := strings.TrimSuffix(file, ".yaml")
		p := start(t, "study", file)
		killAt(p, sig, filepath.Join(base+".study", "cells", "*", "results", "ledger.jsonl"), 5*time.Millisecond)
		if code := p.end(t); code != exitInterrupted {
			t.Fatalf("%v: exit code %d\n%s", sig, code, &p.stderr)
		}
		if want := "interrupted; finished cells are kept in " + base + ".ledger.jsonl, finished requests beside it; the same command goes on from there"; !strings.Contains(p.stderr.String(), want) {
			t.Errorf("%v: said %q", sig, &p.stderr)
		}
		if r := runStudy(t, exitDone, file); !strings.Contains(r.stdout, "0 failed") {
			t.Errorf("%v: went on with %q", sig, r.stdout)
		}
	}
}

// A scratch disk that is too small is said before anything is done, with exit code 3.
func TestStudySmallDisk(t *testing.T) {
	file := tinyStudy(t)
	small := mountTmpfs(t, "1m")
	for _, args := range [][]string{{file}, {"plan", file}} {
		r := runStudy(t, exitInput, append(args, "--scratch", small)...)
		if !strings.Contains(r.stderr, "MB there, and 1.0 MB are free; name another disk") {
			t.Errorf("study %q: said %q", args, r.stderr)
		}
	}
	if entries, err := os.ReadDir(small); err != nil || len(entries) > 0 {
		t.Errorf("%v, %v", entries, err)
	}
	if _, err := os.Stat(strings.TrimSuffix(file, ".yaml") + ".study"); err == nil {
		t.Error("the study was begun")
	}
}
