package grpcerr

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/rollout-substrate/rollout/pkg/core"
	pluginv1 "github.com/rollout-substrate/rollout/proto/rollout/plugin/v1"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

func TestRoundTripOfEveryCode(t *testing.T) {
	for _, code := range core.Codes() {
		t.Run(code.String(), func(t *testing.T) {
			in := core.Errorf("store: commit", code, "page %d is bad", 7)
			out := FromStatus("", ToStatus(fmt.Errorf("around: %w", in)))
			if core.CodeOf(out) != code {
				t.Errorf("code is %v after the round trip, want %v", core.CodeOf(out), code)
			}
			if core.RetryOf(out) != core.RetryOf(in) {
				t.Errorf("hint is %+v after the round trip, want %+v", core.RetryOf(out), core.RetryOf(in))
			}
			if !strings.Contains(out.Error(), "page 7 is bad") {
				t.Errorf("text is %q, the cause is lost", out)
			}
			var e *core.Error
			if out := FromStatus("", ToStatus(in)); !errors.As(out, &e) || e.Op != "store: commit" {
				t.Errorf("operation is %q after the round trip, want %q", e.Op, "store: commit")
			}
		})
	}
}

// TestTable pins code, hint and gRPC code together: all three are on the wire.
func TestTable(t *testing.T) {
	never, now, backoff := core.RetryNever, core.RetryNow, core.RetryBackoff
	want := []struct {
		code  core.Code
		retry core.RetryKind
		grpc  codes.Code
	}{
		{0, never, codes.Unknown}, {1, backoff, codes.ResourceExhausted}, {2, backoff, codes.Unavailable},
		{3, now, codes.Aborted}, {4, never, codes.InvalidArgument}, {5, never, codes.InvalidArgument},
		{6, never, codes.FailedPrecondition}, {7, never, codes.Internal}, {8, never, codes.InvalidArgument},
		{9, never, codes.NotFound}, {10, never, codes.AlreadyExists}, {11, now, codes.Aborted},
		{12, never, codes.DataLoss}, {13, never, codes.Aborted}, {14, never, codes.Aborted},
		{15, backoff, codes.ResourceExhausted}, {16, never, codes.ResourceExhausted}, {17, never, codes.Unimplemented},
		{18, backoff, codes.Unavailable}, {19, never, codes.Internal}, {20, never, codes.FailedPrecondition},
		{21, never, codes.Canceled}, {22, never, codes.DeadlineExceeded}, {23, never, codes.OutOfRange},
		{24, never, codes.Unauthenticated}, {25, never, codes.PermissionDenied}, {26, never, codes.FailedPrecondition},
		{27, never, codes.FailedPrecondition}, {28, never, codes.Unknown}, {29, backoff, codes.Unavailable},
		{30, never, codes.FailedPrecondition}, {31, backoff, codes.Unavailable},
	}
	if len(want) != len(core.Codes()) || len(grpcCodes) != len(core.Codes()) {
		t.Fatalf("core has %d codes, this test %d, the table %d: give each new code a row in both", len(core.Codes()), len(want), len(grpcCodes))
	}
	for _, w := range want {
		if w.code.DefaultRetry().Kind != w.retry || GRPCCode(w.code) != w.grpc {
			t.Errorf("%v: hint %v and gRPC code %v, want %v and %v", w.code, w.code.DefaultRetry().Kind, GRPCCode(w.code), w.retry, w.grpc)
		}
	}
	if got := GRPCCode(core.Code(9999)); got != codes.Unknown {
		t.Errorf("an undefined code travels as %v, want Unknown", got)
	}
}

func TestHintsTravel(t *testing.T) {
	hint := core.RetryHint{Kind: core.RetryAfter, After: 1500 * time.Millisecond}
	in := core.Errorf("x", core.CodeThrottled, "busy").WithRetry(hint)
	if got := core.RetryOf(FromStatus("", ToStatus(in))); got != hint {
		t.Errorf("hint is %+v after the round trip, want %+v", got, hint)
	}
}

func TestBareStatus(t *testing.T) {
	for c := codes.OK + 1; c <= codes.Unauthenticated; c++ {
		err := FromStatus("call", status.Error(c, "because"))
		if core.CodeOf(err) != CodeOfGRPC(c) || !strings.Contains(err.Error(), "because") {
			t.Errorf("%v reads as %v", c, err)
		}
	}
	big := status.Error(codes.ResourceExhausted, "grpc: received message larger than max (9 vs. 4)")
	if !core.IsCode(FromStatus("", big), core.CodeTooLarge) {
		t.Error("gRPC's own size limit is not read as too_large")
	}
	if FromStatus("x", nil) != nil || ToStatus(nil) != nil || FromProto(nil) != nil || ToProto(nil) != nil {
		t.Error("nil did not stay nil")
	}
	if got := ToStatus(context.DeadlineExceeded); status.Code(got) != codes.DeadlineExceeded {
		t.Errorf("a bare context error travels as %v", got)
	}
	if err := FromStatus("op", errors.New("plain")); core.CodeOf(err) != core.CodeUnknown {
		t.Errorf("a plain error reads as %v", err)
	}
}

func TestPluginDetail(t *testing.T) {
	st, err := status.New(codes.Internal, "x").WithDetails(&pluginv1.PluginError{
		Code: "bad_sample", Message: "no answer tag",
		Retry: &pluginv1.RetryHint{Kind: pluginv1.RetryKind_RETRY_KIND_AFTER, AfterMs: 20},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := FromStatus("", st.Err())
	if !core.IsCode(got, core.CodePluginError) || got.Error() != "bad_sample: no answer tag" {
		t.Errorf("plugin error reads as %v %q", core.CodeOf(got), got)
	}
	if h := core.RetryOf(got); h.Kind != core.RetryAfter || h.After != 20*time.Millisecond {
		t.Errorf("the plugin's hint reads as %+v", h)
	}
	if got := FromPlugin(nil); got.Error() != "the plugin gave no reason" {
		t.Errorf("an empty plugin error reads as %q", got)
	}
}

func TestLongAndBrokenText(t *testing.T) {
	in := core.Errorf("op", core.CodeInternal, "%s", strings.Repeat("\xffé", 40_000))
	err := ToStatus(in)
	st, _ := status.FromError(err)
	if n := proto.Size(st.Proto()); n > 3*(maxText+maxText) {
		t.Errorf("the status has %d bytes, more than a header can carry", n)
	}
	if !core.IsCode(FromStatus("", err), core.CodeInternal) {
		t.Errorf("the code of an error with broken text is lost: %v", FromStatus("", err))
	}
}

func FuzzFromProto(f *testing.F) {
	for _, code := range core.Codes() {
		b, err := proto.Marshal(ToProto(core.Errorf("op", code, "text")))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{0x10, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		var p transportv1.Error
		if proto.Unmarshal(b, &p) != nil {
			return
		}
		err := FromProto(&p)
		if !core.CodeOf(err).Valid() {
			t.Fatalf("an undefined code came through: %v", core.CodeOf(err))
		}
		if h := core.RetryOf(err); h.Kind > core.RetryBackoff || h.After < 0 || h.Base < 0 || h.Max < 0 {
			t.Fatalf("an impossible hint came through: %+v", h)
		}
	})
}
