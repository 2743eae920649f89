package study

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/coppice-lm/coppice/internal/filelock"
)

// How often a lock that another run holds is tried again.
const lockEvery = 100 * time.Millisecond

// tryLock makes and locks a file that says who holds it. filelock.ErrHeld means that
// another run does.
func tryLock(path string) (*os.File, error) {
	f, err := filelock.Acquire(path)
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname()
	err = f.Truncate(0) // one that was killed may have left its own name
	if err == nil {
		_, err = fmt.Fprintf(f, "process %d on %s since %s\n", os.Getpid(), host, time.Now().UTC().Format(time.RFC3339))
	}
	if err != nil {
		filelock.Release(f)
		return nil, err
	}
	return f, nil
}

// lock waits for a lock. waiting is called once, with its holder, if another run has it.
func lock(ctx context.Context, path string, waiting func(holder string)) (*os.File, error) {
	for first := true; ; first = false {
		f, err := tryLock(path)
		if !errors.Is(err, filelock.ErrHeld) {
			return f, err
		}
		if first {
			waiting(holder(path))
		}
		if err := sleep(ctx, lockEvery); err != nil {
			return nil, err
		}
	}
}

// holder is what a lock's file says of its holder.
func holder(path string) string {
	b, err := os.ReadFile(path)
	if text := strings.TrimSpace(string(b)); err == nil && text != "" {
		return text
	}
	return "another run"
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
