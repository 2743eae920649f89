//go:build linux

package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestParameters(t *testing.T) {
	// The published counts of Llama-3.2-3B and of the model pruned by 60 %.
	for _, tt := range []struct {
		width int
		want  int64
	}{{width, 3212749824}, {keptWidth, 1944443904}} {
		if got, err := parameters(fullLayers, tt.width); err != nil || got != tt.want {
			t.Errorf("width %d: %d parameters (%v), want %d", tt.width, got, err, tt.want)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		in   []float64
		want float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := median(tt.in); got != tt.want {
			t.Errorf("median of %v is %v, want %v", tt.in, got, tt.want)
		}
	}
}

// Goals are judged in a run of full size alone.
func TestReport(t *testing.T) {
	for _, tt := range []struct {
		small string
		want  []string
	}{{"", []string{"fast  1.00  2.00  s", "yes", "NO"}}, {"2 layers", []string{"2 layers: no goal is judged"}}} {
		var r report
		r.add(row{What: "fast", Unit: "s", Ours: 1, Peer: 2, Ratio: 2, Goal: "ratio >= 2", holds: true})
		r.add(row{What: "slow", Unit: "s", Ours: 3, Goal: "<= 1"})
		r.judge(tt.small)
		var out strings.Builder
		if err := r.print(&out); err != nil {
			t.Fatal(err)
		}
		for _, want := range tt.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("small %q: no %q in\n%s", tt.small, want, out.String())
			}
		}
		if tt.small != "" && strings.Contains(out.String(), "yes") {
			t.Errorf("a small run is judged:\n%s", out.String())
		}
	}
}

// Every reader reads all of its part: a byte that is wrong anywhere changes its answer.
func TestReaders(t *testing.T) {
	part := bytes.Repeat([]byte{filler}, 8192)
	for name, read := range readers {
		if !read(part) {
			t.Errorf("%s does not accept the filler", name)
		}
	}
	before := sum(part)
	for _, at := range []int{0, 4095, 8191} {
		part[at] = ^byte(filler)
		if sum(part) == before {
			t.Errorf("sum does not see byte %d", at)
		}
		for _, name := range []string{"search", "compare"} {
			if readers[name](part) {
				t.Errorf("%s does not see byte %d", name, at)
			}
		}
		part[at] = filler
	}
}
