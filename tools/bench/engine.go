//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/coppice-lm/coppice/internal/synth"
	"github.com/coppice-lm/coppice/tensor"
)

// The suite of the engine measures, against the machine and the programs that run models
// today (-venv; without one our side alone), with SmolLM2-135M and a random model of
// Llama-3.2-1B's shapes, on one and two threads:
//
//	gemm       the matrix products against a loop of multiply-adds
//	score      the log-probabilities of 512 tokens against torch and llama.cpp
//	score1b    the same with the larger model, which takes 20 GB of disk and of memory
//	attention  causal attention over 4,096 tokens against torch
//	decode     tokens one by one against llama.cpp and the memory's speed
//	calib      statistics of 65,536 tokens, obs and a least-squares refit against torch
//	obs        the order of 8,192 neurons against one Cholesky factorisation
//	calib1b    statistics of 1B shapes: time, memory, file and their laws (16 GB of disk)
//	calib3b    the same of 12 layers of 3B shapes (13 GB)
//	best3b     the preset on 2 layers of 3B shapes: time and memory of a layer
//	steps3b    steps of all layers together on 2 layers of 3B shapes: time and memory
//	card       five benchmarks against lm-eval, with memory and the answers' agreement
//	start      one record against lm-eval, which is mostly loading
//
// gemm to decode are of programs that stay loaded and take turns, each turn timed by the
// program itself; calib, card and start are of whole processes.

// engineOptions are the flags of the suite.
type engineOptions struct {
	only, data       string
	threads, batches intList
	records          int
	worker           workerOptions
}

func (o *engineOptions) define(flags *flag.FlagSet) {
	o.threads, o.batches = intList{1, 2}, intList{1, 8}
	flags.StringVar(&o.only, "only", "", "engine: the steps to measure, separated by commas (default: all)")
	flags.StringVar(&o.data, "data", filepath.Join(sharedDir(), "data"), "engine: the benchmarks' records")
	flags.Var(&o.threads, "threads", "engine: numbers of threads, separated by commas")
	flags.Var(&o.batches, "batches", "engine: batch sizes of lm-eval, of which the best counts")
	flags.IntVar(&o.records, "records", cardMuSR, "engine: records of each part of MuSR, the others in proportion; fewer make a quick run")
	o.worker.define(flags)
}

// intList is a flag: positive numbers, separated by commas.
type intList []int

func (l *intList) String() string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(*l), " ", ","), "[]")
}

// Set implements flag.Value.
func (l *intList) Set(text string) error {
	*l = nil
	for field := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n < 1 {
			return fmt.Errorf("%q is not a positive number", field)
		}
		*l = append(*l, n)
	}
	return nil
}

// model is what is measured, in the forms that the programs read.
type model struct {
	name string
	dir  string // Hugging Face directory
}

// step is a part of the suite; the model is SmolLM2-135M.
type step struct {
	name string
	run  func(*bench, model) error
}

func engineSteps() []step {
	return []step{
		{"gemm", (*bench).gemm},
		{"score", (*bench).scoreModel},
		{"score1b", (*bench).scoreOneB},
		{"attention", (*bench).attention},
		{"decode", (*bench).decode},
		{"calib", (*bench).calibrate},
		{"obs", (*bench).obs},
		{"calib1b", (*bench).calibOneB},
		{"calib3b", (*bench).calibThreeB},
		{"best3b", (*bench).bestThreeB},
		{"steps3b", (*bench).stepsThreeB},
		{"card", (*bench).card},
		{"start", (*bench).start},
	}
}

// measureEngine is the suite of the engine from start to end.
func measureEngine(ctx context.Context, o options) error {
	steps := engineSteps()
	if o.engine.only != "" {
		var err error
		if steps, err = choose(steps, strings.Split(o.engine.only, ",")); err != nil {
			return err
		}
	}
	b, err := prepareDir(ctx, o)
	if err != nil {
		return err
	}
	defer os.RemoveAll(b.work)
	small, err := b.setUpEngine()
	if err != nil {
		return err
	}
	smol, err := b.smol()
	if err != nil {
		return err
	}
	for _, s := range steps {
		if err := s.run(b, smol); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return b.finish(small)
}

// choose returns the steps of these names, in their own order.
func choose(steps []step, names []string) ([]step, error) {
	var chosen []step
	for _, s := range steps {
		if slices.Contains(names, s.name) {
			chosen = append(chosen, s)
		}
	}
	if len(chosen) != len(names) {
		return nil, fmt.Errorf("-only %s: a step is unknown or named twice", strings.Join(names, ","))
	}
	return chosen, nil
}

// setUpEngine makes the binary and an empty report; it returns what makes the run small.
func (b *bench) setUpEngine() (small string, err error) {
	if b.gguf == "" {
		return "", errors.New("no GGUF file of the model: set -gguf or COPPICE_SHARED")
	}
	if err := b.build(); err != nil {
		return "", err
	}
	b.report = report{
		Machine: describeMachine(b.dir), Peers: b.peerVersions(), Repetitions: b.reps,
		Measurements: map[string]series{}, Times: map[string][]float64{},
	}
	switch {
	case b.engine.records < cardMuSR:
		small = fmt.Sprintf("%d records of each part of MuSR instead of %d", b.engine.records, cardMuSR)
	case b.reps < 3:
		small = fmt.Sprintf("%d repetitions", b.reps)
	}
	return small, nil
}

// smol is SmolLM2-135M in float32, imported once.
func (b *bench) smol() (model, error) {
	m := model{"SmolLM2-135M", filepath.Join(b.dir, "smollm2-135m-f32")}
	if _, err := os.Stat(filepath.Join(m.dir, "config.json")); err == nil {
		return m, nil
	}
	_, _, err := b.run(b.coppice, "import", b.gguf, "-o", m.dir, "--dtype", "f32", "--quiet", "--force")
	return m, err
}

// The directory of the random model, in bfloat16, as published models are, and its layers.
const (
	oneB       = "llama-1b-shape"
	oneBLayers = 16
)

func (b *bench) oneB() (model, error) {
	m := model{"1B shapes", filepath.Join(b.dir, oneB)}
	if _, err := os.Stat(m.dir); err == nil {
		return m, nil
	}
	say("making a checkpoint of 1B shapes in %s", m.dir)
	_, err := b.self("1b")
	return m, err
}

// makeOneB writes a random model of Llama-3.2-1B's shapes.
func makeOneB(dir string) error {
	return synth.Write(dir, synth.Config(2048, 8192, oneBLayers, 32, 8, 128256, true), tensor.BF16, 1, 5e9)
}

// ggufOf returns a GGUF file of the model for llama.cpp, made once, and what a token has
// to read of it: the bytes of all tensors.
func (b *bench) ggufOf(m model, kind string) (path string, bytes int64, err error) {
	path = m.dir + "." + kind + ".gguf"
	info := path + ".json"
	out, err := os.ReadFile(info)
	if err != nil {
		say("making %s", path)
		if _, out, err = b.run(b.python(), script("to_gguf.py"), m.dir, path, kind); err != nil {
			return "", 0, err
		}
		if err := os.WriteFile(info, out, 0o644); err != nil {
			return "", 0, err
		}
	}
	var size struct {
		Bytes int64 `json:"tensor_bytes"`
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &size); err != nil {
		return "", 0, fmt.Errorf("%s: %w", info, err)
	}
	return path, size.Bytes, nil
}
