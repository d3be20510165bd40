//go:build linux

package framed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rollout-substrate/rollout/pkg/core"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns both ends of a stream, closed with the test.
func pair(t testing.TB) (host, plugin *net.UnixConn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]*net.UnixConn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*net.UnixConn)
		t.Cleanup(func() { _ = c.Close() }) // the client may have closed it already
	}
	return conns[0], conns[1]
}

// handler is a plugin for tests.
type handler struct{ startErr error }

func (h handler) Start(context.Context, map[string]any) error { return h.startErr }

func (h handler) Call(ctx context.Context, method string, payload []byte) ([]byte, error) {
	switch method {
	case "echo":
		return payload, nil
	case "wait":
		<-ctx.Done()
		return nil, core.Wrap("", core.CodeCanceled, ctx.Err())
	case "huge":
		return make([]byte, core.MaxCallPayload+1), nil
	}
	return nil, core.Errorf("", core.CodePluginError, "no %s", method).WithRetry(core.RetryHint{Kind: core.RetryAfter, After: 3 * time.Second})
}

func (h handler) CallBatch(ctx context.Context, method string, payloads [][]byte) ([]core.CallResult, error) {
	out := make([]core.CallResult, len(payloads))
	for i, p := range payloads {
		out[i].Result, out[i].Err = h.Call(ctx, method, p)
	}
	return out, nil
}

// connect starts h on one end and returns a client on the other.
func connect(t testing.TB, h Handler, grace time.Duration) (*Client, error) {
	t.Helper()
	host, plugin := pair(t)
	served := make(chan error, 1)
	go func() { served <- Serve(context.Background(), plugin, h) }()
	r, err := Handshake(context.Background(), host, map[string]any{"k": "v"})
	if err != nil {
		return nil, err
	}
	c, err := NewClient(host, r, grace)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return c, nil
}

func mustConnect(t testing.TB) *Client {
	t.Helper()
	c, err := connect(t, handler{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCalls(t *testing.T) {
	c := mustConnect(t)
	for _, n := range []int{0, 1, 100, 70 << 10, core.MaxCallPayload} {
		in := bytes.Repeat([]byte{7}, n)
		out, err := c.Call(context.Background(), "echo", in)
		if err != nil || !bytes.Equal(in, out) {
			t.Fatalf("echo of %d bytes: %d bytes, %v", n, len(out), err)
		}
	}
	_, err := c.Call(context.Background(), "nothing", nil)
	if !core.IsCode(err, core.CodePluginError) || !strings.Contains(err.Error(), "no nothing") {
		t.Fatalf("unknown method: %v", err)
	}
	if hint := core.RetryOf(err); hint.Kind != core.RetryAfter || hint.After != 3*time.Second {
		t.Fatalf("retry hint: %+v", hint)
	}
	if _, err := c.Call(context.Background(), "huge", nil); !core.IsCode(err, core.CodeTooLarge) {
		t.Fatalf("oversize result: %v", err)
	}
}

func TestManyCallersShareOneStream(t *testing.T) {
	c := mustConnect(t)
	var wg sync.WaitGroup
	for g := range 64 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 100 {
				in := fmt.Appendf(nil, "%d/%d", g, i)
				out, err := c.Call(context.Background(), "echo", in)
				if err != nil || !bytes.Equal(in, out) {
					t.Errorf("echo %q: %q, %v", in, out, err)
					return
				}
			}
		}()
	}
	wg.Wait()
}

func TestBatchIsCutToFrames(t *testing.T) {
	c := mustConnect(t)
	payloads := make([][]byte, 9)
	for i := range payloads {
		payloads[i] = bytes.Repeat([]byte{byte(i)}, 4<<20)
	}
	out, err := c.CallBatch(context.Background(), "echo", payloads)
	if err != nil || len(out) != len(payloads) {
		t.Fatalf("%d answers, %v", len(out), err)
	}
	for i, r := range out {
		if r.Err != nil || !bytes.Equal(r.Result, payloads[i]) {
			t.Fatalf("answer %d: %d bytes, %v", i, len(r.Result), r.Err)
		}
	}
	if out, err := c.CallBatch(context.Background(), "echo", nil); err != nil || len(out) != 0 {
		t.Fatalf("empty batch: %v, %v", out, err)
	}
}

func TestBatchResultsThatDoNotFit(t *testing.T) {
	results := make([]core.CallResult, 5)
	for i := range results {
		results[i].Result = make([]byte, 5<<20)
	}
	frame := AppendBatchResult(nil, 1, results)
	if len(frame) > MaxFrame+4 {
		t.Fatalf("frame of %d bytes", len(frame))
	}
	got, err := ParseBatchResult(frame[headerLen:], 5)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range got {
		if fits := i < 3; fits != (r.Err == nil) || !fits && !core.IsCode(r.Err, core.CodeTooLarge) {
			t.Errorf("answer %d: %d bytes, %v", i, len(r.Result), r.Err)
		}
	}
}

func TestCancelEndsTheCallOnBothSides(t *testing.T) {
	c := mustConnect(t)
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := c.Call(ctx, "wait", nil); !core.IsCode(err, core.CodeCanceled) {
		t.Fatalf("cancelled call: %v", err)
	}
	if out, err := c.Call(context.Background(), "echo", []byte("x")); err != nil || string(out) != "x" {
		t.Fatalf("call after: %q, %v", out, err)
	}
}

func TestUnansweredCancelFailsTheClient(t *testing.T) {
	host, plugin := pair(t)
	go func() { // a plugin that says hello and nothing more
		r := NewReader(plugin)
		if _, err := r.Next(); err != nil {
			t.Error(err)
		}
		if _, err := plugin.Write(Append(nil, TypeHello, 0, []byte(`{"magic":"rollout-plugin","version":1}`))); err != nil {
			t.Error(err)
		}
	}()
	r, err := Handshake(context.Background(), host, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewClient(host, r, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := c.Call(ctx, "echo", make([]byte, 4<<20)); !core.IsCode(err, core.CodeDeadlineExceeded) {
		t.Fatalf("call: %v", err)
	}
	<-c.Done()
	if !errors.Is(c.Err(), ErrStuck) {
		t.Fatalf("client failed with %v", c.Err())
	}
}

func TestFailedStart(t *testing.T) {
	_, err := func() (*Client, error) {
		host, plugin := pair(t)
		go func() {
			if err := Serve(context.Background(), plugin, handler{startErr: errors.New("no weights")}); err == nil {
				t.Error("Serve returned nil")
			}
		}()
		_, err := Handshake(context.Background(), host, nil)
		return nil, err
	}()
	if !core.IsCode(err, core.CodePluginError) || !strings.Contains(err.Error(), "no weights") {
		t.Fatalf("got %v", err)
	}
}

func TestHandshakeRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		send string
		code core.Code
		text string
	}{
		"text":        {"Hello, world!\n", core.CodePluginContract, "length"},
		"magic":       {string(Append(nil, TypeHello, 0, []byte(`{"magic":"x","version":1}`))), core.CodePluginContract, `magic "x"`},
		"version":     {string(Append(nil, TypeHello, 0, []byte(`{"magic":"rollout-plugin","version":9}`))), core.CodePluginContract, "version 9"},
		"not JSON":    {string(Append(nil, TypeHello, 0, []byte(`x`))), core.CodePluginContract, "JSON"},
		"wrong type":  {string(Append(nil, TypeResult, 0, nil)), core.CodePluginContract, "not hello"},
		"end":         {"", core.CodePluginCrashed, "before hello"},
		"half header": {"\x00\x00", core.CodePluginCrashed, "before hello"},
		"oversize":    {"\x7f\xff\xff\xff" + strings.Repeat("x", 20), core.CodePluginContract, "length"},
	} {
		t.Run(name, func(t *testing.T) {
			host, plugin := pair(t)
			go func() {
				if _, err := plugin.Write([]byte(tc.send)); err != nil {
					t.Error(err)
				}
				if err := plugin.CloseWrite(); err != nil {
					t.Error(err)
				}
			}()
			_, err := Handshake(context.Background(), host, nil)
			if !core.IsCode(err, tc.code) || !strings.Contains(err.Error(), tc.text) {
				t.Fatalf("got %v, code %v", err, core.CodeOf(err))
			}
		})
	}
	t.Run("silence", func(t *testing.T) {
		host, _ := pair(t)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		if _, err := Handshake(ctx, host, nil); !core.IsCode(err, core.CodeDeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
	})
}

func TestErrorRoundTrip(t *testing.T) {
	in := core.Errorf("op", core.CodePluginError, "bad \xff thing").WithRetry(core.RetryHint{Kind: core.RetryBackoff, Base: time.Second, Max: time.Minute})
	out := ParseError(MarshalError(in))
	if core.CodeOf(out) != core.CodePluginError {
		t.Errorf("code %v", core.CodeOf(out))
	}
	if diff := cmp.Diff(in.Retry, core.RetryOf(out)); diff != "" {
		t.Error(diff)
	}
	for body, code := range map[string]core.Code{
		`{"code":"fenced","message":"x"}`:          core.CodePluginError,
		`{"code":"plugin_contract","message":"x"}`: core.CodePluginContract,
		`not json`: core.CodePluginError,
		`{}`:       core.CodePluginError,
	} {
		if err := ParseError([]byte(body)); core.CodeOf(err) != code || err.Error() == "" {
			t.Errorf("%s: %v (%v)", body, err, core.CodeOf(err))
		}
	}
}

func TestReaderEnds(t *testing.T) {
	whole := AppendCall(nil, 1, 0, "m", []byte("payload"))
	for n := range whole {
		r := NewReader(bytes.NewReader(whole[:n]))
		_, err := r.Next()
		want := io.ErrUnexpectedEOF
		if n == 0 {
			want = io.EOF
		}
		if err != want {
			t.Errorf("%d bytes: %v, want %v", n, err, want)
		}
	}
}
