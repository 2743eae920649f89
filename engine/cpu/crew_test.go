package cpu

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Each unit of each step runs once, after all of the step before, also when a thread
// comes late or not at all. What units write needs no lock.
func TestCrew(t *testing.T) {
	const steps = 60
	for _, threads := range []int{1, 2, 5} {
		for _, absent := range []bool{false, true} {
			c := newCrew(threads)
			var running atomic.Int64
			var ran [steps][]int
			for n := range steps {
				ran[n] = make([]int, n)
			}
			walk := func(id int) {
				m := &member{crew: c, id: id}
				for n := range steps {
					m.run(n, func(_, unit int) {
						running.Add(1)
						if n > 1 && ran[n-1][unit*(n-1)/n] != 1 {
							t.Errorf("%d threads: step %d began before step %d ended", threads, n, n-1)
						}
						ran[n][unit]++
						running.Add(-1)
					})
					m.alone(func() {
						if running.Load() != 0 {
							t.Errorf("%d threads: units run beside the step that is one thread's", threads)
						}
					})
				}
			}
			var group sync.WaitGroup
			for id := 1; id < threads && !absent; id++ {
				group.Go(func() {
					time.Sleep(time.Duration(id*20) * time.Microsecond)
					walk(id)
				})
			}
			walk(0)
			group.Wait()
			for n := range ran {
				for unit, times := range ran[n] {
					if times != 1 {
						t.Fatalf("%d threads, step %d: unit %d ran %d times", threads, n, unit, times)
					}
				}
			}
		}
	}
}

// A pass that a unit ends is left by all threads after the same step, also by one that is
// put aside between the step before and its look at whether the pass goes on.
func TestCrewCancelled(t *testing.T) {
	const steps, threads, passes = 12, 4, 500
	why := errors.New("why")
	for pass := range passes {
		c := newCrew(threads)
		last := 1 + pass%(steps-1)
		var left [threads]int
		walk := func(id int) {
			m := &member{crew: c, id: id}
			for n := range steps {
				m.run(8, func(_, unit int) {
					if n == last && unit == pass%8 {
						m.fail(why)
					}
				})
				if id == pass%threads {
					time.Sleep(time.Microsecond)
				}
				if left[id] = n; m.failed() != nil {
					return
				}
			}
		}
		var group sync.WaitGroup
		for id := 1; id < threads; id++ {
			group.Go(func() { walk(id) })
		}
		walk(0)
		group.Wait()
		if want := [threads]int{last, last, last, last}; left != want || c.failed() != why {
			t.Fatalf("pass %d: threads left after steps %v, want %v; %v", pass, left, want, c.failed())
		}
	}
}

// The units of a product of few rows cover all panels, once.
func TestHalving(t *testing.T) {
	for panels := 1; panels < 70; panels++ {
		for threads := 1; threads < 6; threads++ {
			for unit := range unitsPerThread * threads {
				if a, b := halving(unit, panels, threads), halving(unit+1, panels, threads); a > b {
					t.Errorf("%d panels, %d threads: unit %d is %d to %d", panels, threads, unit, a, b)
				}
			}
			if a, b := halving(0, panels, threads), halving(unitsPerThread*threads, panels, threads); a != 0 || b != panels {
				t.Errorf("%d panels, %d threads: units cover %d to %d", panels, threads, a, b)
			}
		}
	}
}
