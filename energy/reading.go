package energy

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Reading is what a span drew. Its JSON form is part of a study's records. A domain that
// no meter read is not in it, and a value that is not known is nil, never 0.
type Reading struct {
	// Meter is what Joules is of: "rapl", "nvidia-smi", "tdp", several of them joined by
	// "+", or "none".
	Meter string `json:"meter"`
	// Absent says why there is no meter, or what of the machine is not in Joules and why.
	Absent    string   `json:"absent,omitempty"`
	Estimate  bool     `json:"estimate,omitempty"` // some of Joules is watts that the user gave, and no measurement
	Seconds   float64  `json:"seconds,omitempty"`
	Joules    *float64 `json:"joules,omitempty"`     // of the domains that count, idle power included
	IdleWatts *float64 `json:"idle_watts,omitempty"` // of the same domains, as Idle measured them
	NetJoules *float64 `json:"net_joules,omitempty"` // Joules less IdleWatts for the whole span
	Tokens    int64    `json:"tokens,omitempty"`     // that the span was spent on, where the caller says
	GramsCO2e *float64 `json:"grams_co2e,omitempty"` // of Joules; only where Grid is stated
	Grid      *float64 `json:"grid_grams_per_kwh,omitempty"`
	Domains   []Domain `json:"domains,omitempty"`
}

// Domain is the reading of one part of the machine.
type Domain struct {
	Name    string  `json:"name"` // package-0, dram, psys, GPU-0; tdp for the estimate
	Joules  float64 `json:"joules"`
	Counted bool    `json:"counted"` // whether it is in the sum; psys and a package's cores are not
}

// PerToken returns Joules and NetJoules by the token; nil where one is not known.
func (r Reading) PerToken() (joules, net *float64) {
	per := func(v *float64) *float64 {
		if v == nil || r.Tokens <= 0 {
			return nil
		}
		return new(*v / float64(r.Tokens))
	}
	return per(r.Joules), per(r.NetJoules)
}

// The kinds of meters.
const (
	raplMeter   = "rapl"
	nvidiaMeter = "nvidia-smi"
	tdpMeter    = "tdp"
)

// counter is what a domain has drawn since the meter was opened.
type counter struct {
	meter, name string
	counted     bool
	joules      float64
	lost        string // why that is not known
}

// state is all counters at one time; those of a meter are always the same ones, in the
// same order.
type state struct {
	at       time.Time
	counters []counter
	idle     map[string]float64 // watts by domain, where they were measured
	// Why there is none of a kind of meter.
	noRAPL, noNVIDIA string
}

const joulesPerKWh = 3.6e6

// between is the reading of a span that begins and ends with these states. The watts of
// tdp stand in for RAPL where they are positive; grid is in grams of CO2e a kWh.
func between(from, to state, tdp float64, grid *float64) Reading {
	r := Reading{Seconds: to.at.Sub(from.at).Seconds(), Grid: grid}
	var absent []string
	kinds, sum := map[string]bool{}, 0.0
	add := func(kind string, d Domain) {
		r.Domains = append(r.Domains, d)
		if d.Counted {
			kinds[kind] = true
			sum += d.Joules
		}
	}
	for i, c := range to.counters {
		if c.lost != "" {
			absent = append(absent, fmt.Sprintf("%s: %s: %s", c.meter, c.name, c.lost))
			continue
		}
		if i >= len(from.counters) {
			absent = append(absent, fmt.Sprintf("%s: %s: its first value came during the span", c.meter, c.name))
			continue
		}
		add(c.meter, Domain{c.name, c.joules - from.counters[i].joules, c.counted})
	}
	if to.noRAPL != "" {
		absent = append(absent, to.noRAPL)
	}
	if !kinds[raplMeter] && tdp > 0 {
		r.Estimate = true
		add(tdpMeter, Domain{tdpMeter, tdp * r.Seconds, true})
	}
	// Most machines have no GPU, which is only of interest where there is nothing else.
	if to.noNVIDIA != "" && (to.noNVIDIA != notInstalled || len(kinds) == 0) {
		absent = append(absent, to.noNVIDIA)
	}
	var meters []string
	for _, kind := range []string{raplMeter, nvidiaMeter, tdpMeter} {
		if kinds[kind] {
			meters = append(meters, kind)
		}
	}
	if len(meters) == 0 {
		r.Meter, r.Absent, r.Grid = "none", strings.Join(absent, "; "), nil
		return r
	}
	r.Meter, r.Joules = strings.Join(meters, "+"), &sum
	if grid != nil {
		r.GramsCO2e = new(sum / joulesPerKWh * *grid)
	}
	if idle, ok := idleOf(to.idle, r.Domains); ok {
		r.IdleWatts = &idle
		if net, ok := Net(sum, idle*r.Seconds); ok {
			r.NetJoules = &net
		} else {
			absent = append(absent, "net: the span drew less than the idle power; something else ran while that was measured")
		}
	}
	r.Absent = strings.Join(absent, "; ")
	return r
}

// Net is what work drew that took some joules of which idle would have been drawn at rest.
// It is not known (false) where those are more: then the power at rest is wrong.
func Net(joules, idle float64) (net float64, ok bool) {
	if net = joules - idle; math.Abs(net) < 1e-9*joules {
		net = 0 // equal but for rounding
	}
	return net, net >= 0
}

// idleOf is the idle power of the domains that count, if it is known of all of them.
func idleOf(idle map[string]float64, domains []Domain) (watts float64, ok bool) {
	for _, d := range domains {
		if !d.Counted {
			continue
		}
		w, known := idle[d.Name]
		if !known {
			return 0, false
		}
		watts += w
	}
	return watts, true
}
