package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/coppice-lm/coppice/internal/synth"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/surgery"
	"github.com/coppice-lm/coppice/tensor"
)

// The published numbers: Llama-3.2-3B and 1B, 60 % of the neurons removed (the model
// card of pruned60-llama-3.2-3b; arXiv 2512.22671).
func TestPublishedNumbers(t *testing.T) {
	for _, tc := range []struct {
		name                  string
		config                []byte
		width                 int
		before, after         int64
		kvBytesPer1000, bytes int64
	}{
		{"3B", synth.Config(3072, 8192, 28, 24, 8, 128256, true), 3277, 3_212_749_824, 1_944_443_904, 114_688_000, 3_888_887_808},
		{"1B", synth.Config(2048, 8192, 16, 32, 8, 128256, true), 3277, 1_235_814_400, 752_650_240, 32_768_000, 1_505_300_480},
	} {
		t.Run(tc.name, func(t *testing.T) {
			config := filepath.Join(t.TempDir(), "config.json")
			if err := os.WriteFile(config, tc.config, 0o666); err != nil {
				t.Fatal(err)
			}
			model := sparseModel(t, filepath.Join(t.TempDir(), tc.name), string(tc.config), 2)
			for _, path := range []string{config, filepath.Dir(config), model} {
				var r inspection
				decode(t, succeed(t, "inspect", path, "--json").stdout, &r)
				row := r.Ratios[5]
				if r.Total != tc.before || row.Ratio != 0.6 || row.Width != tc.width || row.Parameters != tc.after || row.AlignedWidth != 3328 {
					t.Errorf("inspect %s: %d parameters; %+v", path, r.Total, row)
				}
				if row.KVBytes != tc.kvBytesPer1000 || row.Bytes != tc.bytes {
					t.Errorf("inspect %s: %d and %d bytes", path, row.KVBytes, row.Bytes)
				}
				if stored := map[bool]int64{true: 2 * tc.before}[path == model]; r.Bytes != stored || r.ByType["BF16"] != stored {
					t.Errorf("inspect %s: stored in %d bytes, %v", path, r.Bytes, r.ByType)
				}
			}

			// The plan of any scores, compiled but not run.
			c := open(t, model)
			s, err := score.Compute(context.Background(), c, score.Random, score.Options{Seed: 1, AllowNonFinite: true})
			if err != nil {
				t.Fatal(err)
			}
			ratio := 0.6
			p, err := plan.Build(s, &c.Spec, plan.Rule{Ratio: &ratio, Align: 1, AlignMode: plan.Nearest})
			if err != nil {
				t.Fatal(err)
			}
			prog, err := surgery.Compile(p, c, tensor.F16)
			if err != nil {
				t.Fatal(err)
			}
			if _, n := prog.Spec.Parameters(); n != tc.after || prog.Bytes() != tc.bytes || prog.Spec.Intermediate != tc.width {
				t.Errorf("compiled to %d parameters, %d bytes, width %d", n, prog.Bytes(), prog.Spec.Intermediate)
			}
			if n, err := prog.Config.Int("intermediate_size", 0); n != tc.width || err != nil {
				t.Errorf("config.json says %d, %v", n, err)
			}
		})
	}
}

// inspect reads headers and config alone, within 64 MiB whatever the model's size.
func TestInspectMemory(t *testing.T) {
	model := sparseModel(t, filepath.Join(t.TempDir(), "3B"), string(synth.Config(3072, 8192, 28, 24, 8, 128256, true)), 2)
	status := filepath.Join(t.TempDir(), "status")
	t.Setenv(peakEnv, status)
	p := start(t, "inspect", model)
	if code := p.end(t); code != exitDone {
		t.Fatalf("exit code %d\n%s", code, &p.stderr)
	}
	if err := checkPeak(status, 64<<10); err != nil {
		t.Error(err)
	}
}
