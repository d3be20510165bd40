//go:build cgo && linux

package pyembed

import (
	"context"
	"encoding/json"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// short is a context whose deadline a hanging call is sure to pass.
func short(t testing.TB) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(t.Context(), 50*time.Millisecond)
}

// pipe returns both ends of a pipe; the reading one is for Python code.
func pipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		w.Close()
	})
	return r, w
}

func fdText(f *os.File) []byte { return []byte(strconv.Itoa(int(f.Fd()))) }

func TestDeadlineInterruptsPythonCode(t *testing.T) {
	i := start(t, spec(t, "habits", "habits"))
	for range 3 {
		ctx, cancel := short(t)
		if _, err := i.Call(ctx, "loop", nil); !core.IsCode(err, core.CodeDeadlineExceeded) {
			t.Errorf("endless loop: %v", err)
		}
		cancel()
		if got := mustCall(t, i, "echo", "next"); got != "next" {
			t.Errorf("call after it: %q", got)
		}
	}
}

func TestCancelInterruptsAndPoisonsNothing(t *testing.T) {
	i := start(t, spec(t, "habits", "habits"))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := i.Call(ctx, "loop", nil); !core.IsCode(err, core.CodeCanceled) {
		t.Errorf("cancelled loop: %v", err)
	}
	if got := mustCall(t, i, "echo", "next"); got != "next" {
		t.Errorf("call after it: %q", got)
	}
}

func TestStubbornCallPoisons(t *testing.T) {
	i := start(t, spec(t, "habits", "habits"))
	r, w := pipe(t)
	ctx, cancel := short(t)
	defer cancel()
	waiting := make(chan error, 1)
	if _, err := i.Call(ctx, "stubborn", fdText(r)); !core.IsCode(err, core.CodeDeadlineExceeded) {
		t.Errorf("stubborn call: %v", err)
	}
	go func() {
		_, err := i.Call(context.Background(), "echo", nil)
		waiting <- err
	}()
	select {
	case <-i.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the instance was not poisoned")
	}
	if err := <-waiting; !core.IsCode(err, core.CodePluginPoisoned) {
		t.Errorf("call that waited: %v", err)
	}
	if _, err := i.Call(t.Context(), "echo", nil); !core.IsCode(err, core.CodePluginPoisoned) || !core.IsCode(i.Exit(), core.CodePluginPoisoned) {
		t.Errorf("call after it: %v", err)
	}
	// Another instance of the same plugin works beside the stuck thread.
	if got := mustCall(t, start(t, spec(t, "habits", "habits")), "echo", "beside"); got != "beside" {
		t.Errorf("echo = %q", got)
	}
	w.Close() // one read for the exception, one for the end
	waitEnded(t, i)
}

func TestInterruptHitsNoOtherCall(t *testing.T) {
	i := start(t, spec(t, "habits", "habits"))
	for n := range rounds(t, 200) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			i.Call(ctx, "echo", []byte("maybe cancelled"))
		}()
		if n%2 == 0 {
			cancel()
		}
		if got := mustCall(t, i, "threads", "0"); got != "0" {
			t.Fatalf("round %d: %q", n, got)
		}
		cancel()
		<-done
		mustCall(t, i, "helper", "")
	}
}

func TestStartIsBounded(t *testing.T) {
	s := spec(t, "habits", "habits")
	s.Config = json.RawMessage(`{"hang":true}`)
	ctx, cancel := short(t)
	defer cancel()
	if _, err := interpreter(t).Start(ctx, s); !core.IsCode(err, core.CodeDeadlineExceeded) {
		t.Errorf("hanging init: %v", err)
	}
	mustCall(t, start(t, spec(t, "habits", "habits")), "echo", "after")
}

func TestStopIsBounded(t *testing.T) {
	i := start(t, spec(t, "habits", "habits"))
	r, w := pipe(t)
	begun := make(chan struct{})
	go func() {
		close(begun)
		i.Call(context.Background(), "wait", fdText(r))
	}()
	<-begun
	for i.running.Load() == 0 {
		select {
		case <-t.Context().Done():
		case <-time.After(time.Millisecond):
		}
	}
	ctx, cancel := short(t)
	defer cancel()
	if err := i.Stop(ctx); !core.IsCode(err, core.CodeDeadlineExceeded) {
		t.Errorf("stop beside a hanging call: %v", err)
	}
	<-i.Done()
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	waitEnded(t, i)
	i.stopErr = nil // told; the cleanup stops again
}
