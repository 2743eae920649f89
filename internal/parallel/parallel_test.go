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

// Every unit is written once, whole; an error of either side, or a context that ends, is
// the result, and nothing is written after it.
func TestStream(t *testing.T) {
	create := func() *[]byte { return new([]byte) }
	do := func(m *[]byte, unit int) ([]byte, error) {
		*m = append((*m)[:0], byte(unit), byte(unit))
		return *m, nil
	}
	for _, threads := range []int{0, 1, 3} {
		seen := map[int]int{}
		err := Stream(t.Context(), threads, 100, create, do, func(unit int, b []byte) error {
			if seen[unit]++; len(b) != 2 || b[0] != byte(unit) || b[1] != byte(unit) {
				t.Errorf("unit %d is %v", unit, b)
			}
			return nil
		})
		if err != nil || len(seen) != 100 {
			t.Errorf("%d threads: %d units, %v", threads, len(seen), err)
		}
		failed := errors.New("failed")
		err = Stream(t.Context(), threads, 100, create, func(m *[]byte, unit int) ([]byte, error) {
			if unit == 30 {
				return nil, failed
			}
			return do(m, unit)
		}, func(int, []byte) error { return nil })
		if !errors.Is(err, failed) {
			t.Errorf("making fails: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		written := 0
		err = Stream(ctx, threads, 100, create, do, func(int, []byte) error {
			if written++; written == 5 {
				cancel()
			}
			return nil
		})
		if !errors.Is(err, context.Canceled) || written != 5 {
			t.Errorf("cancelled: %d written, %v", written, err)
		}
		err = Stream(t.Context(), threads, 100, create, do, func(int, []byte) error { return failed })
		if !errors.Is(err, failed) {
			t.Errorf("writing fails: %v", err)
		}
	}
}
