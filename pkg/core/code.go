package core

// Code classifies an error. The list is closed to callers and append-only:
// numbers travel on the wire and are never reused.
//
// The first eight are the taxonomy of the Rust original: throttled, transient
// and preempted are recoverable, the others are fatal.
type Code uint16

// The codes. [Code.DefaultRetry] gives each one's retry hint.
const (
	// CodeUnknown is an error that carries no code of ours.
	CodeUnknown Code = 0
	// CodeThrottled: the callee is busy; the same call will pass later.
	CodeThrottled Code = 1
	// CodeTransient: a passing fault; the same call may pass at once.
	CodeTransient Code = 2
	// CodePreempted: the machine or slot was taken away; the work should move.
	CodePreempted Code = 3
	// CodeConfigInvalid: configuration or a manifest breaks a rule.
	CodeConfigInvalid Code = 4
	// CodeSchemaViolation: data does not match its declared schema.
	CodeSchemaViolation Code = 5
	// CodePluginContract: a plugin or its caller broke the plugin contract.
	CodePluginContract Code = 6
	// CodeInternal: a defect of ours.
	CodeInternal Code = 7

	// CodeInvalidArgument: the caller's argument can never be accepted.
	CodeInvalidArgument Code = 8
	// CodeNotFound: what was named does not exist.
	CodeNotFound Code = 9
	// CodeAlreadyExists: what was to be created exists with other content.
	CodeAlreadyExists Code = 10
	// CodeConflict: a concurrent change won; read again and retry at once.
	CodeConflict Code = 11
	// CodeCorrupt: stored bytes are damaged.
	CodeCorrupt Code = 12
	// CodeFenced: a newer epoch has taken over; the caller must stop acting.
	CodeFenced Code = 13
	// CodeLeaseLost: the lease was returned, expired or given to another.
	CodeLeaseLost Code = 14
	// CodeExhausted: disk, quota or memory is full; room may return.
	CodeExhausted Code = 15
	// CodeTooLarge: one value, message or frame exceeds its limit.
	CodeTooLarge Code = 16
	// CodeUnsupported: the implementation or machine cannot do this.
	CodeUnsupported Code = 17
	// CodeUnavailable: the other side cannot be reached now.
	CodeUnavailable Code = 18
	// CodeBroken: the component stopped after a failure it cannot repair by
	// itself, such as a failed sync; reopen it.
	CodeBroken Code = 19
	// CodeClosed: the value was closed.
	CodeClosed Code = 20
	// CodeCanceled: the caller's context was cancelled.
	CodeCanceled Code = 21
	// CodeDeadlineExceeded: the caller's deadline passed.
	CodeDeadlineExceeded Code = 22
	// CodeCompacted: the revision asked for is no longer in the history.
	CodeCompacted Code = 23
	// CodeUnauthenticated: the caller showed no valid identity.
	CodeUnauthenticated Code = 24
	// CodePermissionDenied: the caller's identity may not do this.
	CodePermissionDenied Code = 25
	// CodeFailedPrecondition: the call is right, the state is not yet.
	CodeFailedPrecondition Code = 26
	// CodeVersionMismatch: the two sides speak no common protocol version.
	CodeVersionMismatch Code = 27
	// CodePluginError: the plugin ran and answered with an error of its own.
	CodePluginError Code = 28
	// CodePluginCrashed: the plugin's process or instance died during the call.
	CodePluginCrashed Code = 29
	// CodePluginPoisoned: the instance is stuck in an abandoned call and takes
	// no others.
	CodePluginPoisoned Code = 30
	// CodeBusy: another process or owner holds what is asked for.
	CodeBusy Code = 31
)

// codeInfo is what one code means beyond its number.
type codeInfo struct {
	name  string
	retry RetryHint
}

// codes is indexed by Code. The table is read only.
var codes = [...]codeInfo{
	CodeUnknown:            {"unknown", retryNever},
	CodeThrottled:          {"throttled", retryBackoff},
	CodeTransient:          {"transient", retryBackoff},
	CodePreempted:          {"preempted", retryNow},
	CodeConfigInvalid:      {"config_invalid", retryNever},
	CodeSchemaViolation:    {"schema_violation", retryNever},
	CodePluginContract:     {"plugin_contract", retryNever},
	CodeInternal:           {"internal", retryNever},
	CodeInvalidArgument:    {"invalid_argument", retryNever},
	CodeNotFound:           {"not_found", retryNever},
	CodeAlreadyExists:      {"already_exists", retryNever},
	CodeConflict:           {"conflict", retryNow},
	CodeCorrupt:            {"corrupt", retryNever},
	CodeFenced:             {"fenced", retryNever},
	CodeLeaseLost:          {"lease_lost", retryNever},
	CodeExhausted:          {"exhausted", retryBackoff},
	CodeTooLarge:           {"too_large", retryNever},
	CodeUnsupported:        {"unsupported", retryNever},
	CodeUnavailable:        {"unavailable", retryBackoff},
	CodeBroken:             {"broken", retryNever},
	CodeClosed:             {"closed", retryNever},
	CodeCanceled:           {"canceled", retryNever},
	CodeDeadlineExceeded:   {"deadline_exceeded", retryNever},
	CodeCompacted:          {"compacted", retryNever},
	CodeUnauthenticated:    {"unauthenticated", retryNever},
	CodePermissionDenied:   {"permission_denied", retryNever},
	CodeFailedPrecondition: {"failed_precondition", retryNever},
	CodeVersionMismatch:    {"version_mismatch", retryNever},
	CodePluginError:        {"plugin_error", retryNever},
	CodePluginCrashed:      {"plugin_crashed", retryBackoff},
	CodePluginPoisoned:     {"plugin_poisoned", retryNever},
	CodeBusy:               {"busy", retryBackoff},
}

// Codes returns every defined code in ascending order.
func Codes() []Code {
	out := make([]Code, len(codes))
	for i := range codes {
		out[i] = Code(i)
	}
	return out
}

// Valid reports whether c is one of the defined codes.
func (c Code) Valid() bool { return int(c) < len(codes) }

// String returns the code's name in lower case with underscores, as it appears
// in result lines and events. An undefined code reads "unknown".
func (c Code) String() string {
	if !c.Valid() {
		c = CodeUnknown
	}
	return codes[c].name
}

// ParseCode returns the code of that name, or CodeUnknown.
func ParseCode(name string) Code {
	for i, info := range codes {
		if info.name == name {
			return Code(i)
		}
	}
	return CodeUnknown
}

// DefaultRetry returns the hint that an error of this code carries unless it
// says otherwise.
func (c Code) DefaultRetry() RetryHint {
	if !c.Valid() {
		c = CodeUnknown
	}
	return codes[c].retry
}

// Recoverable reports whether a retry of the same call can succeed at all.
func (c Code) Recoverable() bool { return c.DefaultRetry().Kind != RetryNever }

// MarshalText implements [encoding.TextMarshaler] with the code's name.
func (c Code) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; an unknown name becomes
// CodeUnknown, so that a newer peer's code can still be read.
func (c *Code) UnmarshalText(b []byte) error { *c = ParseCode(string(b)); return nil }
