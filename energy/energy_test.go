package energy

import (
	"context"
	"encoding/json"
	"math"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestNone: without a meter there is no number, and both reasons are said.
func TestNone(t *testing.T) {
	t.Setenv("PATH", "")
	m := open(t, Options{Powercap: filepath.Join(t.TempDir(), "nowhere"), Grid: new(400.0)})
	if m.Measures() {
		t.Error("it says that it measures")
	}
	if err := m.Idle(context.Background(), time.Hour); err != nil {
		t.Error(err) // and did not wait
	}
	r := m.Start().Stop()
	if r.Meter != "none" || !strings.Contains(r.Absent, "nowhere: no such file") || !strings.Contains(r.Absent, "nvidia-smi: not in PATH") {
		t.Errorf("the reading is %+v", r)
	}
	r.Seconds, r.Absent = 0, ""
	if text, _ := json.Marshal(r); string(text) != `{"meter":"none"}` {
		t.Errorf("the reading without reasons is %s", text)
	}
	if r := open(t, Options{Powercap: t.TempDir()}).Start().Stop(); !strings.Contains(r.Absent, "no zone intel-rapl:* in ") {
		t.Errorf("of an empty directory: %q", r.Absent)
	}
}

// TestEstimate: the user's watts stand in for RAPL alone, and are marked.
func TestEstimate(t *testing.T) {
	t.Setenv("PATH", "")
	s := open(t, Options{Powercap: t.TempDir(), TDP: 65, Grid: new(360.0)}).Start()
	time.Sleep(time.Millisecond)
	r := s.Stop()
	if r.Meter != "tdp" || !r.Estimate || r.Joules == nil || *r.Joules != 65*r.Seconds || r.Seconds <= 0 || r.IdleWatts != nil || r.NetJoules != nil {
		t.Errorf("the reading is %+v", r)
	}
	if !strings.Contains(r.Absent, "no zone") {
		t.Errorf("why it is an estimate: %q", r.Absent)
	}
	// 360 g for 3.6 MJ are 0.1 mg for a joule.
	if r.GramsCO2e == nil || math.Abs(*r.GramsCO2e/(*r.Joules)-1e-4) > 1e-12 || *r.Grid != 360 {
		t.Errorf("emissions %v of %v joules at a grid of %v", r.GramsCO2e, *r.Joules, r.Grid)
	}
	root := server.tree(t)
	if r := open(t, Options{Powercap: root, TDP: 65}).Start().Stop(); r.Meter != "rapl" || r.Estimate || *r.Joules != 0 {
		t.Errorf("beside RAPL the reading is %+v", r)
	}
}

// TestIdle: power at rest is subtracted, and both are shown.
func TestIdle(t *testing.T) {
	at := func(seconds float64) time.Time { return time.Unix(0, int64(seconds*1e9)) }
	counters := func(joules ...float64) []counter {
		return []counter{{raplMeter, "package-0", true, joules[0], ""}, {raplMeter, "psys", false, joules[1], ""}}
	}
	from := state{at: at(10), counters: counters(100, 7)}
	to := state{at: at(14), counters: counters(180, 9), idle: map[string]float64{"package-0": 5, "psys": 100}}
	r := between(from, to, 0, nil)
	if *r.Joules != 80 || *r.IdleWatts != 5 || *r.NetJoules != 60 || r.Seconds != 4 {
		t.Errorf("80 J in 4 s of which 5 W are idle: %+v", r)
	}
	r.Tokens = 40
	if joules, net := r.PerToken(); *joules != 2 || *net != 1.5 {
		t.Errorf("%v and %v joules a token, expected 2 and 1.5", *joules, *net)
	}
	r.Tokens = 0
	if joules, net := r.PerToken(); joules != nil || net != nil {
		t.Errorf("joules of no token: %v, %v", joules, net)
	}
	to.idle = map[string]float64{"package-0": 50}
	if r := between(from, to, 0, nil); r.NetJoules != nil || !strings.Contains(r.Absent, "net: ") {
		t.Errorf("more idle power than power: %+v", r)
	}
	to.idle = map[string]float64{"package-0": 20.0000000001}
	if r := between(from, to, 0, nil); r.NetJoules == nil || *r.NetJoules != 0 {
		t.Errorf("as much as idle power but for rounding: %+v", r)
	}
	to.idle = map[string]float64{"psys": 1}
	if r := between(from, to, 0, nil); r.IdleWatts != nil || r.NetJoules != nil {
		t.Errorf("idle power of something else: %+v", r)
	}
}

// TestIdleMeasured: the power is what the counters say over the time that passed.
func TestIdleMeasured(t *testing.T) {
	root := server.tree(t)
	m := open(t, Options{Powercap: root})
	started := time.Now()
	s := m.Start()
	write(t, root, "intel-rapl:0", "energy_uj", "101000")
	time.Sleep(time.Millisecond)
	m.rested(s)
	least := 0.1 / time.Since(started).Seconds()
	r := m.Start().Stop()
	if r.IdleWatts == nil || *r.IdleWatts < least || *r.IdleWatts > 100 {
		t.Errorf("0.1 J in a millisecond or more: %+v, expected %v to 100 W", r, least)
	}
	if err := m.Idle(context.Background(), time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if r := m.Start().Stop(); r.IdleWatts == nil || *r.IdleWatts != 0 || *r.NetJoules != 0 {
		t.Errorf("nothing drawn at rest: %+v", r)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := m.Idle(ctx, time.Hour); err != context.Canceled {
		t.Errorf("a cancelled Idle: %v", err)
	}
}

// TestConcurrent: spans of several goroutines do not disturb one another (go test -race).
func TestConcurrent(t *testing.T) {
	root := server.tree(t)
	m := open(t, Options{Powercap: root})
	outer := m.Start()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				if r := m.Start().Stop(); r.Joules == nil {
					t.Errorf("the reading is %+v", r)
				}
			}
			if err := m.Idle(context.Background(), time.Millisecond); err != nil {
				t.Error(err)
			}
		})
	}
	write(t, root, "intel-rapl:0", "energy_uj", "2000")
	wg.Wait()
	if got := domains(outer.Stop())["package-0"]; got != "+1000" {
		t.Errorf("%s microjoules, expected 1000", got)
	}
}

// TestNet: what differs from the power at rest by rounding alone is nothing.
func TestNet(t *testing.T) {
	for _, c := range []struct {
		joules, idle, net float64
		ok                bool
	}{{736.7, 736.7 - 4.5e-13, 0, true}, {736.7, 736.7 + 4.5e-13, 0, true}, {3, 2, 1, true}, {0, 0, 0, true}, {2, 3, -1, false}} {
		if net, ok := Net(c.joules, c.idle); net != c.net || ok != c.ok {
			t.Errorf("%v J, %v of them at rest: %v, %v, expected %v, %v", c.joules, c.idle, net, ok, c.net, c.ok)
		}
	}
}
