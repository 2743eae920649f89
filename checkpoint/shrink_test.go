package checkpoint_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/internal/synth"
	"github.com/coppice-lm/coppice/score"
	"github.com/coppice-lm/coppice/tensor"
)

// A file that becomes shorter after its header was read is an error that names it, at
// every way to its bytes.
func TestShrinkWhileRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "m")
	config := synth.Config(64, 96, 3, 4, 2, 128, false)
	if err := synth.Write(dir, config, tensor.BF16, 1, checkpoint.DefaultShardBytes); err != nil {
		t.Fatal(err)
	}
	c, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	file := filepath.Join(dir, "model.safetensors")
	if err := os.Truncate(file, 20000); err != nil {
		t.Fatal(err)
	}
	check := func(what string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "model.safetensors") || !strings.Contains(err.Error(), "shrank while it was read; restore it and run again") {
			t.Errorf("%s: %v", what, err)
		}
	}
	const name = "model.layers.2.mlp.up_proj.weight"
	info, ok := c.Lookup(name)
	if !ok {
		t.Fatal(name)
	}
	check("ReadRows", c.ReadRows(name, make([]byte, 2*info.RowBytes()), 5, 2))
	if err := c.ScanRows(name, make([]byte, info.RowBytes()-1), 0, 1, nil); err == nil {
		t.Error("ScanRows: no error for a buffer of less than a row")
	}
	check("ScanRows", c.ScanRows(name, make([]byte, info.RowBytes()), 0, info.Rows(), func(int, []byte) error { return nil }))
	_, err = c.Fingerprint()
	check("Fingerprint", err)
	_, err = score.Compute(context.Background(), c, score.MaxAbs, score.Options{Threads: 2})
	check("Compute", err)
}
