package cpu

import (
	"sync"
	"sync/atomic"
)

// pool runs the units of a stage of work on a fixed number of threads. A stage ends
// when all its units are done; which thread runs which unit is left to chance, so a
// unit must write only to places of its own.
type pool struct {
	threads int
}

// run calls f(worker, unit) once for each unit below n; worker numbers the thread.
func (p *pool) run(n int, f func(worker, unit int)) {
	workers := min(p.threads, n)
	if workers <= 1 {
		for i := range n {
			f(0, i)
		}
		return
	}
	var next atomic.Int64
	work := func(worker int) {
		for {
			i := int(next.Add(1)) - 1
			if i >= n {
				return
			}
			f(worker, i)
		}
	}
	var wg sync.WaitGroup
	for w := 1; w < workers; w++ {
		wg.Go(func() { work(w) })
	}
	work(0)
	wg.Wait()
}

// rows calls f for tiles of at most size of n rows.
func (p *pool) rows(n, size int, f func(worker, r0, r1 int)) {
	tiles := (n + size - 1) / size
	p.run(tiles, func(worker, i int) { f(worker, i*n/tiles, (i+1)*n/tiles) })
}
