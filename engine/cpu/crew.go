package cpu

import (
	"sync/atomic"

	"github.com/coppice-lm/coppice/engine/cpu/kernel"
)

// crew is the threads that run one pass, each all of it: at every step of the pass they
// share the units of work, and go on together when all are done. So a step costs no
// message but what was calculated. Sending each step to the workers took 2 microseconds
// where their cores have no cache in common, as long as reading 160 KB of weights.
//
// Within a pass nobody waits long for a thread that has no unit. One that comes late, or is
// put aside by the system between two units, finds the units of the steps behind taken and
// runs after the others. Outside of units it must not look at anything that units write.
// The pass ends when all have left it (pool.join), as what they look at changes in the
// next.
type crew struct {
	lanes []lane // one a thread
	end   atomic.Pointer[failure]
}

// failure is why a pass ends, and after which step.
type failure struct {
	step uint64
	err  error
}

// lane is a thread's part of what a crew knows. What a thread writes itself is not on
// lines that others read all the time, nor on their neighbours, which come with them.
type lane struct {
	// claimed is the last step in which a unit of this lane was taken, times 2^32, plus
	// the number of units that were.
	claimed atomic.Uint64
	_       [120]byte
	done    atomic.Int64 // units that the thread has done in all steps
	_       [120]byte
}

func newCrew(threads int) *crew { return &crew{lanes: make([]lane, threads)} }

// failed is why the pass ended, or nil.
func (c *crew) failed() error {
	if end := c.end.Load(); end != nil {
		return end.err
	}
	return nil
}

// member is a thread of a crew: where it is in the pass.
type member struct {
	crew  *crew
	id    int
	step  uint64
	units int64 // of all steps so far
	done  int64 // of these, by this thread
	late  bool  // in the last step it did units of another thread's share
	// ahead is what it prefetches while it waits, from part asked on.
	ahead [][]byte
	asked int
}

// fail makes all threads end the pass after the current step. It is called in a unit, so
// that all know before any goes on to the next step.
func (m *member) fail(err error) { m.crew.end.CompareAndSwap(nil, &failure{m.step, err}) }

// failed is why the pass ends after a step that this thread has been through, or nil: one
// that is behind must not see what units of later steps said, as it would then leave the
// pass before the others.
func (m *member) failed() error {
	if end := m.crew.end.Load(); end != nil && end.step <= m.step {
		return end.err
	}
	return nil
}

// run shares a step of n units: it calls f for those that fall to this thread, and
// returns when all units are done. Every member calls it with the same n. Successive
// units fall to the same thread where they can, so that what they read is one stream.
func (m *member) run(n int, f func(worker, unit int)) {
	lanes := m.crew.lanes
	if len(lanes) == 1 {
		for i := range n {
			f(0, i)
		}
		return
	}
	m.step++
	m.units += int64(n)
	m.take(m.id, n, f)
	for spins := 1; !m.over(); spins++ {
		m.prefetch(1 << 10) // what the core cannot ask for at once it would drop
		kernel.Pause()
		if spins%patience == 0 || m.late {
			m.late = false
			for i := 1; i < len(lanes); i++ {
				if m.take((m.id+i)%len(lanes), n, f) {
					m.late = true
				}
			}
		}
		pause(spins)
	}
}

// patience is how many turns, half a microsecond, a thread waits for another before it
// looks for units that the other has not begun: to look takes the line away on which the
// other claims them. One that was late in the last step is not waited for.
const patience = 16

// take does what is left of the share of a thread in a step of n units.
func (m *member) take(thread, n int, f func(worker, unit int)) (any bool) {
	l := &m.crew.lanes[thread]
	first, end := share(n, thread, len(m.crew.lanes)), share(n, thread+1, len(m.crew.lanes))
	for unit := l.claim(m.step, end-first); unit >= 0; unit = l.claim(m.step, end-first) {
		f(m.id, first+unit)
		m.done++
		any = true
	}
	if any {
		m.crew.lanes[m.id].done.Store(m.done)
	}
	return any
}

// over reports whether all units of all steps so far are done. None of the next step is
// before the last of this one.
func (m *member) over() bool {
	all := int64(0)
	for i := range m.crew.lanes {
		all += m.crew.lanes[i].done.Load()
	}
	return all >= m.units
}

// alone has the first thread, which is the caller's, do a step.
func (m *member) alone(f func()) {
	m.step++
	m.units++
	if m.id == 0 {
		f()
		m.done++
		m.crew.lanes[0].done.Store(m.done)
	}
	for spins := 1; !m.over(); spins++ {
		pause(spins)
	}
}

// rows is run for tiles of at most size of n rows.
func (m *member) rows(n, size int, f func(worker, r0, r1 int)) {
	tiles := (n + size - 1) / size
	m.run(tiles, func(worker, i int) { f(worker, i*n/tiles, (i+1)*n/tiles) })
}

// share is where the share of a thread begins in n units.
func share(n, thread, threads int) int { return (thread*n + threads - 1) / threads }

// claim takes the next of n units of a step, or returns -1 if all are taken.
func (l *lane) claim(step uint64, n int) int {
	for n > 0 {
		was, unit := l.claimed.Load(), 0
		switch at := was >> 32; {
		case at > step:
			return -1
		case at == step:
			if unit = int(uint32(was)); unit >= n {
				return -1
			}
		}
		if l.claimed.CompareAndSwap(was, step<<32|uint64(unit+1)) {
			return unit
		}
	}
	return -1
}

// prefetch asks for at most n bytes more of what is ahead.
func (m *member) prefetch(n int) {
	for n > 0 && m.asked < len(m.ahead) {
		b := m.ahead[m.asked]
		part := b[:min(n, len(b))]
		kernel.Prefetch(part)
		n -= len(part)
		if m.ahead[m.asked] = b[len(part):]; len(part) == len(b) {
			m.asked++
		}
	}
}
