package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/coppice-lm/coppice/study"
)

// childPatience is how long a verb that was interrupted may take to end.
const childPatience = 20 * time.Second

// runChild carries a verb out as a process of this same program, so that its memory is its
// own, and what it took is known. It is a study.Runner.
func runChild(ctx context.Context, c study.Command) (study.Outcome, error) {
	exe, err := os.Executable()
	if err != nil {
		return study.Outcome{}, err
	}
	cmd := exec.CommandContext(ctx, exe, c.Args...)
	cmd.Args[0] = os.Args[0]
	cmd.Dir = c.Dir
	var stdout bytes.Buffer
	said := &tail{to: c.Log}
	cmd.Stdout, cmd.Stderr = &stdout, said
	cmd.Cancel = func() error { return interrupt(cmd.Process) }
	cmd.WaitDelay = childPatience
	if runtime.GOOS != "windows" { // which has no inherited files, and no locks of ours
		cmd.ExtraFiles = c.Hold
	}
	// What ends a child with its parent is the end of the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	endWithParent(cmd)
	start := time.Now()
	err = cmd.Run()
	out := study.Outcome{Stdout: stdout.Bytes(), Seconds: time.Since(start).Seconds(), Peak: peakOf(cmd.ProcessState)}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() < 0:
		return out, &study.CommandError{Code: -1, Message: "it was ended (" + exit.String() + ")"}
	case errors.As(err, &exit):
		return out, &study.CommandError{Code: exit.ExitCode(), Message: said.message()}
	}
	return out, err
}

// tail passes on what is written to it and remembers the end.
type tail struct {
	to  io.Writer
	end []byte
}

// tailBytes is more than any error message has.
const tailBytes = 16 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.end = append(t.end, b...)
	t.end = t.end[max(0, len(t.end)-tailBytes):]
	if t.to == nil {
		return len(b), nil
	}
	return t.to.Write(b)
}

// message is the program's last error message.
func (t *tail) message() string {
	text := "\n" + string(t.end)
	if i := strings.LastIndex(text, "\ncoppice: "); i >= 0 {
		text = text[i+len("\ncoppice: "):]
	}
	text, _, _ = strings.Cut(text, "\nsee `")
	return strings.TrimSpace(text)
}
