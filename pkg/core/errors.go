package core

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// RetryKind says how a retry should be made.
type RetryKind uint8

// The kinds of retry.
const (
	// RetryNever: the same call will fail again.
	RetryNever RetryKind = 0
	// RetryNow: retry at once, after reading again what may have changed.
	RetryNow RetryKind = 1
	// RetryAfter: retry once [RetryHint.After] has passed.
	RetryAfter RetryKind = 2
	// RetryBackoff: retry with full jitter between zero and a bound that doubles
	// from [RetryHint.Base] to [RetryHint.Max].
	RetryBackoff RetryKind = 3
)

// RetryHint tells a caller whether and when to try again. The zero value is
// [RetryNever].
type RetryHint struct {
	Kind  RetryKind     // how to retry
	After time.Duration // RetryAfter: the wait
	Base  time.Duration // RetryBackoff: the first bound
	Max   time.Duration // RetryBackoff: the last bound
}

// The hints that codes carry by default. Read only.
var (
	retryNever   = RetryHint{}
	retryNow     = RetryHint{Kind: RetryNow}
	retryBackoff = RetryHint{Kind: RetryBackoff, Base: 50 * time.Millisecond, Max: 5 * time.Second}
)

// Error is the one error type that crosses room boundaries.
//
// Make one with [Errorf] or [Wrap]; they set the retry hint from the code. A
// literal without a hint means the code's default too, see [RetryOf], so that an
// error such as "transient, never retry" cannot be expressed.
type Error struct {
	Op    string    // what was attempted, such as "storage: commit"
	Code  Code      // the class that callers branch on
	Retry RetryHint // when to try again; read it through [RetryOf]
	Err   error     // the cause, never nil when made by a constructor
}

// Errorf returns an [*Error] with a formatted cause. The verb %w keeps a wrapped
// error reachable for [errors.Is] and [errors.As].
func Errorf(op string, code Code, format string, args ...any) *Error {
	return &Error{Op: op, Code: code, Retry: code.DefaultRetry(), Err: fmt.Errorf(format, args...)}
}

// Wrap returns err under an operation and a code. It returns nil for a nil err.
// Context errors keep their own code, whatever code says, so that cancellation
// is never mistaken for a fault.
func Wrap(op string, code Code, err error) error {
	if err == nil {
		return nil
	}
	switch {
	case errors.Is(err, context.Canceled):
		code = CodeCanceled
	case errors.Is(err, context.DeadlineExceeded):
		code = CodeDeadlineExceeded
	}
	return &Error{Op: op, Code: code, Retry: code.DefaultRetry(), Err: err}
}

// WithOp returns err with op put before its own, code and hint kept. It returns
// nil for a nil err.
func WithOp(op string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Code: CodeOf(err), Retry: RetryOf(err), Err: err}
}

// WithRetry returns a copy of e with another hint. A recoverable code keeps its
// default when hint is [RetryNever], and a fatal one stays [RetryNever], except
// [CodePluginError], whose plugin may ask for a retry.
func (e *Error) WithRetry(hint RetryHint) *Error {
	c := *e
	c.Retry = normalRetry(e.Code, hint)
	return &c
}

func normalRetry(code Code, hint RetryHint) RetryHint {
	switch {
	case code == CodePluginError:
		return hint
	case !code.Recoverable():
		return retryNever
	case hint.Kind == RetryNever:
		return code.DefaultRetry()
	}
	return hint
}

// Error returns "op: cause"; the cause's own operations follow in order, and one
// that both sides of a wire have named is said once. Without a cause the code's name
// stands for it.
func (e *Error) Error() string {
	text := ""
	if e.Err == nil {
		text = e.Code.String()
	} else {
		text = e.Err.Error()
	}
	if e.Op == "" || strings.HasPrefix(text, e.Op+": ") {
		return text
	}
	return e.Op + ": " + text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is an [*Error] of the same code with no operation
// and no cause, so that errors.Is(err, &core.Error{Code: c}) works.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Op == "" && t.Err == nil && t.Code == e.Code
}

// CodeOf returns the code of the outermost [*Error] in err's chain. A bare
// context error has its own code; any other error is [CodeUnknown]. It panics on
// nothing and returns CodeUnknown for nil.
func CodeOf(err error) Code {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Code
	case errors.Is(err, context.Canceled):
		return CodeCanceled
	case errors.Is(err, context.DeadlineExceeded):
		return CodeDeadlineExceeded
	}
	return CodeUnknown
}

// RetryOf returns the retry hint of the outermost [*Error] in err's chain,
// brought into line with its code.
func RetryOf(err error) RetryHint {
	var e *Error
	if errors.As(err, &e) {
		return normalRetry(e.Code, e.Retry)
	}
	return CodeOf(err).DefaultRetry()
}

// IsCode reports whether err is not nil and has that code.
func IsCode(err error, code Code) bool { return err != nil && CodeOf(err) == code }

// Violation is one broken rule of a configuration or manifest.
type Violation struct {
	File string // the file's name as the user gave it; empty for flags and environment
	Line int    // from 1; 0 where no line applies
	Key  string // the dotted key, flag or variable
	Msg  string // what is wrong and what to do, without a period
}

// String returns "FILE:LINE: key: message", leaving out what is empty.
func (v Violation) String() string {
	var b strings.Builder
	switch {
	case v.File != "" && v.Line > 0:
		fmt.Fprintf(&b, "%s:%d: ", v.File, v.Line)
	case v.File != "":
		b.WriteString(v.File + ": ")
	}
	if v.Key != "" {
		b.WriteString(v.Key + ": ")
	}
	b.WriteString(v.Msg)
	return b.String()
}

// Violations is every broken rule found in one reading. As an error it prints
// one violation a line.
type Violations []Violation

// Error returns the violations, one a line.
func (vs Violations) Error() string {
	lines := make([]string, len(vs))
	for i, v := range vs {
		lines[i] = v.String()
	}
	return strings.Join(lines, "\n")
}

// Err returns nil when there is no violation, and otherwise an [*Error] of
// [CodeConfigInvalid] whose cause is vs.
func (vs Violations) Err(op string) error {
	if len(vs) == 0 {
		return nil
	}
	return &Error{Op: op, Code: CodeConfigInvalid, Err: vs}
}
