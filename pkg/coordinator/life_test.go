package coordinator

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func TestLifeOfAWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		c := start(t, store)
		m := c.join(t, 1)
		for _, s := range []core.WorkerState{core.StateReady, core.StateRunning, core.StateReady, core.StateDraining} {
			m.become(t, s)
		}
		if err := c.Deregister(t.Context(), m.ref, core.StateDone, "drained"); err != nil {
			t.Fatal(err)
		}
		if err := c.Deregister(t.Context(), m.ref, core.StateDone, "again"); err != nil {
			t.Errorf("repeating is no error: %v", err)
		}
		wantCode(t, m.beat(t), core.CodeFenced)
		time.Sleep(10 * testH) // a worker that left is not watched
		if err := c.stop(); err != nil {
			t.Fatal(err)
		}
		want := "registered state state state state deregistered"
		if got := c.rec.story(m.id); got != want {
			t.Errorf("events %q, want %q", got, want)
		}
		life := c.rec.of(core.TopicCoordinatorStarted, core.TopicCoordinatorStopped)
		if len(life) != 2 || life[0].Attrs["epoch"] == nil || life[0].Attrs["restored_workers"] == nil || life[1].Topic != core.TopicCoordinatorStopped {
			t.Errorf("start and stop: %+v", life)
		}
	})
}

// TestReturnsHaveOneEvent pins which event each kind of return gives.
func TestReturnsHaveOneEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newStore())
		m := c.join(t, 1) // registered: first seen
		m.become(t, core.StateReady)
		c.Disconnected(m.ref, "reset")    // suspect
		if err := m.beat(t); err != nil { // recovered, same epoch
			t.Fatal(err)
		}
		m.register(t)                                                                // recovered: a new epoch while alive
		time.Sleep(3 * testH)                                                        // suspect, failed
		m.register(t)                                                                // recovered
		if err := c.Deregister(t.Context(), m.ref, core.StateDone, ""); err != nil { // deregistered
			t.Fatal(err)
		}
		m.register(t) // registered: back after deregistration
		c.Disconnected(m.ref, "reset")
		m.register(t) // recovered: a new epoch of a suspect, one event
		synctest.Wait()
		want := "registered state suspect recovered recovered suspect failed recovered deregistered registered suspect recovered"
		if got := c.rec.story(m.id); got != want {
			t.Errorf("events\n%q, want\n%q", got, want)
		}
		if m.ref.Epoch != 5 {
			t.Errorf("five registrations gave epoch %d", m.ref.Epoch)
		}
	})
}

func TestDetectionWithinTwoIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newStore())
		alive, dead := c.join(t, 1), c.join(t, 2)
		stopAlive, stopDead := alive.keepBeating(t), dead.keepBeating(t)
		time.Sleep(10*testH + testH/3)
		stopDead()
		died := time.Now()
		time.Sleep(2 * testH)
		synctest.Wait()
		failed := c.rec.of(core.TopicWorkerFailed)
		if len(failed) != 1 || failed[0].WorkerID != dead.id.String() {
			t.Fatalf("want one worker_failed for %s, got %+v", dead.id, failed)
		}
		ev := failed[0]
		if d := ev.Time.Sub(died); d > 2*testH || d <= 0 {
			t.Errorf("found after %v", d)
		}
		for _, key := range []string{"due_at", "last_seen_at", "silent_ms", "requeued", "epoch"} {
			if _, ok := ev.Attrs[key]; !ok {
				t.Errorf("worker_failed lacks %s: %v", key, ev.Attrs)
			}
		}
		if ev.Level != core.LevelWarn {
			t.Errorf("level %s", ev.Level)
		}
		wantCode(t, dead.beat(t), core.CodeFenced)
		<-dead.ended
		wantCode(t, *dead.end, core.CodeFenced) // its control stream ends too
		stopAlive()
	})
}

func TestDrainingWorkerIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newStore())
		m := c.join(t, 1)
		m.become(t, core.StateDraining)
		time.Sleep(2 * testH)
		synctest.Wait()
		if got := c.rec.story(m.id); got != "registered state suspect failed" {
			t.Errorf("a draining worker that dies: %q", got)
		}
	})
}

func TestBeatChecksStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newStore())
		m := c.join(t, 1)
		if err := m.beat(t); err != nil {
			t.Fatal(err)
		}
		m.cancel()
		<-m.ended
		time.Sleep(testH * 3 / 4) // a new registration may beat before its stream is handled; this one is not new
		wantCode(t, m.beat(t), core.CodeFailedPrecondition)
		m.subscribe(t, 0)
		if err := m.beat(t); err != nil {
			t.Errorf("after the stream is open again: %v", err)
		}
		beat := core.Heartbeat{Worker: m.ref, Seq: 9, State: core.StateInit, WorkOpen: true}
		_, err := c.Beat(t.Context(), beat)
		wantCode(t, err, core.CodeFailedPrecondition)
		release, err := c.openWork(m.ref)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Beat(t.Context(), beat); err != nil {
			t.Errorf("with the work stream open: %v", err)
		}
		release()
		release()
		_, err = c.Beat(t.Context(), beat)
		wantCode(t, err, core.CodeFailedPrecondition)
	})
}

// TestRefusedBeatRenewsNothing: a worker whose streams never open is not alive.
func TestRefusedBeatRenewsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newStore())
		m := c.join(t, 1)
		m.cancel()
		<-m.ended
		for range 8 {
			time.Sleep(testH / 2)
			if err := m.beat(t); err == nil {
				t.Fatal("a beat without a control stream was accepted")
			}
		}
		synctest.Wait()
		if n := len(c.rec.of(core.TopicWorkerFailed)); n != 1 {
			t.Errorf("%d worker_failed", n)
		}
	})
}

func TestBadBeatsAndRegistrations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newStore())
		m := c.join(t, 1)
		for name, h := range map[string]core.Heartbeat{
			"no number":     {Worker: m.ref, State: core.StateReady},
			"no state":      {Worker: m.ref, Seq: 1},
			"a wrong state": {Worker: m.ref, Seq: 1, State: "dancing"},
			"busy slots":    {Worker: m.ref, Seq: 1, State: core.StateReady, SlotsBusy: -1},
			"plugins":       {Worker: m.ref, Seq: 1, State: core.StateReady, Plugins: make([]core.LoadedPlugin, maxPlugins+1)},
		} {
			if _, err := c.Beat(t.Context(), h); !core.IsCode(err, core.CodeInvalidArgument) {
				t.Errorf("%s: %v", name, err)
			}
		}
		m.become(t, core.StateDraining)
		m.state = core.StateReady
		wantCode(t, m.beat(t), core.CodeInvalidArgument) // there is no way back from draining

		good := core.Registration{ID: workerID(2), ProtocolMin: 1, ProtocolMax: 1}
		for name, change := range map[string]func(*core.Registration){
			"no id":          func(r *core.Registration) { r.ID = core.WorkerID{} },
			"mad epoch":      func(r *core.Registration) { r.PrevEpoch = 1 << 63 },
			"empty range":    func(r *core.Registration) { r.ProtocolMin = 2 },
			"slots":          func(r *core.Registration) { r.Slots = -1 },
			"a long version": func(r *core.Registration) { r.Version = string(make([]byte, maxText+1)) },
		} {
			r := good
			change(&r)
			if _, err := c.Register(t.Context(), r); !core.IsCode(err, core.CodeInvalidArgument) {
				t.Errorf("%s: %v", name, err)
			}
		}
		r := good
		r.ProtocolMin, r.ProtocolMax = 7, 9
		_, err := c.Register(t.Context(), r)
		wantCode(t, err, core.CodeVersionMismatch)
		wantCode(t, c.Deregister(t.Context(), m.ref, core.StateReady, ""), core.CodeInvalidArgument)
	})
}

func TestPluginsAndBeatsShowInWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newStore())
		m := c.join(t, 1)
		_, err := c.Beat(t.Context(), core.Heartbeat{
			Worker: m.ref, Seq: 3, State: core.StateReady, SlotsBusy: 1,
			Plugins: []core.LoadedPlugin{{Name: "p", Version: "1", Digest: "ab", Mode: "so"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		c.join(t, 2)
		rows, err := c.Workers(t.Context())
		if err != nil || len(rows) != 2 {
			t.Fatalf("%v, %v", rows, err)
		}
		r := rows[0]
		if r.ID != m.id || r.State != core.StateReady || r.BeatSeq != 3 || r.SlotsBusy != 1 || len(r.Plugins) != 1 || r.Liveness != core.LivenessAlive || r.Epoch != 1 || r.Version != "test" {
			t.Errorf("row %+v", r)
		}
		s, err := c.Status(t.Context())
		if err != nil || s.Workers[core.LivenessAlive] != 2 || s.Run != c.RunID() || s.Epoch != c.Epoch() || s.Revision == 0 {
			t.Errorf("status %+v, %v", s, err)
		}
	})
}

func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		c := start(t, store)
		m := c.join(t, 1)
		wantCode(t, c.ForgetWorker(t.Context(), workerID(9)), core.CodeNotFound)
		wantCode(t, c.ForgetWorker(t.Context(), m.id), core.CodeFailedPrecondition)
		time.Sleep(2 * testH)
		if err := c.ForgetWorker(t.Context(), m.id); err != nil {
			t.Fatal(err)
		}
		wantCode(t, m.beat(t), core.CodeFenced)
		if rows, err := c.Workers(t.Context()); err != nil || len(rows) != 0 {
			t.Errorf("rows %v, %v", rows, err)
		}
		if got := m.register(t); got.Epoch != 2 {
			t.Errorf("a forgotten worker that remembers epoch 1 got %d", got.Epoch)
		}
		synctest.Wait()
		if got := c.rec.story(m.id); got != "registered suspect failed registered" {
			t.Errorf("events %q", got)
		}
	})
}

// TestManyBeatsAtOnce sends 1,500 beats at the same instant, twice, and then finds
// a worker that has died.
func TestManyBeatsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, h = 1500, 5 * time.Second
		c := start(t, newStore(), func(cfg *Config, _ *Coordinator) { cfg.Timing = core.DefaultTiming(h) })
		members := make([]*member, n)
		for i := range members {
			members[i] = c.join(t, i)
		}
		for range 2 {
			answers := make(chan error, n)
			for _, m := range members {
				go func() { answers <- m.beat(t) }()
			}
			for range n {
				if err := <-answers; err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(h)
		}
		for _, m := range members[1:] {
			if err := m.beat(t); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(h)
		synctest.Wait()
		failed := c.rec.of(core.TopicWorkerFailed)
		if len(failed) != 1 || failed[0].WorkerID != members[0].id.String() {
			t.Errorf("%d failed: %+v", len(failed), failed)
		}
	})
}

func TestHeartbeatEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newStore(), func(cfg *Config, _ *Coordinator) { cfg.HeartbeatEvents = true })
		m := c.join(t, 1)
		if err := m.beat(t); err != nil {
			t.Fatal(err)
		}
		evs := c.rec.of(core.TopicWorkerHeartbeat)
		if len(evs) != 1 || evs[0].Kind != core.EventMetric || evs[0].Level != core.LevelDebug || evs[0].Attrs["seq"] != uint64(1) {
			t.Errorf("%+v", evs)
		}
		if slices.ContainsFunc(c.rec.of(core.TopicWorkerHeartbeat), func(ev core.Event) bool { return ev.Kind == core.EventDomain }) {
			t.Error("a heartbeat is no domain event")
		}
	})
}
