//go:build linux

// Command bench measures Coppice against the programs that do the same job today and
// against the machine, and says which goals hold.
//
// It makes a checkpoint of Llama-3.2-3B's shapes with random weights (6.4 GB, kept in
// -dir and used again), builds Coppice, and times on the same disk, with the input in
// the page cache and no dirty pages left by what ran before:
//
//   - prune at 60 %, everything synced, against cp -r of the input plus sync, in turns;
//   - the same job by transformers and optipfair, if -venv names a virtual environment;
//   - inspect, in time and memory;
//   - score, in bytes a second, against what this machine's memory can be read at;
//   - import of a GGUF file against transformers' loader.
//
// All times are of whole processes, from start to exit; medians are compared, never best
// cases. That is the suite of files. -suite engine measures what runs models instead; see
// engine.go, and -suite export what writes GGUF files; see export.go. Each prints a table and writes everything it measured as JSON. Linux only: peak
// memory comes from wait4, and the machine's description from /proc.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	dir, json, coppice, venv, gguf string
	layers, reps, peerReps         int
	engine                         engineOptions
}

func run(ctx context.Context, args []string) error {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.dir, "dir", filepath.Join(os.TempDir(), "coppice-bench"), "where the checkpoint is kept and the outputs go; needs about 18 GB")
	flags.StringVar(&o.json, "json", filepath.Join("bench-out", "bench.json"), "where the results go")
	flags.StringVar(&o.coppice, "coppice", "", "the binary to measure (default: built from ./cmd/coppice)")
	flags.StringVar(&o.venv, "venv", os.Getenv("PEERS_VENV"), "virtual environment with transformers and optipfair; without one they are not measured")
	flags.StringVar(&o.gguf, "gguf", defaultGGUF(), "GGUF file to import; empty: import is not measured")
	flags.IntVar(&o.layers, "layers", fullLayers, "layers of the checkpoint; fewer make a quick run, whose goals do not count")
	flags.IntVar(&o.reps, "n", 5, "repetitions of each measurement")
	flags.IntVar(&o.peerReps, "peer-n", 2, "repetitions of transformers and optipfair, which are slow")
	suite := flags.String("suite", "files", "what to measure: files, engine or export")
	o.engine.define(flags)
	child := flags.String("child", "", "internal: the part to run as a process of its own")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if o.layers < 1 || o.reps < 1 || o.peerReps < 1 || flags.NArg() > 0 {
		return errors.New("-layers, -n and -peer-n are at least 1, and there are no further arguments")
	}
	if *child != "" {
		return runChild(*child, o)
	}
	switch *suite {
	case "files":
		return measureAll(ctx, o)
	case "engine":
		return measureEngine(ctx, o)
	case "export":
		return measureExport(ctx, o)
	}
	return fmt.Errorf("-suite %q: expected files, engine or export", *suite)
}

// runChild runs a part that takes much memory. It needs a process of its own because
// the peak that wait4 reports for a program starts at the peak of the process that
// started it: this one has to stay small.
func runChild(part string, o options) error {
	switch part {
	case "model":
		return makeModel(modelDir(o), o.layers)
	case "bandwidth":
		return printBandwidth(modelDir(o))
	case "1b":
		return makeOneB(filepath.Join(o.dir, oneB))
	case "worker":
		return work(o.engine.worker)
	}
	return fmt.Errorf("no part is called %q", part)
}

// measureAll is the benchmark from start to end.
func measureAll(ctx context.Context, o options) error {
	b, err := prepare(ctx, o)
	if err != nil {
		return err
	}
	defer os.RemoveAll(b.work)
	for _, step := range []func() error{b.prune, b.inspect, b.score, b.importGGUF} {
		if err := step(); err != nil {
			return err
		}
	}
	small := ""
	if o.layers != fullLayers {
		small = fmt.Sprintf("%d layers instead of %d", o.layers, fullLayers)
	}
	return b.finish(small)
}

// finish judges, prints and writes the report.
func (b *bench) finish(small string) error {
	floor, _, err := b.run("true")
	if err != nil {
		return err
	}
	b.report.MemoryFloor = floor.Peak
	b.report.judge(small)
	if err := b.report.print(os.Stdout); err != nil {
		return err
	}
	return b.report.write(b.json)
}

// prepare makes the checkpoint, the binary and an empty directory for outputs.
func prepare(ctx context.Context, o options) (*bench, error) {
	b, err := prepareDir(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := b.setUp(); err != nil {
		os.RemoveAll(b.work)
		return nil, err
	}
	return b, nil
}

// prepareDir makes an empty directory for outputs.
func prepareDir(ctx context.Context, o options) (*bench, error) {
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp(o.dir, "run-")
	if err != nil {
		return nil, err
	}
	return &bench{ctx: ctx, options: o, work: work, model: modelDir(o)}, nil
}

func (b *bench) setUp() error {
	count, err := parameters(b.layers, width)
	if err != nil {
		return err
	}
	if _, err := os.Stat(b.model); err != nil {
		say("making a checkpoint of %d layers in %s", b.layers, b.model)
		if _, err := b.self("model"); err != nil {
			return err
		}
	}
	if err := checkSpace(b.dir, 2*2*count); err != nil {
		return err
	}
	if err := b.build(); err != nil {
		return err
	}
	b.report = report{
		Machine:      describeMachine(b.dir),
		Peers:        b.peerVersions(),
		Checkpoint:   &checkpointInfo{Layers: b.layers, Bytes: 2 * count, Parameters: count},
		Repetitions:  b.reps,
		Measurements: map[string]series{},
	}
	return nil
}

// build makes the binary, unless one is given.
func (b *bench) build() error {
	if b.coppice != "" {
		return nil
	}
	b.coppice = filepath.Join(b.work, "coppice")
	build := exec.CommandContext(b.ctx, "go", "build", "-o", b.coppice, "./cmd/coppice")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("go build ./cmd/coppice (run this at the root of the repository, or set -coppice): %w", err)
	}
	return nil
}

// self runs a part of this program as a child.
func (b *bench) self(part string) ([]byte, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	_, out, err := b.run(exe, "-child", part, "-dir", b.dir, "-layers", fmt.Sprint(b.layers))
	return out, err
}

// defaultGGUF is the shared model if it is where the tests look for it.
func defaultGGUF() string {
	path := filepath.Join(sharedDir(), "models", "SmolLM2-135M-Instruct.Q4_1.gguf")
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// sharedDir is where the real model and the data are.
func sharedDir() string {
	if shared := os.Getenv("COPPICE_SHARED"); shared != "" {
		return shared
	}
	return filepath.Join("..", "shared")
}

// say reports progress; the results alone go to standard output.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}
