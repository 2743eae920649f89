package eval

import "fmt"

// UsageError is an error in what the user asked for, not in a file: an unknown task, a
// record that does not exist, an output directory that belongs to another run.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *UsageError) Unwrap() error { return e.Err }

// Usagef returns a UsageError with a formatted message.
func Usagef(format string, args ...any) error {
	return &UsageError{fmt.Errorf(format, args...)}
}

// WriteError is a failure to write the ledger or the results: a full disk, a missing
// permission. Neither the model nor the tasks are to blame.
type WriteError struct{ Err error }

func (e *WriteError) Error() string { return "writing the results: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *WriteError) Unwrap() error { return e.Err }

// writeError marks an error, if there is one, as a WriteError.
func writeError(err error) error {
	if err == nil {
		return nil
	}
	return &WriteError{err}
}
