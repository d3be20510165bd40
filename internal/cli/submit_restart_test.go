package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// newKillableSite starts a coordinator in a process of its own. It listens on one port
// through all its lives.
func newKillableSite(t *testing.T) (s *site, restart func()) {
	t.Helper()
	s = &site{t: t, dir: t.TempDir()}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ROLLOUT_TRANSPORT_LISTEN_ADDR", s.addr)
	t.Setenv("ROLLOUT_TRANSPORT_HEARTBEAT_INTERVAL", "2s")
	c := s.coordinatorChild()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the coordinator printed:\n%s", readFile(t, s.path("coordinator.log")))
		}
	})
	s.says(ExitOK, s.addr, "status", "--timeout", patience.String())
	return s, func() {
		t.Helper()
		kill(t, c)
		c = s.coordinatorChild()
	}
}

// submitting runs a submit beside the test.
func (s *site) submitting(in io.Reader, args ...string) (wait func() (stderr string, code int)) {
	var errs bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	done := make(chan int, 1)
	args = append([]string{"submit", "--plugin", "fake", "--method", "m", "--wait", "--addr", s.addr, "--tls-dir", s.tls()}, args...)
	go func() { done <- Operator(ctx, args, in, io.Discard, &errs) }()
	return func() (string, int) {
		defer cancel()
		code := <-done
		return errs.String(), code
	}
}

// allOnce checks that every item has one result, which is right.
func (s *site) allOnce(out string, n int) {
	s.t.Helper()
	rs := results(s.t, readFile(s.t, out))
	if len(rs) != n {
		s.t.Fatalf("%d results, want %d", len(rs), n)
	}
	for i, r := range rs {
		if want := fmt.Sprintf("item %d", i); r.ID != want || r.Status != core.ResultOK {
			s.t.Fatalf("result %d is %+v", i, r)
		}
	}
}

// Killing the coordinator while a submit waits costs nothing: the submit waits for it
// and every line has its one result.
func TestACoordinatorKilledDuringTheWaitCostsNothing(t *testing.T) {
	s, restart := newKillableSite(t)
	const n = 300
	var calls atomic.Int64
	half := make(chan struct{})
	s.fakeWorker("w1", func(ctx context.Context, it core.WorkItem) ([]byte, error) {
		if calls.Add(1) == n/2 {
			close(half)
		}
		select { // work takes its time, so that some is under way when it happens
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return it.Payload, nil
	})
	out := s.path("out.jsonl")
	wait := s.submitting(nil, "--input", s.input(numbered(n)...), "--output", out)
	<-half
	restart()
	if stderr, code := wait(); code != ExitOK || !strings.Contains(stderr, "300 ok") {
		t.Fatalf("status %d, %s", code, stderr)
	}
	s.allOnce(out, n)
	if c := calls.Load(); c > n+n/2 {
		t.Errorf("%d calls were made for %d items", c, n)
	}
}

// A coordinator that is killed while lines are being submitted gets them again, when
// they come from a file.
func TestACoordinatorKilledDuringTheUploadGetsTheLinesAgain(t *testing.T) {
	s, restart := newKillableSite(t)
	const n = 1000
	var calls atomic.Int64
	begun := make(chan struct{})
	s.fakeWorker("w1", func(_ context.Context, it core.WorkItem) ([]byte, error) {
		if calls.Add(1) == 1 {
			close(begun) // items are worked on while others are still being read
		}
		return it.Payload, nil
	})
	lines := make([]string, n)
	for i := range lines {
		lines[i] = fmt.Sprintf(`{"id":"item %d","text":"%s"}`, i, strings.Repeat("x", 8<<10))
	}
	in := s.input(lines...)
	wait := s.submitting(nil, "--input", in, "--output", s.path("out.jsonl"))
	<-begun
	restart()
	if stderr, code := wait(); code != ExitOK || !strings.Contains(stderr, "1000 ok") {
		t.Fatalf("status %d, %s", code, stderr)
	}
	s.allOnce(s.path("out.jsonl"), n)
}

// Lines from a pipe cannot be read again, which is said.
func TestACoordinatorKilledWhileAPipeIsReadIsSaid(t *testing.T) {
	s, restart := newKillableSite(t)
	begun := make(chan struct{}, 1)
	s.fakeWorker("w1", func(_ context.Context, it core.WorkItem) ([]byte, error) {
		select {
		case begun <- struct{}{}:
		default:
		}
		return it.Payload, nil
	})
	r, w := io.Pipe()
	wait := s.submitting(r, "--input", "-", "--output", s.path("out.jsonl"))
	pad := strings.Repeat("x", 64<<10)
	write := func(i int) error {
		_, err := fmt.Fprintf(w, "{\"id\":\"item %d\",\"text\":\"%s\"}\n", i, pad)
		return err
	}
	written := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(written)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if write(i) != nil {
				return // the reader is gone
			}
		}
	}()
	<-begun
	restart()
	stderr, code := wait()
	close(stop)
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	<-written
	if code == ExitOK || !strings.Contains(stderr, "cannot be read again") || !absent(s.path("out.jsonl")) {
		t.Errorf("status %d, %s", code, stderr)
	}
}
