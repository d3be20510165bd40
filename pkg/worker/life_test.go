package worker

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// recorder is an executor that writes down its hooks.
type recorder struct {
	idle
	mu    sync.Mutex // guards calls
	calls []string

	initErr error
	drain   func(ctx context.Context) error
	stuck   chan struct{} // Init waits for it, whatever its context says
	plugins []core.LoadedPlugin
}

func (r *recorder) note(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, s)
}

func (r *recorder) noted() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.calls, " ")
}

func (r *recorder) Init(_ context.Context, info core.WorkerInfo) error {
	r.note("init")
	if r.stuck != nil {
		<-r.stuck
	}
	return r.initErr
}
func (r *recorder) Ready(context.Context) error { r.note("ready"); return nil }
func (r *recorder) Fence(string)                { r.note("fence") }
func (r *recorder) Drain(ctx context.Context) error {
	r.note("drain")
	if r.drain != nil {
		return r.drain(ctx)
	}
	return nil
}
func (r *recorder) Shutdown(context.Context) error { r.note("shutdown"); return nil }

func (r *recorder) LoadedPlugins() []core.LoadedPlugin { return r.plugins }

func (f *fakeCoordinator) lastState() core.WorkerState {
	if len(f.beats) == 0 {
		return ""
	}
	return f.beats[len(f.beats)-1].State
}

func (f *fakeCoordinator) isReady() bool { return f.lastState() == core.StateReady }

func TestALifeFromStartToDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, x := newFake(), &recorder{}
		r := start(t, f, func(c *Config) { c.Executor = x })
		f.until(f.isReady)
		time.Sleep(10 * testH)
		if err := r.leaveNow(); err != nil {
			t.Fatal(err)
		}
		if got := x.noted(); got != "init ready drain shutdown shutdown" {
			t.Errorf("hooks ran as %q", got)
		}
		if !slices.Equal(f.deregister, []core.WorkerState{core.StateDone}) || len(f.registered) != 1 || !f.declared.IsZero() {
			t.Errorf("deregistered %v, registered %d times, failed at %v", f.deregister, len(f.registered), f.declared)
		}
		if n := len(f.beats); n < 10 || n > 16 {
			t.Errorf("%d beats in 10 intervals", n)
		}
		var seq uint64
		for _, h := range f.beats {
			if seq++; h.Seq != seq {
				t.Fatalf("beat %d has number %d", seq, h.Seq)
			}
		}
		rec, err := openRecord(t.Context(), r.cfg.Store, core.WorkerID{})
		if err != nil || rec.State != core.StateDone || rec.Epoch != 1 || rec.CoordinatorEpoch != 7 {
			t.Errorf("the store keeps %+v, %v", rec, err)
		}
	})
}

func TestTheIdentityOfTheFirstStartStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := prepare(t, newFake(), nil)
		again, err := openRecord(t.Context(), r.cfg.Store, r.rec.ID)
		if err != nil || again.ID != r.rec.ID {
			t.Fatalf("the second start has %+v, %v", again, err)
		}
		_, err = openRecord(t.Context(), r.cfg.Store, core.NewWorkerID())
		if !core.IsCode(err, core.CodeInvalidArgument) || !strings.Contains(err.Error(), r.rec.ID.String()) {
			t.Errorf("another id is answered with %v", err)
		}
	})
}

func TestItWaitsForTheCoordinatorAndSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.dialErr = core.Errorf("dial", core.CodeUnavailable, "ca.pem is not there yet")
		r := start(t, f, nil)
		time.Sleep(time.Hour)
		f.set(func() { f.dialErr = nil })
		f.until(f.isReady)
		if err := r.leaveNow(); err != nil {
			t.Error(err)
		}

		f.set(func() { f.dialErr = core.Errorf("dial", core.CodeUnavailable, "nobody listens") })
		r = start(t, f, nil)
		time.Sleep(testH)
		if err := r.leaveNow(); err != nil {
			t.Errorf("a worker that never got through answers %v", err)
		}
	})
}

func TestARefusalEndsIt(t *testing.T) {
	for _, code := range []core.Code{core.CodeUnauthenticated, core.CodePermissionDenied, core.CodeVersionMismatch, core.CodeFenced, core.CodeConfigInvalid} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			f.dialErr = core.Errorf("dial", code, "no")
			if err := <-start(t, f, nil).done; !core.IsCode(err, code) {
				t.Errorf("%v ends it with %v", code, err)
			}
		})
	}
}

func TestASilentNetworkFencesAndANewEpochFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, x := newFake(), &recorder{}
		r := start(t, f, func(c *Config) { c.Executor = x })
		f.until(f.isReady)
		time.Sleep(3 * testH)
		f.set(func() { f.upCut, f.downCut = true, true })
		time.Sleep(5 * testH)
		fenced := r.events.topic(core.TopicWorkerFenced)
		if len(fenced) != 1 {
			t.Fatalf("worker_fenced was printed %d times", len(fenced))
		}
		f.mu.Lock()
		due := f.lastReceipt.Add(f.timing.Failure)
		f.mu.Unlock()
		if margin := due.Sub(fenced[0].Time); margin < testH/20 {
			t.Errorf("fenced %v before the coordinator may act", margin)
		}
		if fenced[0].Attrs["last_ack_at"] == nil || fenced[0].WorkerID != r.rec.ID.String() {
			t.Errorf("the event is %+v", fenced[0])
		}
		f.set(func() { f.upCut, f.downCut = false, false })
		f.until(func() bool { return f.worker == 2 && f.isReady() })
		if err := r.leaveNow(); err != nil {
			t.Error(err)
		}
		if got := x.noted(); got != "init ready fence init ready drain shutdown shutdown" {
			t.Errorf("hooks ran as %q", got)
		}
		if f.registered[1].PrevEpoch != 1 || f.registered[1].RestartReason != "fenced" {
			t.Errorf("the second registration says %+v", f.registered[1])
		}
	})
}

func TestALostBeatCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		r := start(t, f, nil)
		f.until(f.isReady)
		for range 50 {
			time.Sleep(testH - 10*time.Millisecond)
			f.set(func() { f.beatErr = core.Errorf("fake", core.CodeThrottled, "busy") })
			time.Sleep(testH / 5)
			f.set(func() { f.beatErr = nil })
		}
		if err := r.leaveNow(); err != nil {
			t.Error(err)
		}
		if len(f.registered) != 1 || len(r.events.topic(core.TopicWorkerFenced)) != 0 {
			t.Errorf("registered %d times", len(f.registered))
		}
	})
}

// A machine that slept, or a process that was stopped, has its lease run out without
// any timer having fired. The next thing it does must be to fence.
func TestAMachineThatSleptFencesBeforeItActs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		r := start(t, f, nil)
		f.until(f.isReady)
		time.Sleep(testH / 2)
		f.mu.Lock()
		before := len(f.beats)
		f.mu.Unlock()
		r.jump(time.Minute)
		f.until(func() bool { return f.worker == 2 && f.isReady() })
		if err := r.leaveNow(); err != nil {
			t.Error(err)
		}
		for _, h := range f.beats[before:] {
			if h.Worker.Epoch == 1 {
				t.Errorf("beat %d of the old epoch was sent after the sleep", h.Seq)
			}
		}
	})
}

func TestAnotherProcessWithTheSameIdentityEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, x := newFake(), &recorder{}
		r := start(t, f, func(c *Config) { c.Executor = x })
		f.until(f.isReady)
		time.Sleep(2 * testH)
		f.set(func() { f.worker++ })
		err := <-r.done
		if !core.IsCode(err, core.CodeFenced) || !strings.Contains(err.Error(), "another process") {
			t.Errorf("Run answers %v", err)
		}
		if !strings.HasSuffix(x.noted(), "shutdown") {
			t.Errorf("hooks ran as %q", x.noted())
		}
	})
}

// After a restart the coordinator may have declared the worker failed by rules of
// its own: that is no other process.
func TestARestartedCoordinatorThatEndsTheEpochIsJoinedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		r := start(t, f, nil)
		f.until(f.isReady)
		time.Sleep(2 * testH)
		f.set(func() { f.worker++; f.epoch++ })
		f.until(func() bool { return f.worker == 3 && f.isReady() })
		if err := r.leaveNow(); err != nil {
			t.Error(err)
		}
	})
}

func TestARestartedCoordinatorKeepsTheEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.needControl = true
		r := start(t, f, nil)
		f.until(f.isReady)
		time.Sleep(2 * testH)
		// The new process knows no streams, and says so.
		f.set(func() { f.epoch++; f.subscribed = nil })
		f.until(func() bool { return f.subscribed != nil })
		time.Sleep(3 * testH)
		if err := r.leaveNow(); err != nil {
			t.Error(err)
		}
		if len(f.registered) != 1 || len(r.events.topic(core.TopicWorkerFenced)) != 0 {
			t.Errorf("registered %d times", len(f.registered))
		}
	})
}

func TestInitThatFailsIsToldToTheCoordinator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, x := newFake(), &recorder{initErr: core.Errorf("load", core.CodePluginCrashed, "no such plugin")}
		err := <-start(t, f, func(c *Config) { c.Executor = x }).done
		if !core.IsCode(err, core.CodePluginCrashed) || !slices.Equal(f.deregister, []core.WorkerState{core.StateFailed}) {
			t.Errorf("Run answers %v, deregistered %v", err, f.deregister)
		}
	})
}

func TestAHookThatNeverReturnsIsAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, x := newFake(), &recorder{stuck: make(chan struct{})}
		r := start(t, f, func(c *Config) { c.Executor, c.InitTimeout = x, time.Minute })
		time.Sleep(30 * time.Second)
		f.mu.Lock()
		if n := len(f.beats); n < 29 {
			t.Errorf("%d beats while Init hangs for 30 intervals", n)
		}
		f.mu.Unlock()
		if err := <-r.done; !core.IsCode(err, core.CodeDeadlineExceeded) {
			t.Errorf("Run answers %v", err)
		}
		close(x.stuck)
	})
}

func TestBeatsGoOnWhileItDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		x := &recorder{drain: func(ctx context.Context) error { return sleep(ctx, time.Hour) }}
		r := start(t, f, func(c *Config) { c.Executor = x })
		f.until(f.isReady)
		began := time.Now()
		if err := r.leaveNow(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 30*time.Second || took > 32*time.Second {
			t.Errorf("the drain took %v", took)
		}
		if !f.declared.IsZero() || len(f.deregister) != 1 || f.lastState() != core.StateDraining {
			t.Errorf("failed at %v, deregistered %v, last state %v", f.declared, f.deregister, f.lastState())
		}
	})
}

// The coordinator ends the streams of an epoch that was deregistered, perhaps before
// its answer arrives. That is no takeover.
func TestTheEndOfItsOwnEpochIsNoTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		r := start(t, f, nil)
		f.until(f.isReady)
		time.Sleep(3 * testH / 2)
		f.set(func() { f.downDelay = func() time.Duration { return testH / 5 } })
		if err := r.leaveNow(); err != nil {
			t.Errorf("Run answers %v", err)
		}
	})
}

func TestLeavingDoesNotWaitLongForALostCoordinator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		r := start(t, f, nil)
		f.until(f.isReady)
		f.set(func() { f.upCut = true })
		time.Sleep(5 * testH)
		began := time.Now()
		if err := r.leaveNow(); err != nil {
			t.Errorf("Run answers %v", err)
		}
		if took := time.Since(began); took > 2*leaveGrace {
			t.Errorf("leaving took %v", took)
		}
	})
}

func TestStopNowDoesNotDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, x := newFake(), &recorder{drain: func(ctx context.Context) error { return sleep(ctx, time.Hour) }}
		now := make(chan struct{})
		r := start(t, f, func(c *Config) { c.Executor, c.StopNow = x, now })
		f.until(f.isReady)
		r.stop()
		f.until(func() bool { return f.lastState() == core.StateDraining })
		close(now)
		if err := <-r.done; !errors.Is(err, errStopNow) || len(f.deregister) != 0 {
			t.Errorf("Run answers %v, deregistered %v", err, f.deregister)
		}
	})
}

func TestPluginsAreToldUntilTheyAreKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		x := &recorder{plugins: []core.LoadedPlugin{{Name: "p", Version: "1"}}}
		r := start(t, f, func(c *Config) { c.Executor = x })
		f.until(f.isReady)
		time.Sleep(3 * testH)
		if err := r.leaveNow(); err != nil {
			t.Error(err)
		}
		if f.beats[0].Plugins == nil || f.beats[len(f.beats)-2].Plugins != nil {
			t.Errorf("first beat %+v, last %+v", f.beats[0], f.beats[len(f.beats)-1])
		}
	})
}

func TestConfigNamesEveryViolation(t *testing.T) {
	err := Run(t.Context(), Config{Slots: -1, DrainTimeout: -1, Protocol: "tcp"})
	if !core.IsCode(err, core.CodeConfigInvalid) || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("Run answers %v", err)
	}
}
