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
