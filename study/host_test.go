package study

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/coppice-lm/coppice/engine/cpu/kernel"
)

func TestThisHost(t *testing.T) {
	h := ThisHost(3)
	if h.OS != runtime.GOOS || h.Arch != runtime.GOARCH || h.Cores < 1 || h.Threads != 3 || h.Level != kernel.Active().String() || h.CPU == "" {
		t.Errorf("the host is %+v", h)
	}
	if runtime.GOOS == "linux" && h.Memory < 1<<20 {
		t.Errorf("%d bytes of memory", h.Memory)
	}
}

func TestProcField(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cpuinfo")
	if err := os.WriteFile(path, []byte("processor\t: 0\nmodel name\t: A: B @ 2 GHz\nmodel name\t: C\nflags\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	if v, ok := procField(path, "model name"); v != "A: B @ 2 GHz" || !ok {
		t.Errorf("%q, %v", v, ok)
	}
	if v, ok := procField(path, "flag"); v != "" || ok {
		t.Errorf("a key that is not there: %q, %v", v, ok)
	}
}
