package pluginsdk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rollout-substrate/rollout/pkg/core"
	pluginv1 "github.com/rollout-substrate/rollout/proto/rollout/plugin/v1"
)

// sample fails in the ways that authors fail.
type sample struct{}

func (sample) Call(_ context.Context, method string, payload []byte) ([]byte, error) {
	switch method {
	case "echo":
		return payload, nil
	case "panic":
		panic("oops")
	case "busy":
		return nil, Retry(errors.New("busy"), core.RetryHint{Kind: core.RetryAfter, After: time.Second})
	case "huge":
		return make([]byte, core.MaxCallPayload+1), nil
	}
	return nil, fmt.Errorf("%w: %s", ErrUnknownMethod, method)
}

func TestCallStatuses(t *testing.T) {
	s := &server{plugin: sample{}}
	for method, want := range map[string]codes.Code{"panic": codes.Unknown, "busy": codes.Unknown, "huge": codes.Unknown, "absent": codes.Unimplemented} {
		_, err := s.Call(t.Context(), &pluginv1.CallRequest{Method: method})
		if status.Code(err) != want {
			t.Errorf("%s: %v", method, err)
		}
	}
	_, err := s.Call(t.Context(), &pluginv1.CallRequest{Method: "busy"})
	detail, ok := status.Convert(err).Details()[0].(*pluginv1.PluginError)
	if !ok || detail.GetMessage() != "busy" || detail.GetRetry().GetAfterMs() != 1000 {
		t.Errorf("detail: %v", detail)
	}
}

func TestBatchWithoutBatcher(t *testing.T) {
	s := &server{plugin: sample{}}
	out, err := s.CallBatch(t.Context(), &pluginv1.CallBatchRequest{Method: "echo", Payloads: [][]byte{[]byte("a"), nil, []byte("b")}})
	if err != nil || len(out.GetResults()) != 3 || !bytes.Equal(out.GetResults()[2].GetResult(), []byte("b")) {
		t.Errorf("%v, %v", out, err)
	}
	out, err = s.CallBatch(t.Context(), &pluginv1.CallBatchRequest{Method: "panic", Payloads: [][]byte{nil}})
	if err != nil || out.GetResults()[0].GetError().GetMessage() != "panic: oops" {
		t.Errorf("%v, %v", out, err)
	}
}

func TestServeByHand(t *testing.T) {
	t.Setenv(CookieKey, "")
	if err := Serve(sample{}); err == nil {
		t.Error("a plugin that no host has started serves")
	}
	if code := Main(sample{}); code != 2 {
		t.Errorf("Main returned %d", code)
	}
}
