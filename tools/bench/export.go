//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/coppice-lm/coppice/internal/synth"
)

// measureExport is the suite of export: to F16 against a copy of the input, and to three
// block types against llama.cpp's quantiser, which is given the F16 file and as many threads.
func measureExport(ctx context.Context, o options) error {
	b, err := prepare(ctx, o)
	if err != nil {
		return err
	}
	defer os.RemoveAll(b.work)
	// A GGUF file without a vocabulary is of no use, so that export asks for one.
	if _, err := os.Stat(filepath.Join(b.model, "tokenizer.json")); errors.Is(err, fs.ErrNotExist) {
		if err := synth.WriteTokenizer(b.model); err != nil {
			return err
		}
	}
	if err := b.exportF16(); err != nil {
		return err
	}
	for _, kind := range []string{"q4_0", "q8_0", "q4_k_m"} {
		if err := b.exportBlocks(kind); err != nil {
			return err
		}
	}
	var peak int64
	for name, s := range b.report.Measurements {
		if name != "cp + sync" {
			peak = max(peak, s.peak())
		}
	}
	b.report.add(row{What: "export, peak memory", Unit: "MiB", Ours: mebibytes(peak), Goal: "<= 512", holds: mebibytes(peak) <= 512})
	small := ""
	if o.layers != fullLayers {
		small = fmt.Sprintf("%d layers instead of %d", o.layers, fullLayers)
	}
	return b.finish(small)
}

func (b *bench) exportOnce(kind string) error {
	took, _, err := b.run(b.coppice, "export", b.model, "-o", b.output(kind+".gguf"), "--type", kind, "--quiet")
	if err == nil {
		b.record("export "+kind, took)
	}
	return err
}

// exportF16 measures export and the copy in turns, the first place changing each time.
func (b *bench) exportF16() error {
	steps := []func() error{func() error { return b.exportOnce("f16") }, b.copyOnce}
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
	ours, cp := b.report.Measurements["export f16"].wall(), b.report.Measurements["cp + sync"].wall()
	b.report.add(row{What: "export 3B shapes to F16, synced / cp -r + sync", Unit: "s", Ours: ours, Peer: cp, Ratio: ours / cp, Goal: "ratio <= 1.0", holds: ours <= cp})
	return nil
}

// exportBlocks measures export of the directory, synced, and llama.cpp's quantiser on the
// F16 file, in turns.
func (b *bench) exportBlocks(kind string) error {
	for i := range b.reps {
		if err := b.settle(b.model); err != nil {
			return err
		}
		if err := b.exportOnce(kind); err != nil {
			return err
		}
		if b.python() == "" || i >= b.peerReps {
			continue
		}
		if err := b.settle(b.model); err != nil {
			return err
		}
		source := b.output("source.gguf")
		if _, _, err := b.run(b.coppice, "export", b.model, "-o", source, "--type", "f16", "--quiet"); err != nil {
			return err
		}
		if _, _, err := b.run("sync"); err != nil {
			return err
		}
		_, phases, err := b.run(b.python(), script("llamacpp_quantise.py"), source, b.output("theirs.gguf"), kind, fmt.Sprint(runtime.NumCPU()))
		if err != nil {
			return err
		}
		b.recordPhases("llama.cpp "+kind, phases)
	}
	ours := b.report.Measurements["export "+kind].wall()
	r := row{What: "export 3B shapes to " + kind + ", synced", Unit: "s", Ours: ours}
	if b.python() != "" {
		var times []float64
		for _, p := range b.report.Phases["llama.cpp "+kind] {
			times = append(times, p["quantise_s"])
		}
		r.What += " / llama.cpp's quantiser, not synced"
		r.Peer = median(times)
		r.Ratio, r.Goal = r.Peer/ours, "ratio >= 1.5"
		r.holds = r.Ratio >= 1.5
	}
	b.report.add(r)
	return nil
}
