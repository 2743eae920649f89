// Command coppice makes language models smaller: it prunes the gated MLPs of
// Llama-family checkpoints, and does what belongs around it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/plan"
	"github.com/coppice-lm/coppice/study"
	"github.com/coppice-lm/coppice/surgery"
)

func main() { os.Exit(process()) }

// process runs the program for the process's arguments, streams and signals.
func process() int {
	// A model's weights are live for as long as it runs: at the default of 100, garbage
	// could grow to as much again before it is collected.
	collectGarbage(20)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return run(ctx, os.Args[1:], os.Stdout, os.Stderr)
}

// collectGarbage has garbage collected when the heap has grown by so many percent, unless
// the user has chosen by GOGC.
func collectGarbage(percent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}

// Exit codes; the root command's help prints the same table.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInput       = 3
	exitInterrupted = 4
)

// run is the whole program but for the process around it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	a := &app{stdout: stdout, stderr: stderr}
	cmd := a.root()
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err != nil && !a.started {
		err = &usageError{err} // cobra found the arguments wrong before a verb ran
	}
	code := exitCode(err)
	if err != nil {
		fmt.Fprintf(stderr, "coppice: %v\n", message(err))
		if code == exitUsage && !a.started {
			fmt.Fprintf(stderr, "see `%s --help`\n", cmd.CommandPath())
		}
	}
	return code
}

// usageError says that flags or arguments are wrong.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// inputError says that a model or a file is not what it must be.
type inputError struct{ error }

func (e *inputError) Unwrap() error { return e.error }

// streamError is a failure to write to standard output: a full disk behind it, a reader
// that went away.
type streamError struct{ error }

func (e *streamError) Unwrap() error { return e.error }

// interruptedError says what an interrupted verb leaves behind.
type interruptedError struct {
	error
	left string
}

func (e *interruptedError) Unwrap() error { return e.error }

// badInput marks an error as the input's fault, unless it already says whose it is.
func badInput(err error) error {
	if err == nil || exitCode(err) != exitFailed || errors.As(err, new(*checkpoint.WriteError)) || errors.As(err, new(*checkpoint.SettleError)) ||
		errors.As(err, new(*eval.WriteError)) || errors.As(err, new(*study.WriteError)) || errors.As(err, new(*streamError)) {
		return err
	}
	return &inputError{err}
}

// exitCode tells what kind of end an error is.
func exitCode(err error) int {
	var (
		usage  *usageError
		rule   *plan.RuleError
		output *checkpoint.OutputError
		refit  *surgery.RefitError
		input  *inputError
	)
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &usage), errors.As(err, &rule), errors.As(err, &output), errors.As(err, &refit):
		return exitUsage
	case errors.As(err, &input):
		return exitInput
	}
	return exitFailed
}

func message(err error) string {
	var interrupted *interruptedError
	if errors.As(err, &interrupted) {
		return "interrupted; " + interrupted.left
	}
	if errors.Is(err, context.Canceled) {
		return "interrupted; nothing was published"
	}
	return err.Error()
}
