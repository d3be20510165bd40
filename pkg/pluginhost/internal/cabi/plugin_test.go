package cabi

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// fakeCode is code whose calls last until they are let go.
type fakeCode struct {
	mu      sync.Mutex
	running int  // guarded by mu
	most    int  // guarded by mu: the most calls at once
	down    bool // guarded by mu

	initErr error
	hold    chan struct{} // when not nil, "hold" waits for it
	batch   bool
}

func (f *fakeCode) Init([]byte) error { return f.initErr }
func (f *fakeCode) Preflight() error  { return nil }
func (f *fakeCode) HasBatch() bool    { return f.batch }

func (f *fakeCode) Call(method string, payload []byte) ([]byte, error) {
	f.mu.Lock()
	f.running++
	f.most = max(f.most, f.running)
	f.mu.Unlock()
	switch method {
	case "hold":
		<-f.hold
	case "sleep":
		time.Sleep(time.Second) // synctest
	case "fail":
		return nil, failure(1, 0, retry{}, "as asked")
	}
	f.mu.Lock()
	f.running--
	f.mu.Unlock()
	return append([]byte(nil), payload...), nil
}

func (f *fakeCode) CallBatch(method string, payloads [][]byte) ([]core.CallResult, error) {
	results := make([]core.CallResult, len(payloads))
	for i, p := range payloads {
		results[i].Result, results[i].Err = f.Call(method, p)
	}
	return results, nil
}

func (f *fakeCode) Shutdown() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = true
}

func start(t *testing.T, f *fakeCode, parallel int) *Plugin {
	t.Helper()
	p, err := Start(t.Context(), f, []byte("{}"), parallel)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCallsAreSerialised(t *testing.T) {
	for _, parallel := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			f := &fakeCode{}
			p := start(t, f, parallel)
			var calls sync.WaitGroup
			for i := range 9 {
				ctx, cancel := context.WithCancel(t.Context())
				if i%2 == 0 {
					ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
				}
				calls.Go(func() {
					defer cancel()
					if _, err := p.Call(ctx, "sleep", nil); err != nil {
						t.Error(err)
					}
				})
			}
			calls.Wait()
			if f.most != parallel {
				t.Errorf("%d calls at once, want %d", f.most, parallel)
			}
		})
	}
}

func TestDeadlinePoisons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeCode{hold: make(chan struct{})}
		p := start(t, f, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()

		waiting := make(chan error, 1)
		begin := time.Now()
		go func() {
			time.Sleep(time.Millisecond)
			_, err := p.Call(t.Context(), "echo", nil)
			waiting <- err
		}()
		payload := []byte("mine")
		if _, err := p.Call(ctx, "hold", payload); !core.IsCode(err, core.CodeDeadlineExceeded) {
			t.Errorf("hanging call: %v", err)
		}
		clear(payload)
		if d := time.Since(begin); d != time.Second {
			t.Errorf("returned after %v", d)
		}
		if err := <-waiting; !core.IsCode(err, core.CodePluginPoisoned) {
			t.Errorf("call that waited: %v", err)
		}
		close(f.hold)
		synctest.Wait()
		if _, err := p.Call(t.Context(), "echo", nil); !core.IsCode(err, core.CodePluginPoisoned) {
			t.Errorf("call after the stuck one returned: %v", err)
		}
		if err := p.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestCancelDoesNotPoison(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeCode{}
		p := start(t, f, 1)
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("own cause"))
		time.AfterFunc(time.Millisecond, cancel)
		if _, err := p.Call(ctx, "sleep", nil); !core.IsCode(err, core.CodeCanceled) {
			t.Errorf("cancelled call: %v", err)
		}
		if _, err := p.Call(t.Context(), "echo", nil); err != nil {
			t.Errorf("next call: %v", err)
		}
		time.Sleep(2 * time.Minute)
		if _, err := p.Call(t.Context(), "echo", nil); err != nil {
			t.Errorf("call after the cancelled one's deadline: %v", err)
		}
	})
}

func TestCancelledCallPoisonsAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeCode{hold: make(chan struct{})}
		p := start(t, f, 2)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		time.AfterFunc(time.Second, cancel)
		if _, err := p.Call(ctx, "hold", nil); !core.IsCode(err, core.CodeCanceled) {
			t.Errorf("cancelled call: %v", err)
		}
		if _, err := p.Call(t.Context(), "echo", nil); err != nil {
			t.Errorf("call beside it: %v", err)
		}
		time.Sleep(time.Minute)
		if _, err := p.Call(t.Context(), "echo", nil); !core.IsCode(err, core.CodePluginPoisoned) {
			t.Errorf("call after its deadline: %v", err)
		}
		close(f.hold)
		synctest.Wait()
	})
}

func TestStopWaitsForCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeCode{}
		p := start(t, f, 2)
		var calls sync.WaitGroup
		calls.Go(func() {
			if _, err := p.Call(t.Context(), "sleep", nil); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		for range 2 {
			if err := p.Stop(t.Context()); err != nil || !f.down {
				t.Errorf("stop: %v, shut down %v", err, f.down)
			}
		}
		calls.Wait()
		if _, err := p.Call(t.Context(), "echo", nil); !core.IsCode(err, core.CodeClosed) {
			t.Errorf("call after stop: %v", err)
		}
	})
}

func TestStopGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeCode{hold: make(chan struct{})}
		p := start(t, f, 1)
		go p.Call(t.Context(), "hold", nil)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Stop(ctx); err == nil || f.down {
			t.Errorf("stop beside a running call: %v, shut down %v", err, f.down)
		}
		close(f.hold)
		synctest.Wait()
	})
}

func TestBatchWithoutCallBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, &fakeCode{}, 1)
		results, err := p.CallBatch(t.Context(), "fail", [][]byte{{1}, {2}})
		if err != nil || len(results) != 2 || !core.IsCode(results[1].Err, core.CodePluginError) {
			t.Errorf("failing items: %v, %v", results, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		results, err = p.CallBatch(ctx, "sleep", [][]byte{{1}, {2}, {3}})
		if err != nil || results[0].Err != nil || !core.IsCode(results[1].Err, core.CodeDeadlineExceeded) || results[2].Err == nil {
			t.Errorf("late items: %v, %v", results, err)
		}
		if results, err = p.CallBatch(t.Context(), "echo", [][]byte{{1}}); results != nil || !core.IsCode(err, core.CodePluginPoisoned) {
			t.Errorf("batch to a poisoned plugin: %v, %v", results, err)
		}
		time.Sleep(time.Second)
	})
}

func TestBatchIsSplitByBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, &fakeCode{batch: true}, 1)
		big := make([]byte, core.MaxCallPayload)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		results, err := p.CallBatch(ctx, "echo", [][]byte{{1}, big, big, nil, {2}})
		if err != nil || len(results) != 5 || len(results[2].Result) != len(big) || string(results[4].Result) != "\x02" {
			t.Errorf("%d results, %v", len(results), err)
		}
	})
}

func TestFailedStart(t *testing.T) {
	f := &fakeCode{initErr: failure(1, uint32(core.CodeConfigInvalid), retry{}, "bad config")}
	if _, err := Start(t.Context(), f, nil, 1); !core.IsCode(err, core.CodePluginError) {
		t.Errorf("failed init: %v", err)
	}
}

func TestRetryAdviceIsBounded(t *testing.T) {
	err := failure(1, 70000, retry{kind: retryBackoff, ms: 1 << 63, max: 3}, "x\xff")
	want := core.RetryHint{Kind: core.RetryBackoff, Base: retryMax, Max: retryMax}
	if got := core.RetryOf(err); got != want {
		t.Errorf("retry = %v, want %v", got, want)
	}
	if got := core.RetryOf(failure(1, 0, retry{kind: retryNow}, "")); got.Kind != core.RetryNow {
		t.Errorf("retry = %v, want now", got)
	}
	if got := core.RetryOf(failure(1, 0, retry{kind: 77}, "")); got.Kind != core.RetryNever {
		t.Errorf("retry of an unknown kind = %v, want never", got)
	}
}
