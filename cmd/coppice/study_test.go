package main

import "testing"

func TestDuration(t *testing.T) {
	for seconds, want := range map[float64]string{0: "0s", 1.26: "1.3s", 59.6: "1m0s", 3700: "1h2m", 1e9: "277777h47m", 1e30: "over 100 years"} {
		if got := duration(seconds); got != want {
			t.Errorf("duration(%v) = %q, want %q", seconds, got, want)
		}
	}
}
