//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
)

// What both programs compute: the default of calibration, one ratio, and a damping that is
// given, since torch's script chooses none.
const (
	calibTokens = "65536" // 128 rows of 512
	calibRatio  = "0.6"
)

// torchCalib is what tools/peers/torch_calib.py prints.
type torchCalib struct {
	Seconds map[string]float64 `json:"seconds"`
	Same    float64            `json:"same_neurons"`
	Ours    float64            `json:"error_coppice"` // of the layers' outputs, relative
	Theirs  float64            `json:"error_torch"`
}

// calibrate prunes by obs with a least-squares refit, in turns with torch. Our side is timed
// as a whole process, loading and writing the model included; torch without imports, loading
// and writing.
func (b *bench) calibrate(m model) error {
	text := filepath.Join(b.dir, "calibration.jsonl")
	// One document, which nothing shuffles or holds back, so that torch is given the same rows.
	if err := writeDocuments(text, builtInText(), math.MaxInt); err != nil {
		return err
	}
	for _, threads := range b.engine.threads {
		if err := b.calibrateOn(m, text, fmt.Sprint(threads)); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) calibrateOn(m model, text, threads string) error {
	name := fmt.Sprintf("calib, obs and refit, %s, f32, %s threads", m.name, threads)
	out := b.output("calibrated")
	var ours []usage
	var peer []float64
	for i := range b.reps {
		if err := os.RemoveAll(out); err != nil {
			return err
		}
		u, _, err := b.run(b.coppice, "prune", m.dir, "-o", out, "--ratio", calibRatio, "--method", "obs", "--align", "1",
			"--refit", "least-squares", "--refit-damping", "0.01", "--calib", text, "--tokens", calibTokens, "--threads", threads, "--quiet")
		if err != nil {
			return err
		}
		b.record(name, u)
		ours = append(ours, u)
		if b.python() == "" || i >= b.peerReps {
			continue
		}
		u, printed, err := b.run(b.python(), script("torch_calib.py"), m.dir, text, calibRatio, "--tokens", calibTokens, "--threads", threads, "--compare", out)
		if err != nil {
			return err
		}
		b.record(name+", torch", u)
		seconds, err := readTorchCalib(printed)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		say("torch: sums %.1f s, obs %.1f s, refit %.1f s", seconds["sums"], seconds["obs"], seconds["refit"])
		peer = append(peer, seconds["sums"]+seconds["obs"]+seconds["refit"])
	}
	wall := series(ours).wall()
	line := row{What: name, Unit: "s", Ours: wall}
	if len(peer) > 0 {
		line.Peer = median(peer)
		line.Ratio = line.Peer / wall
		line.Goal, line.holds = "ratio >= 2", line.Ratio >= 2
	}
	b.report.add(line)
	return nil
}

// obs runs its own benchmark, which compares with a factorisation in turns.
func (b *bench) obs(model) error {
	return b.benchmarks("./score", "^BenchmarkOBS$/^8192x", fmt.Sprintf("%dx", b.reps), func(what string, metrics map[string]float64) {
		times := metrics["x-Cholesky"]
		b.report.add(row{What: what + " / Cholesky", Unit: "s", Ours: metrics["s/obs"], Peer: metrics["s/Cholesky"], Ratio: times, Goal: "ratio <= 10", holds: times <= 10})
	})
}

// readTorchCalib reads the seconds, and checks that both programs computed the same: nearly
// the same neurons, and outputs that are as near to those of the whole model.
func readTorchCalib(printed []byte) (map[string]float64, error) {
	lines := strings.Split(strings.TrimSpace(string(printed)), "\n")
	var t torchCalib
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &t); err != nil {
		return nil, err
	}
	if !(t.Same >= 0.98) || !(math.Abs(t.Ours-t.Theirs) <= 0.01*t.Theirs) {
		return nil, fmt.Errorf("%.2f %% of the neurons are the same, the outputs' relative error is %v and torch's %v", 100*t.Same, t.Ours, t.Theirs)
	}
	return t.Seconds, nil
}
