package coordinator

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// TestR19RestartedCoordinator restarts with many persisted workers of which half
// are dead: nobody alive is declared failed, and every dead one is found within
// 2 H + 2 ms for each worker.
func TestR19RestartedCoordinator(t *testing.T) {
	n, h := 10_000, 5*time.Second
	if raceEnabled {
		n = 1000
	}
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		adjust := func(cfg *Config, _ *Coordinator) { cfg.Timing = core.DefaultTiming(h) }
		first := start(t, store, adjust)
		registerMany(t, first, n)
		if err := first.stop(); err != nil {
			t.Fatal(err)
		}
		opened := time.Now()
		second := start(t, store, adjust)
		synctest.Wait()
		if got := second.rec.of(core.TopicCoordinatorStarted); len(got) != 1 || got[0].Attrs["restored_workers"] != int64(n) {
			t.Fatalf("start: %+v", got)
		}
		var wg sync.WaitGroup
		window := 2*h + time.Duration(n)*2*time.Millisecond
		for i := range n / 2 { // these reconnect somewhere inside the window and live on
			wg.Go(func() {
				surviveRestart(t, second, i, time.Duration(rand.Int64N(int64(window-h))), opened.Add(window+3*h))
			})
		}
		wg.Wait()
		synctest.Wait()
		checkFailed(t, second, opened, n, window)
	})
}

func registerMany(t *testing.T, c *started, n int) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			_, err := c.Register(t.Context(), core.Registration{ID: workerID(i), ProtocolMin: 1, ProtocolMax: 1})
			if err != nil {
				t.Errorf("register %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

// surviveRestart returns after a while in the same epoch and beats until the end.
// It keeps no control stream but pretends to: what is tested is time.
func surviveRestart(t *testing.T, c *started, i int, after time.Duration, until time.Time) {
	<-time.After(after)
	ref := core.WorkerRef{ID: workerID(i), Epoch: 1}
	c.mu.Lock()
	c.workers[ref.ID].control = &subscription{over: make(chan struct{})}
	c.mu.Unlock()
	for seq := uint64(1); time.Now().Before(until); seq++ {
		if _, err := c.Beat(t.Context(), core.Heartbeat{Worker: ref, Seq: seq, State: core.StateInit}); err != nil {
			t.Errorf("beat of %d: %v", i, err)
			return
		}
		<-time.After(c.cfg.Timing.HeartbeatInterval)
	}
}

// checkFailed expects that the upper half of n workers failed, each once and in
// time, and nobody else.
func checkFailed(t *testing.T, c *started, opened time.Time, n int, window time.Duration) {
	t.Helper()
	failed := make(map[string]time.Duration)
	for _, ev := range c.rec.of(core.TopicWorkerFailed) {
		if ev.Time.Sub(opened) > window+3*c.cfg.Timing.HeartbeatInterval {
			continue // the living ones stop beating with the test
		}
		if _, twice := failed[ev.WorkerID]; twice {
			t.Errorf("%s failed twice", ev.WorkerID)
		}
		failed[ev.WorkerID] = ev.Time.Sub(opened)
	}
	for i := range n {
		d, ok := failed[workerID(i).String()]
		if dead := i >= n/2; dead != ok {
			t.Fatalf("worker %d: dead %v, failed %v", i, dead, ok)
		}
		if ok && d > window+c.cfg.Timing.HeartbeatInterval/16 {
			t.Fatalf("worker %d was found after %v, the window is %v", i, d, window)
		}
	}
}

// TestRestartKeepsTheBook: what was durable is there again, and a worker that beats
// on in its epoch is no event at all.
func TestRestartKeepsTheBook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		first := start(t, store)
		m, gone, failed := first.join(t, 1), first.join(t, 2), first.join(t, 3)
		m.become(t, core.StateReady)
		if err := first.Deregister(t.Context(), gone.ref, core.StateDone, ""); err != nil {
			t.Fatal(err)
		}
		stop := m.keepBeating(t)
		time.Sleep(4 * testH)
		stop()
		seen := time.Now().Add(-testH)
		if err := first.stop(); err != nil {
			t.Fatal(err)
		}
		second := start(t, store)
		rows, err := second.Workers(t.Context())
		if err != nil || len(rows) != 3 {
			t.Fatalf("%v %v", rows, err)
		}
		for i, want := range []core.Liveness{core.LivenessAlive, core.LivenessDeregistered, core.LivenessFailed} {
			if rows[i].Liveness != want {
				t.Errorf("worker %d is %s, want %s", i+1, rows[i].Liveness, want)
			}
		}
		if rows[0].BeatSeq != m.seq || rows[0].LastSeenAt.Before(seen) {
			t.Errorf("the last beat was not flushed: %+v, beats %d", rows[0], m.seq)
		}
		failed.c, m.c = second, second
		wantCode(t, failed.beat(t), core.CodeFenced)
		wantCode(t, m.beat(t), core.CodeFailedPrecondition) // its control stream went with the old process
		m.subscribe(t, 0)
		if err := m.beat(t); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if got := second.rec.story(m.id); got != "" {
			t.Errorf("a worker that lived through the restart gave %q", got)
		}
		if got := failed.register(t); got.Epoch != 2 {
			t.Errorf("epoch %d", got.Epoch)
		}
		synctest.Wait()
		if got := second.rec.story(failed.id); got != "recovered" {
			t.Errorf("a failed worker that returns to the next process gave %q", got)
		}
	})
}

func TestRunIDIsMadeOnce(t *testing.T) {
	store := newStore()
	want := core.NewRunID()
	first := start(t, store, func(cfg *Config, _ *Coordinator) { cfg.RunID = want })
	if first.RunID() != want {
		t.Error("the given run id was not taken")
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	if again := start(t, store); again.RunID() != want {
		t.Error("the run id changed with a restart")
	}
	_, err := New(Config{Storage: store, RunID: core.NewRunID()})
	wantCode(t, err, core.CodeConfigInvalid)
}

// shiftedWall gives a coordinator a wall clock that is off by what shift was last
// called with.
func shiftedWall() (shift func(time.Duration), adjust func(*Config, *Coordinator)) {
	var off atomic.Int64
	return func(d time.Duration) { off.Store(int64(d)) }, func(_ *Config, c *Coordinator) {
		if c != nil {
			c.wall = func() time.Time { return time.Now().Round(0).Add(time.Duration(off.Load())) }
		}
	}
}

// TestR20ClockJumps moves both wall clocks about while a worker beats.
func TestR20ClockJumps(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for _, jump := range []time.Duration{time.Hour, -time.Hour, 10 * year, -10 * year} {
		t.Run(fmt.Sprint(jump), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				jumpTo, adjust := shiftedWall()
				c := start(t, newStore(), adjust)
				m, dead := c.join(t, 1), c.join(t, 2)
				stop := m.keepBeating(t)
				time.Sleep(testH)
				jumpTo(jump) // our clock jumps: no lease is stretched, nobody dies
				time.Sleep(testH)
				synctest.Wait()
				failed := c.rec.of(core.TopicWorkerFailed)
				if len(failed) != 1 || failed[0].WorkerID != dead.id.String() {
					t.Errorf("one is dead since 2 H, failed: %+v", failed)
				}
				time.Sleep(20 * testH)
				stop()
				synctest.Wait()
				if got := c.rec.story(m.id); got != "registered clock_skew" {
					t.Errorf("a living worker beside a jumping clock: %q", got)
				}
			})
		})
	}
}

func TestSkewIsReportedOnceAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newStore())
		for i := range 30 {
			m := c.join(t, i)
			for range 10 {
				m.seq++
				if _, err := c.Beat(t.Context(), core.Heartbeat{Worker: m.ref, Seq: m.seq, SentAt: time.Now().Add(time.Hour), State: core.StateInit}); err != nil {
					t.Fatal(err)
				}
			}
		}
		synctest.Wait()
		got := c.rec.of(core.TopicClockSkew)
		if len(got) != skewBurst || got[0].Attrs["skew_ms"] != int64(3_600_000) || got[0].Attrs["budget_ms"] != (testH/8).Milliseconds() {
			t.Errorf("%d reports, first %+v", len(got), got[0])
		}
	})
}
