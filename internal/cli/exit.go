package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/transport"
)

// The exit statuses of all programs.
const (
	ExitOK      = 0 // clean end, a drained SIGTERM included
	ExitFailure = 1 // failure at run time; a second signal
	ExitUsage   = 2 // wrong usage, invalid configuration or manifest
	ExitRefused = 3 // refused by the other side, or nobody there
	ExitFenced  = 4 // a newer epoch of this identity has taken over
)

// usageError is a wrong command line.
type usageError struct {
	err  error
	page string // the command whose help tells the right one; empty: the program's
}

func (u usageError) Error() string { return u.err.Error() }
func (u usageError) Unwrap() error { return u.err }

// usagef makes a wrong command line's error.
func usagef(format string, args ...any) error { return usageError{err: fmt.Errorf(format, args...)} }

// exitCode maps what ended a program to its status.
func exitCode(err error) int {
	var u usageError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &u):
		return ExitUsage
	case transport.IsRefused(err), transport.IsUnresolved(err):
		return ExitRefused
	}
	switch core.CodeOf(err) {
	case core.CodeConfigInvalid, core.CodeInvalidArgument, core.CodeSchemaViolation:
		return ExitUsage
	case core.CodeFenced:
		return ExitFenced
	}
	return ExitFailure
}

// report writes err for people: violations one a line, anything else as one
// sentence, and where to read more after a wrong command line.
func report(w io.Writer, program string, err error) {
	var (
		vs core.Violations
		u  usageError
	)
	switch {
	case errors.As(err, &vs):
		fmt.Fprintf(w, "%s: the configuration has %s\n%s\n", program, count(len(vs), "mistake"), vs.Error())
	case errors.As(err, &u):
		fmt.Fprintf(w, "%s: %s\nsee %s --help\n", program, oneLine(err), cmp.Or(u.page, program))
	default:
		fmt.Fprintf(w, "%s: %s\n", program, strings.TrimPrefix(oneLine(err), program+": "))
	}
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// count writes "1 mistake" or "3 mistakes".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
