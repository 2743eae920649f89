package calib

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/coppice-lm/coppice/checkpoint"
)

// Where the disk has no room for the streams the error names their file, and nothing is left.
func TestStepsFullDisk(t *testing.T) {
	f := newFixture(t, 2)
	dir := t.TempDir()
	s, err := newStepper(context.Background(), f.model, f.checkpoint, f.stats, f.thirdsOf(t), []string{f.text}, "", stepOptions())
	if err != nil {
		t.Fatal(err)
	}
	size := streamBytes(f.model.Engine().Model(), tinyLayers*s.most)
	if err := unix.Mount("coppice-test", dir, "tmpfs", 0, fmt.Sprint("size=", size)); err != nil {
		t.Skipf("NOT CHECKED on a file system of its own, which only root can mount: %v", err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	opt := stepOptions()
	opt.Memory = s.least()
	_, err = RefitPredictions(context.Background(), f.model, f.checkpoint, f.stats, f.thirdsOf(t), []string{f.text}, filepath.Join(dir, "weights"), opt)
	if !errors.As(err, new(*checkpoint.WriteError)) || !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), ".weights.coppice-step-0-streams") {
		t.Errorf("a full disk: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 1 || len(left) == 1 && !strings.HasSuffix(left[0].Name(), "lock") {
		t.Errorf("left behind: %v", left)
	}
}
