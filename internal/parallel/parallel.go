// Package parallel shares out work that can fail or be cancelled among goroutines.
package parallel

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

// Each calls do once for each unit below n, begun in order, on so many goroutines (one at
// least), of which worker is the number. After an error, or when the context ends, no
// further unit is begun; the errors are joined.
func Each(ctx context.Context, threads, n int, do func(worker, unit int) error) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, max(1, threads))
	for w := range errs {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if errs[w] = do(w, i); errs[w] != nil {
					next.Store(int64(n)) // the others stop too
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(append(errs, ctx.Err())...)
}

// Stream makes n units on so many goroutines and hands each to write, on the caller's, about
// in order. Writers of one file would take turns in the kernel and spin while they wait;
// one writer alone leaves the other processors to making. A maker is used by one goroutine
// at a time, and what it made is valid until it makes again; a few more than threads are
// created, so that units can wait for the writer. After an error, or when the context ends,
// no further unit is begun or written, and that is the result.
func Stream[M any](ctx context.Context, threads, n int, create func() M, do func(m M, unit int) ([]byte, error), write func(unit int, b []byte) error) error {
	type made struct {
		unit  int
		bytes []byte
		by    M
	}
	const waiting = 4 // units that are made ahead of the writer
	free := make(chan M, max(1, threads)+waiting)
	for range cap(free) {
		free <- create()
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	ready := make(chan made, cap(free))
	go func() {
		defer close(ready)
		err := Each(ctx, threads, n, func(_, i int) error {
			m := <-free
			b, err := do(m, i)
			if err != nil {
				free <- m
				return err
			}
			ready <- made{i, b, m} // never blocks: there is room for every maker
			return nil
		})
		if err != nil {
			stop(err)
		}
	}()
	for d := range ready {
		if ctx.Err() == nil {
			if err := write(d.unit, d.bytes); err != nil {
				stop(err)
			}
		}
		free <- d.by
	}
	return context.Cause(ctx)
}
