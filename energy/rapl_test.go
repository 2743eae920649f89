package energy

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// zones is a powercap tree: what energy_uj says, by directory and name.
type zones map[string]struct {
	name   string
	energy uint64
}

// server is two packages with their parts, and the board.
var server = zones{
	"intel-rapl:0":   {"package-0", 1000},
	"intel-rapl:0:0": {"core", 2000},
	"intel-rapl:0:1": {"dram", 262000},
	"intel-rapl:1":   {"package-1", 3000},
	"intel-rapl:1:0": {"dram", 4000},
	"intel-rapl:2":   {"psys", 5000},
}

const testRange = 262143

// tree makes the files as sysfs has them: each zone in its package's directory, and links
// to all of them in the root. No machine's GPU plays a part.
func (z zones) tree(t *testing.T) string {
	t.Helper()
	t.Setenv("PATH", "")
	root, devices := t.TempDir(), filepath.Join(t.TempDir(), "devices")
	for base, zone := range z {
		dir := filepath.Join(devices, base)
		if strings.Count(base, ":") == 2 {
			dir = filepath.Join(devices, base[:strings.LastIndex(base, ":")], base)
		}
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(dir, filepath.Join(root, base)); err != nil {
			t.Fatal(err)
		}
		write(t, root, base, "name", zone.name)
		write(t, root, base, "energy_uj", fmt.Sprint(zone.energy))
		write(t, root, base, "max_energy_range_uj", fmt.Sprint(testRange))
	}
	return root
}

// write replaces a file in one step, so that no sampler reads half of it.
func write(t *testing.T, root, zone, file, text string) {
	t.Helper()
	path := filepath.Join(root, zone, file)
	err := os.WriteFile(path+".new", []byte(text+"\n"), 0o666)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// open opens a meter until the end of the test.
func open(t *testing.T, opt Options) *Meter {
	t.Helper()
	m := Open(context.Background(), opt)
	t.Cleanup(m.Close)
	return m
}

// domains are the microjoules of a reading, those that count marked by a plus.
func domains(r Reading) map[string]string {
	all := map[string]string{}
	for _, d := range r.Domains {
		mark := ""
		if d.Counted {
			mark = "+"
		}
		all[d.Name] = fmt.Sprintf("%s%.0f", mark, d.Joules*1e6)
	}
	return all
}

// TestSum: packages and their memory are added up, one of them over a wrap; what is part
// of a package, or has it as a part, is shown and not added (a double count in
// powercap#3; a wrap gave negative joules in powerjoular#45).
func TestSum(t *testing.T) {
	root := server.tree(t)
	m := open(t, Options{Powercap: root})
	s := m.Start()
	for zone, energy := range map[string]string{
		"intel-rapl:0": "1100", "intel-rapl:0:0": "2050", "intel-rapl:0:1": "5",
		"intel-rapl:1": "3200", "intel-rapl:1:0": "4010", "intel-rapl:2": "9000",
	} {
		write(t, root, zone, "energy_uj", energy)
	}
	r := s.Stop()
	want := map[string]string{
		"package-0": "+100", "core": "50", "dram": "+148", "package-1": "+200", "package-1/dram": "+10", "psys": "4000",
	}
	if diff := cmp.Diff(want, domains(r)); diff != "" {
		t.Errorf("microjoules (-want +got):\n%s", diff)
	}
	if r.Joules == nil || math.Abs(*r.Joules*1e6-458) > 1e-6 {
		t.Errorf("joules %v, expected 458 millionths", r.Joules)
	}
	if r.Meter != "rapl" || r.Absent != "" || r.Estimate || r.GramsCO2e != nil || r.IdleWatts != nil || r.NetJoules != nil {
		t.Errorf("the reading is %+v", r)
	}
}

// TestWraps: of a counter that wraps many times the samples between miss nothing.
func TestWraps(t *testing.T) {
	root := zones{"intel-rapl:0": {"package-0", 0}}.tree(t)
	m := open(t, Options{Powercap: root})
	s := m.Start()
	for i := range 10 {
		write(t, root, "intel-rapl:0", "energy_uj", fmt.Sprint(200_000*(i+1)%testRange))
		m.rapl.read()
	}
	if got := domains(s.Stop())["package-0"]; got != "+2000000" {
		t.Errorf("10 times 200000 microjoules are %s", got)
	}
}

// TestWatch: a meter reads the counters by itself.
func TestWatch(t *testing.T) {
	root := zones{"intel-rapl:0": {"package-0", 250_000}}.tree(t)
	m := open(t, Options{Powercap: root})
	s := m.Start()
	last := func() uint64 {
		m.rapl.mu.Lock()
		defer m.rapl.mu.Unlock()
		return m.rapl.zones[0].last
	}
	for _, energy := range []uint64{10_000, 255_000, 5} {
		write(t, root, "intel-rapl:0", "energy_uj", fmt.Sprint(energy))
		for last() != energy {
			time.Sleep(time.Millisecond)
		}
	}
	want := testRange - 250_000 + 10_000 + 245_000 + testRange - 255_000 + 5
	if got := domains(s.Stop())["package-0"]; got != fmt.Sprintf("+%d", want) {
		t.Errorf("%s microjoules over two wraps, expected %d", got, want)
	}
}

// TestInterval: the shorter a counter's range, the more often it is read.
func TestInterval(t *testing.T) {
	for span, want := range map[uint64]time.Duration{
		0: time.Second, 262143328850: time.Second, 65532610987: time.Second, 1e9: 100 * time.Millisecond, testRange: 10 * time.Millisecond,
	} {
		if got := (&rapl{zones: []*zone{{span: span}}}).interval(); got != want {
			t.Errorf("a range of %d microjoules is read every %v, expected %v", span, got, want)
		}
	}
}

// TestUnreadable: a counter that cannot be read is absent with the reason, from the start
// or from when it happened, and the others go on.
func TestUnreadable(t *testing.T) {
	for name, test := range map[string]struct {
		damage func(t *testing.T, root string)
		reason string
	}{
		"gone":      {func(t *testing.T, root string) { remove(t, root, "intel-rapl:0/energy_uj") }, "no such file"},
		"empty":     {func(t *testing.T, root string) { write(t, root, "intel-rapl:0", "energy_uj", "") }, "not a number"},
		"no number": {func(t *testing.T, root string) { write(t, root, "intel-rapl:0", "energy_uj", "-5") }, `"-5\n", not a number`},
		"forbidden": {func(t *testing.T, root string) {
			if os.Geteuid() == 0 {
				t.Skip("root may read everything: not checked that a counter without permission is absent")
			}
			if err := os.Chmod(filepath.Join(root, "intel-rapl:0/energy_uj"), 0); err != nil {
				t.Fatal(err)
			}
		}, "permission denied; run as root"},
	} {
		for _, early := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, early %v", name, early), func(t *testing.T) {
				root := server.tree(t)
				if early {
					test.damage(t, root)
				}
				m := open(t, Options{Powercap: root})
				s := m.Start()
				if !early {
					test.damage(t, root)
				}
				write(t, root, "intel-rapl:1", "energy_uj", "3200")
				r := s.Stop()
				if _, ok := domains(r)["package-0"]; ok || len(r.Domains) != len(server)-1 {
					t.Errorf("domains %v, expected all but package-0", domains(r))
				}
				if r.Joules == nil || *r.Joules != 200e-6 {
					t.Errorf("joules %v, expected those of package-1", r.Joules)
				}
				if !strings.HasPrefix(r.Absent, "rapl: package-0: ") || !strings.Contains(r.Absent, test.reason) {
					t.Errorf("the reason is %q, expected one with %q", r.Absent, test.reason)
				}
			})
		}
	}
}

func remove(t *testing.T, root, file string) {
	if err := os.Remove(filepath.Join(root, file)); err != nil {
		t.Fatal(err)
	}
}

// TestBackwards: a counter that goes back by more than its range says cannot be trusted;
// it is not negative energy.
func TestBackwards(t *testing.T) {
	root := zones{"intel-rapl:0": {"package-0", 300_000}}.tree(t)
	s := open(t, Options{Powercap: root}).Start()
	write(t, root, "intel-rapl:0", "energy_uj", "5")
	if r := s.Stop(); r.Joules != nil || r.Meter != "none" || !strings.Contains(r.Absent, "went back from 300000 to 5") {
		t.Errorf("the reading is %+v", r)
	}
}

// TestReset: a counter that goes back a little in a moment has not gone round its range,
// which would be 262 kilojoules.
func TestReset(t *testing.T) {
	root := zones{"intel-rapl:0": {"package-0", 300_000_000}}.tree(t)
	write(t, root, "intel-rapl:0", "max_energy_range_uj", "262143328850")
	s := open(t, Options{Powercap: root}).Start()
	write(t, root, "intel-rapl:0", "energy_uj", "299000000")
	if r := s.Stop(); r.Joules != nil || !strings.Contains(r.Absent, "went back from 300000000 to 299000000") {
		t.Errorf("the reading is %+v", r)
	}
}

// TestOtherTrees: zones that stand below their kind only, the same packages by another
// way, which are not counted again, and names that are not there.
func TestOtherTrees(t *testing.T) {
	t.Setenv("PATH", "")
	root := t.TempDir()
	for dir, name := range map[string]string{
		"intel-rapl/intel-rapl:0": "package-0", "intel-rapl/intel-rapl:0/intel-rapl:0:0": "dram",
		"intel-rapl/intel-rapl:1": "", "intel-rapl-mmio:0": "package-0", "dtpm": "soc",
	} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o777); err != nil {
			t.Fatal(err)
		}
		if name != "" {
			write(t, root, dir, "name", name)
		}
		write(t, root, dir, "energy_uj", "7")
	}
	want := map[string]string{"package-0": "+0", "dram": "+0", "intel-rapl:1": "0"}
	if diff := cmp.Diff(want, domains(open(t, Options{Powercap: root}).Start().Stop())); diff != "" {
		t.Errorf("microjoules (-want +got):\n%s", diff)
	}
}
