package energy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// rapl is the counters of the powercap framework (Documentation/power/powercap in the
// Linux kernel). A zone is a directory intel-rapl:PACKAGE or intel-rapl:PACKAGE:PART, on
// AMD's processors too, with the files
//
//	name                  package-0, core, uncore, dram, psys
//	energy_uj             microjoules drawn; wraps around
//	max_energy_range_uj   the value after which it does
//
// The zones of intel-rapl-mmio are the same packages, read in another way.
type rapl struct {
	none  string // why there are no zones
	zones []*zone

	mu sync.Mutex // held for what follows in zones
}

// zone is one counter.
type zone struct {
	name, path string
	counted    bool
	span       uint64 // max_energy_range_uj; 0: not known
	last       uint64 // energy_uj as it was read last
	at         time.Time
	drawn      uint64 // microjoules since the start
	lost       string // why it cannot be read
}

// zonePrefix is that of zone directories.
const zonePrefix = "intel-rapl:"

// openRAPL finds the zones below root and takes their first values.
func openRAPL(root string) *rapl {
	r := &rapl{}
	if _, err := os.ReadDir(root); err != nil {
		r.none = fmt.Sprintf("rapl: %v; there is no RAPL here, or it is hidden, as in most virtual machines", err)
		return r
	}
	paths := map[string]string{}
	findZones(root, paths)
	names, taken := map[string]string{}, map[string]bool{}
	for _, base := range slices.Sorted(maps.Keys(paths)) {
		z := openZone(paths[base])
		names[base] = z.name
		parent, isPart := names[base[:strings.LastIndex(base, ":")]]
		z.counted = !isPart && strings.HasPrefix(z.name, "package") || z.name == "dram"
		if taken[z.name] && isPart { // the dram of the second package
			z.name = parent + "/" + z.name
		}
		if taken[z.name] {
			z.name = base
		}
		taken[z.name] = true
		r.zones = append(r.zones, z)
	}
	if len(r.zones) == 0 {
		r.none = fmt.Sprintf("rapl: no zone %s* in %s", zonePrefix, root)
	}
	return r
}

// findZones collects the directories of zones by their names. Those of a package's parts
// are in the package's, and there are links to all of them in the root.
func findZones(dir string, paths map[string]string) {
	entries, _ := os.ReadDir(dir) // what cannot be listed has no zones
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), zonePrefix) && paths[e.Name()] == "":
			paths[e.Name()] = path
			findZones(path, paths)
		case e.Name()+":" == zonePrefix: // the kind of zone, above them
			findZones(path, paths)
		}
	}
}

// openZone takes the first value of a zone.
func openZone(path string) *zone {
	z := &zone{name: filepath.Base(path), path: path}
	if name, err := os.ReadFile(filepath.Join(path, "name")); err == nil && len(strings.TrimSpace(string(name))) > 0 {
		z.name = strings.TrimSpace(string(name))
	}
	// Without its range a counter can be read until it wraps.
	z.span, _ = readNumber(filepath.Join(path, "max_energy_range_uj"))
	var err error
	if z.last, err = readNumber(filepath.Join(path, "energy_uj")); err != nil {
		z.lose(err)
	}
	z.at = time.Now()
	return z
}

func (z *zone) lose(err error) {
	z.lost = err.Error()
	if errors.Is(err, fs.ErrPermission) {
		z.lost += "; run as root, or let root make it readable"
	}
}

// sample adds what was drawn since the last sample. A counter that went back has wrapped
// around if it can have come that far in the time; else it was reset, as by a suspension of
// the machine, or is broken.
func (z *zone) sample() {
	if z.lost != "" {
		return
	}
	elapsed := max(time.Since(z.at), time.Second)
	now, err := readNumber(filepath.Join(z.path, "energy_uj"))
	switch {
	case err != nil:
		z.lose(err)
		return
	case now >= z.last:
		z.drawn += now - z.last
	case z.span < z.last:
		z.lose(fmt.Errorf("the counter went back from %d to %d, and its range of %d does not say how far it had gone", z.last, now, z.span))
		return
	case float64(now+z.span-z.last) > mostWatts*float64(elapsed.Microseconds()):
		z.lose(fmt.Errorf("the counter went back from %d to %d, too far to have wrapped around at %d", z.last, now, z.span))
		return
	default:
		z.drawn += now + z.span - z.last
	}
	z.last, z.at = now, time.Now()
}

// read samples all zones and returns their counters.
func (r *rapl) read() (counters []counter, none string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, z := range r.zones {
		z.sample()
		counters = append(counters, counter{raplMeter, z.name, z.counted, float64(z.drawn) / 1e6, z.lost})
	}
	return counters, r.none
}

// mostWatts is more than any zone draws.
const mostWatts = 10_000

// interval is short enough that no counter wraps twice between two samples.
func (r *rapl) interval() time.Duration {
	interval := time.Second
	for _, z := range r.zones {
		if z.span > 0 {
			interval = min(interval, time.Duration(float64(z.span)/mostWatts*float64(time.Microsecond)))
		}
	}
	return max(interval, 10*time.Millisecond)
}

// watch samples until ctx ends.
func (r *rapl) watch(ctx context.Context) {
	if len(r.zones) == 0 {
		return
	}
	ticker := time.NewTicker(r.interval())
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			r.read()
		}
	}
}

// readNumber reads a file that holds a number.
func readNumber(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s holds %.40q, not a number of microjoules", path, b)
	}
	return v, nil
}
