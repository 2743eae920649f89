//go:build linux

package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/coppice-lm/coppice/engine/cpu/kernel"
)

const (
	scoreTokens     = 512
	attentionTokens = 4096
	decodeTokens    = 64
)

// gemm runs the kernels' own benchmarks, which compare with a loop of multiply-adds.
func (b *bench) gemm(model) error {
	shares, rates := map[string][]float64{}, map[string][]float64{}
	for range b.reps {
		err := b.benchmarks("./engine/cpu/kernel", fmt.Sprintf("^BenchmarkMul(F32|BF16)$/.*/^%s$", kernel.Active()), "10x", func(what string, metrics map[string]float64) {
			shares[what] = append(shares[what], metrics["%peak"])
			rates[what] = append(rates[what], metrics["GFLOP/s"])
		})
		if err != nil {
			return err
		}
	}
	for _, what := range slices.Sorted(maps.Keys(shares)) {
		share, rate := median(shares[what])/100, median(rates[what])
		b.report.add(row{
			What: "gemm " + what + " / loop of multiply-adds", Unit: "GFLOP/s", Ours: rate, Peer: rate / share,
			Ratio: share, Goal: "ratio >= 0.85", holds: share >= 0.85,
		})
	}
	return nil
}

// benchmarks runs those of a package that a pattern names, and calls f with each line's name
// and values by unit.
func (b *bench) benchmarks(pkg, pattern, times string, f func(what string, metrics map[string]float64)) error {
	_, out, err := b.run("go", "test", "-run", "^$", "-bench", pattern, "-benchtime", times, pkg)
	if err != nil {
		return err
	}
	any := false
	for line := range strings.Lines(string(out)) {
		if what, metrics, ok := parseBenchmark(line); ok {
			f(what, metrics)
			any = true
		}
	}
	if !any {
		return fmt.Errorf("go test -bench '%s' %s printed no benchmark", pattern, pkg)
	}
	return nil
}

// parseBenchmark reads a line of go test -bench: the name without what every line has,
// and the values by unit.
func parseBenchmark(line string) (what string, metrics map[string]float64, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
		return "", nil, false
	}
	metrics = map[string]float64{}
	for i := 2; i+1 < len(fields); i += 2 {
		v, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return "", nil, false
		}
		metrics[fields[i+1]] = v
	}
	what = strings.TrimPrefix(strings.TrimPrefix(fields[0], "Benchmark"), "Mul")
	if i := strings.LastIndexByte(what, '-'); i > 0 { // GOMAXPROCS
		what = what[:i]
	}
	parts := strings.Split(what, "/")
	return strings.ToLower(parts[0]) + " " + strings.Join(parts[1:], " "), metrics, true
}

// Relative tolerances of the sums of log-probabilities that programs must agree on.
// llama.cpp keeps keys and values in 16 bits, and quantises activations with the weights.
var agreement = map[string]float64{"f32": 1e-3, "bf16": 0.02, "f16": 0.02, "q8_0": 0.05, "q4_0": 0.25}

var torchTypes = map[string]string{"f32": "float32", "bf16": "bfloat16"}

func (b *bench) scoreOneB(model) error {
	m, err := b.oneB()
	if err != nil {
		return err
	}
	return b.scoreModel(m)
}

func (b *bench) scoreModel(m model) error {
	for _, dtype := range []string{"f32", "bf16"} {
		for _, threads := range b.engine.threads {
			if err := b.scoreOne(m, dtype, threads); err != nil {
				return err
			}
		}
	}
	return nil
}

// scoreOne has the log-probabilities of 512 tokens computed in turns.
func (b *bench) scoreOne(m model, dtype string, threads int) error {
	c := contest{name: fmt.Sprintf("score %d tokens, %s, %s, %d threads", scoreTokens, m.name, dtype, threads)}
	defer c.close()
	n, cores := fmt.Sprint(scoreTokens), fmt.Sprint(threads)
	ours, err := b.worker("-job", "score", "-job-model", m.dir, "-job-dtype", dtype, "-job-threads", cores, "-job-tokens", n)
	if err != nil {
		return err
	}
	if err := c.enter(b, "coppice", ours...); err != nil {
		return err
	}
	goal := 1.1
	if dtype == "bf16" {
		goal = 1.2
	}
	if b.python() != "" {
		if err := c.enter(b, "torch", b.python(), script("torch_score.py"), m.dir, torchTypes[dtype], "--threads", cores, "--tokens", n); err != nil {
			return err
		}
		file, _, err := b.ggufOf(m, dtype)
		if err != nil {
			return err
		}
		if err := c.enter(b, "llama.cpp", b.python(), script("llamacpp_run.py"), file, "score", "--threads", cores, "--tokens", n); err != nil {
			return err
		}
	}
	if err := c.run(b, b.reps, agreement[dtype]); err != nil {
		return err
	}
	c.rows(b, scoreTokens, "tokens/s", goal)
	return nil
}

func (b *bench) attention(model) error {
	for _, threads := range b.engine.threads {
		if err := b.attentionOne(threads); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) attentionOne(threads int) error {
	c := contest{name: fmt.Sprintf("attention over %d tokens, f32, %d threads", attentionTokens, threads)}
	defer c.close()
	n, cores := fmt.Sprint(attentionTokens), fmt.Sprint(threads)
	ours, err := b.worker("-job", "attention", "-job-threads", cores, "-job-tokens", n)
	if err != nil {
		return err
	}
	if err := c.enter(b, "coppice", ours...); err != nil {
		return err
	}
	if b.python() != "" {
		err := c.enter(b, "torch", b.python(), script("torch_attention.py"), fmt.Sprint(attentionHeads), fmt.Sprint(attentionKVHeads),
			fmt.Sprint(attentionDim), "float32", "--threads", cores, "--tokens", n)
		if err != nil {
			return err
		}
		say("torch takes keys and values %s", c.programs[1].detail)
	}
	if err := c.run(b, b.reps, 1e-3); err != nil {
		return err
	}
	// Two products of queries with the keys up to each, two operations an element.
	const flops = 2 * 2 * attentionHeads * attentionDim * attentionTokens * (attentionTokens + 1) / 2
	c.rows(b, flops/1e9, "GFLOP/s", 1.0)
	return nil
}

// decodeTypes are formats of weights, as llama.cpp spells them, and the engine's precision
// for each: the stored ones run from llama.cpp's own file.
var decodeTypes = []struct{ peer, ours string }{
	{"f32", "f32"}, {"bf16", "bf16"}, {"f16", "stored"}, {"q8_0", "stored"}, {"q4_0", "stored"},
}

// decode measures every format against the same one of llama.cpp, and against what the
// memory gives in the same turns.
func (b *bench) decode(smol model) error {
	for _, t := range decodeTypes {
		if t.ours == "stored" && b.python() == "" {
			say("decode: without -venv there is no file in %s", t.peer)
			continue
		}
		for _, threads := range b.engine.threads {
			if err := b.decodeOne(smol, t.peer, t.ours, threads); err != nil {
				return err
			}
		}
	}
	return nil
}

// decodeOne decodes tokens in turns with weights of one type, with the engine in a
// precision.
func (b *bench) decodeOne(m model, kind, precision string, threads int) error {
	c := contest{name: fmt.Sprintf("decode, %s, %s, %d threads", m.name, kind, threads)}
	defer c.close()
	path := m.dir
	var file string
	var bytes int64
	if b.python() != "" {
		var err error
		if file, bytes, err = b.ggufOf(m, kind); err != nil {
			return err
		}
		if precision == "stored" {
			path = file
		}
	}
	n, cores := fmt.Sprint(decodeTokens), fmt.Sprint(threads)
	ours, err := b.worker("-job", "decode", "-job-model", path, "-job-dtype", precision, "-job-threads", cores, "-job-tokens", n)
	if err != nil {
		return err
	}
	if err := c.enter(b, "coppice", ours...); err != nil {
		return err
	}
	if file != "" {
		if err := c.enter(b, "llama.cpp", b.python(), script("llamacpp_run.py"), file, "decode", "--threads", cores, "--tokens", n); err != nil {
			return err
		}
	}
	if file != "" { // how large the weights are is known from the peer's file
		// How fast memory is varies on a machine that others use, so it takes turns too.
		reading, err := b.worker("-job", "memory", "-job-threads", cores)
		if err != nil {
			return err
		}
		if c.memory, err = b.load("memory", reading...); err != nil {
			return err
		}
	}
	if err := c.run(b, b.reps, agreement[kind]); err != nil {
		return err
	}
	c.rows(b, decodeTokens, "tokens/s", 1.1)
	if file == "" {
		return nil
	}
	rate, memory := float64(bytes)/1e9*decodeTokens/c.programs[0].seconds(), bandwidthBytes/1e9/c.memory.seconds()
	b.report.Times[c.name+", memory"] = c.memory.times
	b.report.add(row{
		What: c.name + ": weights read / memory read bandwidth", Unit: "GB/s", Ours: rate, Peer: memory,
		Ratio: rate / memory, Goal: "ratio >= 0.8", holds: rate >= 0.8*memory,
	})
	return nil
}
