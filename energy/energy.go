// Package energy measures what the machine draws while something runs on it.
//
// # Meters
//
// RAPL, the processor's own counters, which Linux shows under /sys/class/powercap. Each
// package has a counter, and some have one of their memory (dram): those are added up.
// What a package's cores draw is part of the package, and psys, the whole board, holds
// both: they are read and shown, and not counted. Counters wrap around after some
// minutes at full load, so they are read every second. Since 2020 only root may read
// them on most systems (CVE-2020-8694), and virtual machines mostly hide them.
//
// nvidia-smi, for NVIDIA's GPUs, where it is installed: it runs beside the program and
// prints each GPU's power.draw ten times a second, which is integrated over time.
//
// An estimate, where the user gives the processor's design power (TDP) and RAPL is not
// there: these watts for as long as the span took, and marked as an estimate.
//
// All of them see the whole machine: what else runs on it is in the numbers. The power of
// the machine at rest can be measured before (Idle) and is then subtracted; both figures
// are shown.
//
// What cannot be read is absent, with the reason, and never 0.
package energy

import (
	"context"
	"sync"
	"time"
)

// Options say what to measure with. The zero value is this machine's RAPL and GPUs.
type Options struct {
	// Powercap is the directory with RAPL's zones; empty: /sys/class/powercap. Containers
	// often have the host's elsewhere.
	Powercap string
	// TDP is the processor's power in watts, for an estimate where there is no RAPL; 0: none.
	TDP float64
	// Grid is the carbon intensity of the electricity, in grams of CO2e a kWh; nil: not
	// stated, and no emissions are given.
	Grid *float64
}

// Meter reads what the machine draws from Open to Close. Its methods may be called from
// several goroutines.
type Meter struct {
	opt    Options
	rapl   *rapl
	nvidia *nvidia
	stop   context.CancelFunc
	done   sync.WaitGroup

	mu   sync.Mutex
	idle map[string]float64 // watts by domain
}

// Open finds the meters. That there are none is not an error: readings then say why. It
// waits until GPUs have given their first values. When ctx ends, so does what it started.
func Open(ctx context.Context, opt Options) *Meter {
	if opt.Powercap == "" {
		opt.Powercap = "/sys/class/powercap"
	}
	ctx, stop := context.WithCancel(ctx)
	m := &Meter{opt: opt, stop: stop, rapl: openRAPL(opt.Powercap), nvidia: newNVIDIA()}
	m.done.Go(func() { m.rapl.watch(ctx) })
	m.done.Go(func() { m.nvidia.watch(ctx) })
	m.nvidia.wait(ctx)
	return m
}

// Close ends what Open started. Spans that are open then lose what came after.
func (m *Meter) Close() {
	m.stop()
	m.done.Wait()
}

// Span is a stretch of time that is measured. Several may overlap.
type Span struct {
	m    *Meter
	from state
}

// Start begins a span.
func (m *Meter) Start() *Span { return &Span{m, m.state()} }

// Stop returns what was drawn since Start. It may be called more than once.
func (s *Span) Stop() Reading { return between(s.from, s.m.state(), s.m.opt.TDP, s.m.opt.Grid) }

// state reads all meters.
func (m *Meter) state() state {
	var s state
	s.counters, s.noRAPL = m.rapl.read()
	s.at = time.Now()
	gpus, noNVIDIA := m.nvidia.read(s.at)
	s.counters, s.noNVIDIA = append(s.counters, gpus...), noNVIDIA
	m.mu.Lock()
	defer m.mu.Unlock()
	s.idle = m.idle
	return s
}

// Measures reports whether there is a meter, other than an estimate, that has read
// something that counts.
func (m *Meter) Measures() bool {
	for _, c := range m.state().counters {
		if c.counted && c.lost == "" {
			return true
		}
	}
	return false
}

// Idle measures the machine's power for a time in which the program does nothing, and
// subtracts it from the readings of spans that stop later. Without a meter it returns at
// once.
func (m *Meter) Idle(ctx context.Context, d time.Duration) error {
	if !m.Measures() {
		return nil
	}
	s := m.Start()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
	}
	m.rested(s)
	return nil
}

// rested takes the power of a span for that of the machine at rest.
func (m *Meter) rested(s *Span) {
	r := between(s.from, m.state(), 0, nil)
	idle := map[string]float64{}
	for _, d := range r.Domains {
		idle[d.Name] = d.Joules / r.Seconds
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.idle = idle
}
