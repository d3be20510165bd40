package grpcerr

import (
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rollout-substrate/rollout/pkg/core"
	pluginv1 "github.com/rollout-substrate/rollout/proto/rollout/plugin/v1"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

// maxText bounds the text of an error on the wire in bytes: headers are limited to
// 16 KiB, and the text travels twice, once percent-encoded.
const maxText = 2 << 10

// ToStatus returns err as a status error. It returns nil for nil, and an error
// that already is a gRPC status and no [core.Error] unchanged.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	var ce *core.Error
	if !errors.As(err, &ce) {
		if s, ok := status.FromError(err); ok {
			return s.Err()
		}
	}
	detail := ToProto(err)
	text := detail.GetMessage()
	if detail.GetOp() != "" {
		text = detail.GetOp() + ": " + text
	}
	st := status.New(GRPCCode(core.CodeOf(err)), text)
	if with, derr := st.WithDetails(detail); derr == nil {
		st = with // a detail that cannot be packed still leaves code and text
	}
	return st.Err()
}

// FromStatus returns the error behind a failed call, under the operation op of the
// caller, which may be empty. It returns nil for nil. An error that is a
// [core.Error] already keeps its code.
func FromStatus(op string, err error) error {
	if err == nil {
		return nil
	}
	var ce *core.Error
	if errors.As(err, &ce) {
		return withOp(op, err)
	}
	st, ok := status.FromError(err)
	if !ok {
		return core.Wrap(op, core.CodeUnknown, err)
	}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *transportv1.Error:
			return withOp(op, FromProto(d))
		case *pluginv1.PluginError:
			return withOp(op, FromPlugin(d))
		}
	}
	return core.Errorf(op, bareCode(st), "%s", st.Message())
}

// bareCode reads a status without a detail. gRPC reports a message above its size
// limit as ResourceExhausted, with nothing but the text to tell it from a peer that
// is busy; the first can never pass and the second will.
func bareCode(st *status.Status) core.Code {
	if st.Code() == codes.ResourceExhausted && strings.Contains(st.Message(), "larger than max") {
		return core.CodeTooLarge
	}
	return CodeOfGRPC(st.Code())
}

func withOp(op string, err error) error {
	if op == "" {
		return err
	}
	return core.WithOp(op, err)
}

// ToProto returns err as a message, for answers that carry errors in their body.
// It returns nil for nil.
func ToProto(err error) *transportv1.Error {
	if err == nil {
		return nil
	}
	out := &transportv1.Error{Code: uint32(core.CodeOf(err)), Retry: retryToProto(core.RetryOf(err))}
	// The outermost operation travels on its own so that the other side can tell it
	// from the cause; the rest of the chain is text already.
	if e, ok := err.(*core.Error); ok && e.Err != nil {
		out.Op, out.Message = clip(e.Op), clip(e.Err.Error())
		return out
	}
	out.Message = clip(err.Error())
	return out
}

// FromProto returns the error that a message stands for, nil for nil. A code of a
// newer peer becomes [core.CodeUnknown].
func FromProto(p *transportv1.Error) error {
	if p == nil {
		return nil
	}
	code := core.CodeUnknown
	if c := p.GetCode(); c <= 0xffff && core.Code(c).Valid() {
		code = core.Code(c)
	}
	return core.Errorf(p.GetOp(), code, "%s", p.GetMessage()).WithRetry(retryFromProto(p.GetRetry()))
}

// FromPlugin returns a plugin's own failure as [core.CodePluginError], with the
// plugin's hint. A nil message is a failure without a word.
func FromPlugin(p *pluginv1.PluginError) error {
	text := p.GetMessage()
	switch code := p.GetCode(); {
	case code == "" || code == core.CodePluginError.String():
	case text == "":
		text = code
	default:
		text = code + ": " + text
	}
	if text == "" {
		text = "the plugin gave no reason"
	}
	r := p.GetRetry()
	hint := core.RetryHint{
		Kind:  kindFromProto(int32(r.GetKind())),
		After: time.Duration(r.GetAfterMs()) * time.Millisecond,
		Base:  time.Duration(r.GetBaseMs()) * time.Millisecond,
		Max:   time.Duration(r.GetMaxMs()) * time.Millisecond,
	}
	return core.Errorf("", core.CodePluginError, "%s", text).WithRetry(hint)
}

func retryToProto(r core.RetryHint) *transportv1.Retry {
	if r == (core.RetryHint{}) {
		return nil
	}
	return &transportv1.Retry{
		Kind:    transportv1.RetryKind(r.Kind),
		AfterNs: int64(r.After),
		BaseNs:  int64(r.Base),
		MaxNs:   int64(r.Max),
	}
}

func retryFromProto(p *transportv1.Retry) core.RetryHint {
	if p == nil {
		return core.RetryHint{}
	}
	return core.RetryHint{
		Kind:  kindFromProto(int32(p.GetKind())),
		After: max(0, time.Duration(p.GetAfterNs())),
		Base:  max(0, time.Duration(p.GetBaseNs())),
		Max:   max(0, time.Duration(p.GetMaxNs())),
	}
}

// kindFromProto reads a kind of either package, whose numbers are those of core. A
// kind of a newer peer is read as never.
func kindFromProto(k int32) core.RetryKind {
	if k < 0 || k > int32(core.RetryBackoff) {
		return core.RetryNever
	}
	return core.RetryKind(k)
}

// clip bounds foreign text and keeps it valid UTF-8, which protobuf insists on.
func clip(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
