package parallel

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
)

func TestEach(t *testing.T) {
	for _, threads := range []int{0, 1, 3, 100} {
		var calls [50]atomic.Int32
		err := Each(t.Context(), threads, len(calls), func(worker, unit int) error {
			if worker >= max(1, threads) {
				t.Errorf("worker %d of %d", worker, threads)
			}
			calls[unit].Add(1)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		for i := range calls {
			if n := calls[i].Load(); n != 1 {
				t.Errorf("%d threads: unit %d was done %d times", threads, i, n)
			}
		}
	}
}

// What fails, or a context that ends, is the result, and no unit is begun after it.
func TestEachStops(t *testing.T) {
	failed := errors.New("failed")
	begun := 0
	err := Each(t.Context(), 1, 10, func(_, unit int) error {
		begun++
		if unit == 3 {
			return failed
		}
		return nil
	})
	if !errors.Is(err, failed) || begun != 4 {
		t.Errorf("error %v after %d units, want one after 4", err, begun)
	}
	ctx, cancel := context.WithCancel(t.Context())
	begun = 0
	err = Each(ctx, 1, 10, func(_, unit int) error {
		begun++
		if unit == 3 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || begun != 4 {
		t.Errorf("error %v after %d units, want a cancellation after 4", err, begun)
	}
}
