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
	team    *team // nil: there are no workers, the caller does everything
}

// team is the workers between a start and its stop.
type team struct {
	current atomic.Pointer[stage]
}

// stage is some units of work. A worker that the system has put aside may find a stage
// done, and then has nothing to do: nobody waits for it.
type stage struct {
	units      int
	work       func(worker, unit int)
	next, done atomic.Int64
	quit       bool
}

// start brings the workers up; stop, which must be called, sends them home.
func (p *pool) start() (stop func()) {
	if p.threads <= 1 {
		return func() {}
	}
	t := &team{}
	for w := 1; w < p.threads; w++ {
		go t.worker(w)
	}
	p.team = t
	return func() {
		p.team = nil
		t.current.Store(&stage{quit: true})
	}
}

// run calls f(worker, unit) once for each unit below n; worker numbers the thread.
func (p *pool) run(n int, f func(worker, unit int)) {
	if p.team == nil || n <= 1 {
		for i := range n {
			f(0, i)
		}
		return
	}
	s := &stage{units: n, work: f}
	p.team.current.Store(s)
	s.take(0)
	for spins := 0; s.done.Load() < int64(n); spins++ {
		pause(spins)
	}
}

func (t *team) worker(w int) {
	var last *stage
	for {
		s := t.current.Load()
		for spins := 0; s == last; spins++ {
			pause(spins)
			s = t.current.Load()
		}
		if s.quit {
			return
		}
		s.take(w)
		last = s
	}
}

// take runs units until none is left.
func (s *stage) take(w int) {
	for {
		i := int(s.next.Add(1)) - 1
		if i >= s.units {
			return
		}
		s.work(w, i)
		s.done.Add(1)
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
