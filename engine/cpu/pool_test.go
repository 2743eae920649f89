package cpu

import (
	"sync/atomic"
	"testing"
)

// Each unit runs once, in its stage, on a thread whose number is in range and which no
// other thread has at that time.
func TestPool(t *testing.T) {
	for _, threads := range []int{1, 2, 5} {
		p := &pool{threads: threads}
		for range 20 { // starts and stops
			stop := p.start()
			for n := range 40 {
				runs := make([]atomic.Int32, n)
				inUse := make([]atomic.Int32, threads)
				p.run(n, func(worker, unit int) {
					if inUse[worker].Add(1) != 1 {
						t.Errorf("two threads have the number %d", worker)
					}
					runs[unit].Add(1)
					inUse[worker].Add(-1)
				})
				for i := range runs {
					if k := runs[i].Load(); k != 1 {
						t.Fatalf("%d threads, %d units: unit %d ran %d times", threads, n, i, k)
					}
				}
			}
			stop()
		}
	}
}

func TestPoolRows(t *testing.T) {
	p := &pool{threads: 1}
	for n := range 70 {
		at := 0
		p.rows(n, 32, func(_, r0, r1 int) {
			if r0 != at || r1 <= r0 || r1-r0 > 32 {
				t.Fatalf("%d rows: a tile from %d to %d after %d", n, r0, r1, at)
			}
			at = r1
		})
		if at != n {
			t.Fatalf("%d rows: tiles end at %d", n, at)
		}
	}
}
