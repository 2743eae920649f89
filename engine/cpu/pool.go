package cpu

import (
	"runtime"
	"sync/atomic"
	"time"
)

// pool runs the units of a stage of work on a fixed number of threads. A stage ends
// when all its units are done; which thread runs which unit is left to chance, so a
// unit must write only to places of its own.
//
// A forward pass is hundreds of stages, many of them shorter than it takes to wake a
// sleeping thread. So the threads live from start to stop, and wait for the next stage
// awake: measured with stages of 10 microseconds on two threads, starting a goroutine
// for each took as long as doing without it.
type pool struct {
	threads int

	stage  atomic.Int64 // counts stages; a change tells the workers to begin
	next   atomic.Int64 // unit to be taken
	busy   atomic.Int64 // workers that have not finished the stage
	active bool         // workers are there
	quit   bool
	units  int
	work   func(worker, unit int)
}

// start brings the workers up; stop, which must be called, sends them home.
func (p *pool) start() (stop func()) {
	if p.threads <= 1 {
		return func() {}
	}
	p.active, p.quit = true, false
	seen := p.stage.Load()
	for w := 1; w < p.threads; w++ {
		go p.worker(w, seen)
	}
	return func() {
		p.quit = true
		p.begin()
		p.finish()
		p.active = false
	}
}

// run calls f(worker, unit) once for each unit below n; worker numbers the thread.
func (p *pool) run(n int, f func(worker, unit int)) {
	if !p.active || n == 1 {
		for i := range n {
			f(0, i)
		}
		return
	}
	p.units, p.work = n, f
	p.begin()
	p.take(0)
	p.finish()
	p.work = nil
}

func (p *pool) begin() {
	p.next.Store(0)
	p.busy.Store(int64(p.threads - 1))
	p.stage.Add(1)
}

// finish waits until the workers are done.
func (p *pool) finish() {
	for spins := 0; p.busy.Load() > 0; spins++ {
		pause(spins)
	}
}

func (p *pool) worker(w int, seen int64) {
	for {
		for spins := 0; p.stage.Load() == seen; spins++ {
			pause(spins)
		}
		seen++
		if p.quit {
			p.busy.Add(-1)
			return
		}
		p.take(w)
		p.busy.Add(-1)
	}
}

// take runs units until none is left.
func (p *pool) take(w int) {
	for {
		i := int(p.next.Add(1)) - 1
		if i >= p.units {
			return
		}
		p.work(w, i)
	}
}

// pause is one turn of waiting: at first nothing, then giving way to other goroutines,
// and after about a millisecond, when something slow must be going on, sleep.
func pause(spins int) {
	const giveWay, sleep = 1 << 8, 1 << 18
	switch {
	case spins >= sleep:
		time.Sleep(50 * time.Microsecond)
	case spins%giveWay == giveWay-1:
		runtime.Gosched()
	}
}

// rows calls f for tiles of at most size of n rows.
func (p *pool) rows(n, size int, f func(worker, r0, r1 int)) {
	tiles := (n + size - 1) / size
	p.run(tiles, func(worker, i int) { f(worker, i*n/tiles, (i+1)*n/tiles) })
}
