//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// percent of the neurons go, as in the published model, which leaves keptWidth of width.
const (
	percent   = 60
	keptWidth = width - width*percent/100 // 3277
)

// prune measures prune and the copy in turns, the first place changing each time, and
// then the peer.
func (b *bench) prune() error {
	steps := []func() error{b.pruneOnce, b.copyOnce}
	for i := range b.reps {
		for j := range steps {
			if err := b.settle(b.model); err != nil {
				return err
			}
			if err := steps[(i+j)%2](); err != nil {
				return err
			}
		}
	}
	ours, cp := b.report.Measurements["prune"], b.report.Measurements["cp + sync"]
	b.report.add(row{
		What: "prune 3B shapes at 60 %, synced / cp -r + sync", Unit: "s",
		Ours: ours.wall(), Peer: cp.wall(), Ratio: ours.wall() / cp.wall(), Goal: "ratio <= 0.75",
		holds: ours.wall() <= 0.75*cp.wall(),
	})
	peak := mebibytes(ours.peak())
	memory := row{What: "prune, peak memory", Unit: "MiB", Ours: peak, Goal: "<= 512", holds: peak <= 512}
	if b.python() != "" {
		for range b.peerReps {
			if err := b.settle(b.model); err != nil {
				return err
			}
			if err := b.optipfairOnce(); err != nil {
				return err
			}
		}
		peer := b.report.Measurements["optipfair"]
		b.report.add(row{
			What: "prune, synced / transformers + optipfair, not synced", Unit: "s",
			Ours: ours.wall(), Peer: peer.wall(), Ratio: peer.wall() / ours.wall(), Goal: "ratio >= 7",
			holds: peer.wall() >= 7*ours.wall(),
		})
		memory.Peer = mebibytes(peer.peak())
		memory.Ratio = memory.Peer / memory.Ours
	}
	b.report.add(memory)
	return nil
}

func (b *bench) pruneOnce() error {
	out := b.output("pruned")
	took, _, err := b.run(b.coppice, "prune", b.model, "-o", out, "--ratio", fmt.Sprint(percent/100.), "--method", "maxabs", "--quiet")
	if err != nil {
		return err
	}
	b.record("prune", took)
	return b.checkPruned(out)
}

// checkPruned makes sure that what was timed is the whole job.
func (b *bench) checkPruned(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	if err != nil {
		return err
	}
	var total int64
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		total += info.Size()
	}
	kept, err := parameters(b.layers, keptWidth)
	if err != nil {
		return err
	}
	want := 2 * kept
	if headers := total - want; headers < 0 || headers > 1<<20 {
		return fmt.Errorf("%s holds %d bytes of safetensors, and the weights alone take %d", dir, total, want)
	}
	return nil
}

// copyOnce is the yardstick: the input copied and on the disk.
func (b *bench) copyOnce() error {
	took, _, err := b.run("cp", "-r", b.model, b.output("copy"))
	if err != nil {
		return err
	}
	synced, _, err := b.run("sync")
	if err != nil {
		return err
	}
	took.Wall += synced.Wall
	took.CPU += synced.CPU
	b.record("cp + sync", took)
	return nil
}

func (b *bench) optipfairOnce() error {
	out := b.output("optipfair")
	took, phases, err := b.run(b.python(), script("optipfair_prune.py"), b.model, out, fmt.Sprint(percent))
	if err != nil {
		return err
	}
	b.record("optipfair", took)
	b.recordPhases("optipfair", phases)
	return b.checkPruned(out)
}

// inspect is short, so it is repeated more often.
func (b *bench) inspect() error {
	if err := b.settle(b.model); err != nil {
		return err
	}
	for range 4 * b.reps {
		took, _, err := b.run(b.coppice, "inspect", b.model, "--json")
		if err != nil {
			return err
		}
		b.record("inspect", took)
	}
	s := b.report.Measurements["inspect"]
	ms, peak := 1e3*s.wall(), mebibytes(s.peak())
	b.report.add(row{What: "inspect", Unit: "ms", Ours: ms, Goal: "< 50", holds: ms < 50})
	b.report.add(row{What: "inspect, peak memory", Unit: "MiB", Ours: peak, Goal: "< 64", holds: peak < 64})
	return nil
}

// score compares the bytes that scoring needs, over the time of the whole process, with
// the rate at which this machine reads memory, measured in turns.
func (b *bench) score() error {
	var rates []float64
	for range b.reps {
		if err := b.settle(b.model); err != nil {
			return err
		}
		took, _, err := b.run(b.coppice, "score", b.model, "-o", b.output("scores.json"), "--method", "maxabs", "--quiet")
		if err != nil {
			return err
		}
		b.record("score", took)
		out, err := b.self("bandwidth")
		if err != nil {
			return err
		}
		var now bandwidth
		if err := json.Unmarshal(out, &now); err != nil {
			return fmt.Errorf("bandwidth: %w", err)
		}
		b.report.Bandwidth = append(b.report.Bandwidth, now)
		rates = append(rates, now.best())
		say("%-22s %8.1f GB/s", "memory read", now.best())
	}
	s := b.report.Measurements["score"]
	rate := float64(scoredBytes(b.layers)) / 1e9 / s.wall()
	memory := median(rates)
	b.report.add(row{
		What: "score: gate and up read / memory read bandwidth", Unit: "GB/s",
		Ours: rate, Peer: memory, Ratio: rate / memory, Goal: "ratio >= 0.60", holds: rate >= 0.6*memory,
	})
	cores := float64(b.report.Machine.Cores)
	b.report.add(row{
		What: "score, cores busy / cores", Unit: "", Ours: s.cores(), Peer: cores,
		Ratio: s.cores() / cores, Goal: "ratio >= 0.75", holds: s.cores() >= 0.75*cores,
	})
	return nil
}

// importGGUF compares both ways from a GGUF file to a float32 directory.
func (b *bench) importGGUF() error {
	if b.gguf == "" {
		say("no GGUF file: import is not measured (set -gguf or COPPICE_SHARED)")
		return nil
	}
	for i := range b.reps {
		if err := b.settle(b.gguf); err != nil {
			return err
		}
		took, _, err := b.run(b.coppice, "import", b.gguf, "-o", b.output("imported"), "--dtype", "f32", "--quiet")
		if err != nil {
			return err
		}
		b.record("import", took)
		if b.python() == "" || i >= b.peerReps {
			continue
		}
		if err := b.settle(b.gguf); err != nil {
			return err
		}
		took, phases, err := b.run(b.python(), script("transformers_import.py"), b.gguf, b.output("transformers"))
		if err != nil {
			return err
		}
		b.record("transformers import", took)
		b.recordPhases("transformers import", phases)
	}
	ours := b.report.Measurements["import"]
	if b.python() == "" {
		b.report.add(row{What: "import GGUF to f32, synced", Unit: "s", Ours: ours.wall()})
		return nil
	}
	peer := b.report.Measurements["transformers import"].wall()
	b.report.add(row{
		What: "import GGUF to f32, synced / transformers", Unit: "s",
		Ours: ours.wall(), Peer: peer, Ratio: peer / ours.wall(), Goal: "ratio >= 5", holds: peer >= 5*ours.wall(),
	})
	work := peer - b.report.Phases["transformers import"][0]["imports_s"]
	b.report.add(row{
		What: "  the same, less Python's imports", Unit: "s",
		Ours: ours.wall(), Peer: work, Ratio: work / ours.wall(),
	})
	return nil
}

// recordPhases keeps the last line that a peer's script printed: its phases in seconds.
func (b *bench) recordPhases(name string, out []byte) {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	phases := map[string]float64{}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &phases); err != nil {
		say("%s printed no phases: %v", name, err)
	}
	if b.report.Phases == nil {
		b.report.Phases = map[string][]map[string]float64{}
	}
	b.report.Phases[name] = append(b.report.Phases[name], phases)
}

// script is one of the peers' scripts, seen from the root of the repository.
func script(name string) string { return filepath.Join("tools", "peers", name) }
