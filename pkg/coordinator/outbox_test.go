package coordinator

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func eventsAfter(t *testing.T, c *started, after uint64) (out []core.StoredEvent, err error) {
	t.Helper()
	err = c.Events(t.Context(), after, false, func(e core.StoredEvent) error {
		out = append(out, e)
		return nil
	})
	return out, err
}

// TestEventsWaitWhileTheSinkIsStuck: nothing else waits for them, operators see
// them, and the next process prints them, marked.
func TestEventsWaitWhileTheSinkIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, stuck := newStore(), &recorder{stuck: true}
		c := start(t, store, func(cfg *Config, _ *Coordinator) { cfg.Emitter = stuck })
		m := c.join(t, 1)
		m.become(t, core.StateReady)
		evs, err := eventsAfter(t, c, 0)
		if err != nil || len(evs) != 3 || evs[1].Seq != 2 || evs[1].Event.Topic != core.TopicWorkerRegistered {
			t.Fatalf("%+v %v", evs, err)
		}
		if err := c.stop(); err != nil {
			t.Fatal(err)
		}
		c = start(t, store)
		synctest.Wait()
		registered, started := c.rec.of(core.TopicWorkerRegistered), c.rec.of(core.TopicCoordinatorStarted)
		if len(registered) != 1 || !registered[0].Replayed {
			t.Errorf("not replayed: %+v", registered)
		}
		if len(started) != 2 || !started[0].Replayed || started[1].Replayed {
			t.Errorf("the first start is replayed, the second is new: %+v", started)
		}
		if registered[0].Attrs["epoch"] != int64(1) {
			t.Errorf("numbers must come back whole: %#v", registered[0].Attrs["epoch"])
		}
		if err := c.stop(); err != nil {
			t.Fatal(err)
		}
		c = start(t, store) // everything is known as printed now
		synctest.Wait()
		if got := c.rec.of(core.TopicWorkerRegistered, core.TopicCoordinatorStopped); len(got) != 0 {
			t.Errorf("printed twice without need: %+v", got)
		}
	})
}

// TestBrokenSinkEndsPrintingOnly: after a closed pipe the record goes on.
func TestBrokenSinkEndsPrintingOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{broken: core.Errorf("emit", core.CodeBroken, "nobody reads")}
		c := start(t, newStore(), func(cfg *Config, _ *Coordinator) { cfg.Emitter = rec })
		c.join(t, 1)
		time.Sleep(2 * testH)
		synctest.Wait()
		evs, err := eventsAfter(t, c, 0)
		if err != nil || len(evs) != 4 || evs[3].Event.Topic != core.TopicWorkerFailed {
			t.Errorf("%+v %v", evs, err)
		}
		if v := c.outbox.look(); v.printed != 0 || !v.gone {
			t.Errorf("%+v", v)
		}
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestEventsFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newStore())
		var got []uint64
		ended := make(chan error, 1)
		enough := errors.New("enough")
		go func() {
			ended <- c.Events(t.Context(), 0, true, func(e core.StoredEvent) error {
				if got = append(got, e.Seq); len(got) == 600 {
					return enough
				}
				return nil
			})
		}()
		for range 700 {
			if err := c.Record(t.Context(), nil, core.Event{Topic: core.TopicWorkDead}); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-ended; !errors.Is(err, enough) {
			t.Fatal(err)
		}
		for i, seq := range got {
			if seq != uint64(i+1) {
				t.Fatalf("event %d has number %d", i, seq)
			}
		}
		follower := make(chan error, 1)
		go func() { follower <- c.Events(t.Context(), 701, true, func(core.StoredEvent) error { return nil }) }()
		synctest.Wait()
		if err := c.stop(); err != nil {
			t.Fatal(err)
		}
		wantCode(t, <-follower, core.CodeUnavailable)
	})
}

func TestEventsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		keep := func(cfg *Config, _ *Coordinator) { cfg.EventRetention = 100 }
		c := start(t, store, keep)
		for i := range 500 {
			if err := c.Record(t.Context(), nil, core.Event{Topic: core.TopicWorkDead, Message: fmt.Sprint(i)}); err != nil {
				t.Fatal(err)
			}
		}
		check := func(c *started) {
			evs, err := eventsAfter(t, c, 0)
			if err != nil || len(evs) < 100 || len(evs) > 110 {
				t.Errorf("%d events are kept, %v", len(evs), err)
			}
			_, err = eventsAfter(t, c, 1)
			wantCode(t, err, core.CodeCompacted)
			if last := evs[len(evs)-1].Seq; last < 500 {
				t.Errorf("the last is %d", last)
			}
		}
		check(c)
		if err := c.stop(); err != nil {
			t.Fatal(err)
		}
		check(start(t, store, keep))
	})
}
