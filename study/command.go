package study

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
)

// Command is a verb of Coppice that measures, or makes what is measured.
type Command struct {
	Args []string
	Dir  string    // where it runs: paths in Args are relative to it
	Log  io.Writer // what it says of its progress
	// Hold are locks that must be held for as long as the command runs, though this process
	// be killed: the command inherits them.
	Hold []*os.File
}

// Outcome is what a command printed, and what it took.
type Outcome struct {
	Stdout  []byte
	Seconds float64
	Peak    int64 // largest resident set in bytes; 0 where the system does not say
}

// Runner carries a command out. A command that fails is a *CommandError. When ctx ends,
// Runner ends the command and returns soon.
type Runner func(ctx context.Context, c Command) (Outcome, error)

// CommandError is how a command failed.
type CommandError struct {
	Code    int    // its exit code; -1 if a signal ended it
	Message string // what it said last
}

func (e *CommandError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("it ended with code %d and said nothing", e.Code)
	}
	return e.Message
}

// Exit codes of commands that mean something to a study; the root command's help has all.
const (
	exitUsage       = 2
	exitInterrupted = 4
)

// shellLine is a command as one would type it.
func shellLine(args []string) string {
	words := []string{"coppice"}
	for _, a := range args {
		if a == "" || strings.ContainsAny(a, " \t\n\"'`$&|;<>()*?[]#~\\!{}") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}
