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
// sleeping thread, and decoding is one such pass after another. So workers wait for
// the next stage awake, and for a while after the last one: measured on two threads, a
// worker that is started anew for each token misses the first 100 microseconds of it.
type pool struct {
	threads int
	team    *team // nil: there are no workers, the caller does everything
}

// linger is how long workers stay awake after a stop. It is longer than what comes
// between two tokens, and too short to be felt where nothing comes.
const linger = 200 * time.Microsecond

// team is the workers of a pool, of which none, some or all are there.
type team struct {
	current atomic.Pointer[stage]
	started atomic.Bool   // between start and stop
	present []atomic.Bool // by worker
}

// start brings the workers up; stop, which must be called, lets them go.
func (p *pool) start() (stop func()) {
	if p.threads <= 1 {
		return func() {}
	}
	if p.team == nil {
		p.team = &team{present: make([]atomic.Bool, p.threads)}
	}
	t := p.team
	t.started.Store(true)
	for w := 1; w < p.threads; w++ {
		if t.present[w].CompareAndSwap(false, true) {
			go t.worker(w)
		}
	}
	return func() { t.started.Store(false) }
}

// run calls f(worker, unit) once for each unit below n; worker numbers the thread.
// Successive units run on the same thread where they can, so that what they read is one
// stream.
func (p *pool) run(n int, f func(worker, unit int)) {
	if p.team == nil || n <= 1 {
		for i := range n {
			f(0, i)
		}
		return
	}
	s := &stage{work: f, queues: make([]queue, p.threads)}
	for i := range s.queues {
		s.queues[i].next.Store(int64(share(n, i, p.threads)))
		s.queues[i].end = int64(share(n, i+1, p.threads))
	}
	p.team.current.Store(s)
	s.take(0)
	for spins := 1; s.done.Load() < int64(n); spins++ {
		pause(spins)
	}
}

// join calls f with the number of each thread, on the caller's with 0. When that call
// returns, no other thread begins f any more, and join returns when those that began it
// have returned too: what f reads may then be changed.
func (p *pool) join(f func(worker int)) {
	if p.team == nil {
		f(0)
		return
	}
	s := &stage{join: f}
	p.team.current.Store(s)
	f(0)
	s.inside.Add(closed)
	for spins := 1; s.inside.Load() != closed; spins++ {
		pause(spins)
	}
}

// worker runs what is published until it is stopped and has waited in vain.
func (t *team) worker(w int) {
	var last *stage
	for {
		s := t.wait(last)
		if s == nil {
			t.present[w].Store(false)
			// A start that saw the worker present counts on it.
			if t.started.Load() && t.present[w].CompareAndSwap(false, true) {
				continue
			}
			return
		}
		s.take(w)
		last = s
	}
}

// wait returns the stage after last, or nil when there was none for too long.
func (t *team) wait(last *stage) *stage {
	var stopped time.Time
	for spins := 1; ; spins++ {
		if s := t.current.Load(); s != last {
			return s
		}
		if !pause(spins) {
			continue
		}
		if t.started.Load() {
			stopped = time.Time{}
		} else if now := time.Now(); stopped.IsZero() {
			stopped = now
		} else if now.Sub(stopped) > linger {
			return nil
		}
	}
}

// closed is more than all threads.
const closed = 1 << 32

// stage is some units of work. A worker that the system has put aside may find a stage
// done, and then has nothing to do: nobody waits for it.
type stage struct {
	join   func(worker int) // of all threads, instead of units
	inside atomic.Int64     // threads that are in join besides the caller's; with closed, none may enter
	work   func(worker, unit int)
	queues []queue // by worker
	_      [64]byte
	done   atomic.Int64 // units
}

// queue is successive units, of which those before next are taken. It fills a cache
// line, as the others are written by other threads.
type queue struct {
	next atomic.Int64
	end  int64
	_    [48]byte
}

// take runs the units of the worker's share, then what is left of the others'.
func (s *stage) take(w int) {
	if s.join != nil {
		if s.inside.Add(1) < closed {
			s.join(w)
		}
		s.inside.Add(-1)
		return
	}
	done := 0
	for i := range s.queues {
		q := &s.queues[(w+i)%len(s.queues)]
		for q.next.Load() < q.end {
			unit := q.next.Add(1) - 1
			if unit >= q.end {
				break
			}
			s.work(w, int(unit))
			done++
		}
	}
	if done > 0 {
		s.done.Add(int64(done))
	}
}

// pause is one turn of waiting: mostly nothing, at times giving way to other goroutines,
// which it reports, and after some milliseconds, when something slow must be going on,
// sleep.
func pause(spins int) (long bool) {
	const giveWay, sleep = 1 << 10, 1 << 21
	if spins%giveWay != 0 {
		return false
	}
	runtime.Gosched()
	if spins >= sleep {
		time.Sleep(50 * time.Microsecond)
	}
	return true
}

// rows calls f for tiles of at most size of n rows.
func (p *pool) rows(n, size int, f func(worker, r0, r1 int)) {
	tiles := (n + size - 1) / size
	p.run(tiles, func(worker, i int) { f(worker, i*n/tiles, (i+1)*n/tiles) })
}
