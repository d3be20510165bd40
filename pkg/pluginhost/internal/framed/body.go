package framed

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Hello is the body of a hello frame. Config is set by the host only.
type Hello struct {
	Magic   string         `json:"magic"`
	Version int            `json:"version"`
	Config  map[string]any `json:"config,omitempty"`
}

// AppendHello appends the host's hello.
func AppendHello(dst []byte, config map[string]any) ([]byte, error) {
	if config == nil {
		config = map[string]any{}
	}
	body, err := json.Marshal(struct {
		Magic   string         `json:"magic"`
		Version int            `json:"version"`
		Config  map[string]any `json:"config"`
	}{Magic, Version, config})
	if err != nil {
		return dst, err
	}
	if len(body) > core.MaxCallPayload {
		return dst, fmt.Errorf("config has %d bytes as JSON, at most %d are allowed", len(body), core.MaxCallPayload)
	}
	return Append(dst, TypeHello, 0, body), nil
}

// ParseHello reads a hello's body and checks magic and version.
func ParseHello(body []byte) (Hello, error) {
	var h Hello
	if err := json.Unmarshal(body, &h); err != nil {
		return h, fmt.Errorf("%w: hello is not a JSON object: %v", ErrFrame, err)
	}
	if h.Magic != Magic {
		return h, fmt.Errorf("%w: hello has magic %q, not %q", ErrFrame, clip(h.Magic), Magic)
	}
	if h.Version != Version {
		return h, fmt.Errorf("%w: framed version %d is not supported, only %d", ErrFrame, h.Version, Version)
	}
	return h, nil
}

// Call is the body of a call frame. Payload shares memory with the body.
type Call struct {
	Millis  uint32 // left until the deadline; 0: none
	Method  string
	Payload []byte
}

// ParseCall reads a call's body.
func ParseCall(body []byte) (Call, error) {
	millis, method, rest, err := parseMethod(body)
	return Call{Millis: millis, Method: method, Payload: rest}, err
}

func parseMethod(body []byte) (millis uint32, method string, rest []byte, err error) {
	if len(body) < 6 {
		return 0, "", nil, fmt.Errorf("%w: a call of %d bytes is too short", ErrFrame, len(body))
	}
	millis = binary.BigEndian.Uint32(body)
	n := int(binary.BigEndian.Uint16(body[4:]))
	body = body[6:]
	if n > len(body) {
		return 0, "", nil, fmt.Errorf("%w: method of %d bytes in a rest of %d", ErrFrame, n, len(body))
	}
	return millis, string(body[:n]), body[n:], nil
}

// Batch is the body of a batch frame. Payloads share memory with the body.
type Batch struct {
	Millis   uint32
	Method   string
	Payloads [][]byte
}

// ParseBatch reads a batch's body.
func ParseBatch(body []byte) (Batch, error) {
	millis, method, rest, err := parseMethod(body)
	if err != nil {
		return Batch{}, err
	}
	b := Batch{Millis: millis, Method: method}
	if len(rest) < 4 {
		return b, fmt.Errorf("%w: batch without a count", ErrFrame)
	}
	count := int(binary.BigEndian.Uint32(rest))
	rest = rest[4:]
	if count > core.MaxBatchLen || count*4 > len(rest) {
		return b, fmt.Errorf("%w: batch of %d payloads in %d bytes", ErrFrame, count, len(rest))
	}
	b.Payloads = make([][]byte, count)
	for i := range b.Payloads {
		if b.Payloads[i], rest, err = parseBytes(rest); err != nil {
			return Batch{}, err
		}
	}
	if len(rest) != 0 {
		return Batch{}, fmt.Errorf("%w: %d bytes after a batch", ErrFrame, len(rest))
	}
	return b, nil
}

func parseBytes(b []byte) (head, rest []byte, err error) {
	if len(b) < 4 {
		return nil, nil, fmt.Errorf("%w: %d bytes where a length was expected", ErrFrame, len(b))
	}
	n := binary.BigEndian.Uint32(b)
	b = b[4:]
	if uint64(n) > uint64(len(b)) {
		return nil, nil, fmt.Errorf("%w: length %d in a rest of %d bytes", ErrFrame, n, len(b))
	}
	return b[:n:n], b[n:], nil
}

// AppendBatchResult appends the answers to a batch. An answer that would not fit
// any more is replaced by a too_large error.
func AppendBatchResult(dst []byte, id uint64, results []core.CallResult) []byte {
	start := len(dst)
	dst = appendHeader(dst, TypeResult, id, 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(results)))
	const tooLargeLen = 160 // bytes of an answer that says too_large, at most
	room := MaxFrame - minFrame - 4
	for i, r := range results {
		flag, b := byte(0), r.Result
		if r.Err != nil {
			flag, b = 1, MarshalError(r.Err)
		}
		if later := len(results) - i - 1; 5+len(b) > room-later*tooLargeLen {
			flag, b = 1, MarshalError(core.Errorf("", core.CodeTooLarge, "the batch's results together exceed one frame"))
		}
		dst = append(dst, flag)
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(b)))
		dst = append(dst, b...)
		room -= 5 + len(b)
	}
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start-4))
	return dst
}

// ParseBatchResult reads the answers to a batch of want payloads. Results share
// memory with the body; errors are made by [ParseError].
func ParseBatchResult(body []byte, want int) ([]core.CallResult, error) {
	if len(body) < 4 {
		return nil, fmt.Errorf("%w: batch result without a count", ErrFrame)
	}
	if n := binary.BigEndian.Uint32(body); int64(n) != int64(want) {
		return nil, fmt.Errorf("%w: %d answers to a batch of %d", ErrFrame, n, want)
	}
	body = body[4:]
	out := make([]core.CallResult, want)
	for i := range out {
		if len(body) < 1 || body[0] > 1 {
			return nil, fmt.Errorf("%w: answer %d of a batch is neither result nor error", ErrFrame, i)
		}
		flag := body[0]
		b, rest, err := parseBytes(body[1:])
		if err != nil {
			return nil, err
		}
		if flag == 1 {
			out[i].Err = ParseError(b)
		} else {
			out[i].Result = b
		}
		body = rest
	}
	if len(body) != 0 {
		return nil, fmt.Errorf("%w: %d bytes after a batch result", ErrFrame, len(body))
	}
	return out, nil
}

// wireError is the JSON of an error frame.
type wireError struct {
	Code    string     `json:"code"`
	Message string     `json:"message"`
	Retry   *wireRetry `json:"retry,omitempty"`
}

type wireRetry struct {
	Kind    string `json:"kind"` // never, now, after or backoff
	AfterMS int64  `json:"after_ms,omitempty"`
	BaseMS  int64  `json:"base_ms,omitempty"`
	MaxMS   int64  `json:"max_ms,omitempty"`
}

// MaxErrorMessage bounds the bytes of an error's message in either direction.
const MaxErrorMessage = 64 << 10

// MarshalError returns the body of an error frame.
func MarshalError(err error) []byte {
	hint := core.RetryOf(err)
	w := wireError{Code: core.CodeOf(err).String(), Message: limit(err.Error())}
	switch hint.Kind {
	case core.RetryNow:
		w.Retry = &wireRetry{Kind: "now"}
	case core.RetryAfter:
		w.Retry = &wireRetry{Kind: "after", AfterMS: hint.After.Milliseconds()}
	case core.RetryBackoff:
		w.Retry = &wireRetry{Kind: "backoff", BaseMS: hint.Base.Milliseconds(), MaxMS: hint.Max.Milliseconds()}
	}
	b, jerr := json.Marshal(w)
	if jerr != nil { // strings and integers always marshal
		return []byte(`{"code":"internal","message":"error could not be encoded"}`)
	}
	return b
}

// ParseError turns an error frame's body into the error that the host returns.
// A plugin may say that it broke off ("canceled", "deadline_exceeded"), that the
// contract was broken ("plugin_contract") or that a size was exceeded
// ("too_large"); every other code, and a body that is not the JSON asked for, is
// the plugin's own failure, with its retry hint.
func ParseError(body []byte) error {
	var w wireError
	if err := json.Unmarshal(body, &w); err != nil {
		return core.Errorf("", core.CodePluginError, "%s", limit(string(body)))
	}
	if w.Message == "" {
		w.Message = "the plugin gave no message"
	}
	code := core.ParseCode(w.Code)
	switch code {
	case core.CodeCanceled, core.CodeDeadlineExceeded, core.CodePluginContract, core.CodeTooLarge:
	default:
		code = core.CodePluginError
	}
	return core.Errorf("", code, "%s", limit(w.Message)).WithRetry(w.Retry.hint())
}

func (r *wireRetry) hint() core.RetryHint {
	if r == nil {
		return core.RetryHint{}
	}
	switch r.Kind {
	case "now":
		return core.RetryHint{Kind: core.RetryNow}
	case "after":
		return core.RetryHint{Kind: core.RetryAfter, After: millis(r.AfterMS)}
	case "backoff":
		return core.RetryHint{Kind: core.RetryBackoff, Base: max(millis(r.BaseMS), time.Millisecond), Max: max(millis(r.MaxMS), millis(r.BaseMS), time.Millisecond)}
	}
	return core.RetryHint{}
}

// millis clamps what a plugin asks for to a day.
func millis(n int64) time.Duration {
	return time.Duration(min(max(n, 0), 24*3600*1000)) * time.Millisecond
}

func limit(s string) string {
	if len(s) > MaxErrorMessage {
		s = s[:MaxErrorMessage] + "... (cut)"
	}
	if !utf8.ValidString(s) {
		s = fmt.Sprintf("%q", s)
	}
	return s
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}
