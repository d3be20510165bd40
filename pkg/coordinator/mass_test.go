package coordinator

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// shelf is a workbook in which every epoch holds one item until it is released.
type shelf struct {
	noJobs
	mu       sync.Mutex // guards what follows
	released map[core.WorkerRef][]time.Time
	losses   map[core.WorkerRef]bool
	fail     error // of the next release
	failing  bool  // every release fails
	tries    int   // releases that failed
	closed   bool
}

func withShelf(s *shelf) func(*Config, *Coordinator) {
	s.released, s.losses = make(map[core.WorkerRef][]time.Time), make(map[core.WorkerRef]bool)
	return func(cfg *Config, _ *Coordinator) {
		cfg.Work = func(context.Context, *Coordinator) (Workbook, error) { return s, nil }
		cfg.Objects = noObjects{}
	}
}

func (s *shelf) Attach(context.Context, core.WorkerRef, []core.LoadedPlugin, []core.Lease) (core.WorkSession, error) {
	return idleSession{}, nil
}

func (s *shelf) ReleaseWorker(_ context.Context, w core.WorkerRef, loss bool, _ string) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail; err != nil {
		s.tries++
		if !s.failing {
			s.fail = nil
		}
		return 0, err
	}
	s.released[w] = append(s.released[w], time.Now())
	s.losses[w] = loss
	return 1, nil
}

func (s *shelf) Holding(w core.WorkerRef) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.released[w]) > 0 {
		return 0
	}
	return 1
}

func (s *shelf) Close() error { s.mu.Lock(); defer s.mu.Unlock(); s.closed = true; return nil }

func (s *shelf) count() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.released) }

// noJobs is named apart from [core.Jobs], which has a method of that name.
type noJobs interface{ core.Jobs }

type noObjects struct{ core.ObjectStore }

type idleSession struct{}

func (idleSession) Resumed() ([]core.WorkItem, []core.Lease) { return nil, nil }
func (idleSession) Pull(ctx context.Context, _ core.PullBudget) ([]core.WorkItem, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
func (idleSession) Submit(context.Context, []core.WorkResult) ([]error, error) { return nil, nil }
func (idleSession) Return(context.Context, []core.Lease, string) error         { return nil }
func (idleSession) SetPlugins([]core.LoadedPlugin)                             {}
func (idleSession) Close() error                                               { return nil }

// TestR22MassFailure cuts 60 % of the workers off at once and lets them return.
func TestR22MassFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, cut = 100, 60
		s := &shelf{}
		c := start(t, newStore(), withShelf(s))
		members := make([]*member, n)
		var stops []func()
		for i := range members {
			members[i] = c.join(t, i)
			stops = append(stops, members[i].keepBeating(t))
		}
		time.Sleep(5 * testH)
		for _, stop := range stops[:cut] {
			stop()
		}
		at := time.Now()
		time.Sleep(2 * testH)
		synctest.Wait()
		failed := c.rec.of(core.TopicWorkerFailed)
		held := 0
		for _, ev := range failed {
			if ev.Attrs["requeue_held"] == true {
				held++
			}
			if d := ev.Time.Sub(at); d > 2*testH {
				t.Errorf("%s was found after %v", ev.WorkerID, d)
			}
		}
		if len(failed) != cut || held == 0 {
			t.Errorf("%d of %d failed, %d held back", len(failed), cut, held)
		}
		if alarms := c.rec.of(core.TopicMassFailure); len(alarms) != 1 || alarms[0].Level != core.LevelError {
			t.Errorf("alarms %+v", alarms)
		}
		if st, err := c.Status(t.Context()); err != nil || !st.MassFailure {
			t.Errorf("status %+v, %v", st, err)
		}
		// Ten a second: the held ones are not returned at once.
		soon := s.count()
		if soon > cut-held+12 {
			t.Errorf("%d of %d were returned within 2 H, %d are held back", soon, cut, held)
		}
		members[0].register(t) // the first is back: what its old epoch held is returned now
		stops = append(stops, members[0].keepBeating(t))
		synctest.Wait()
		time.Sleep(time.Duration(held)*time.Second/DefaultRequeueRate + time.Second)
		synctest.Wait()
		if got := s.count(); got != cut {
			t.Errorf("%d of %d were returned in the end", got, cut)
		}
		for w, times := range s.released {
			if len(times) != 1 {
				t.Errorf("%v was released %d times", w, len(times))
			}
		}
		if st, err := c.Status(t.Context()); err != nil || st.MassFailure {
			t.Errorf("after all: %+v, %v", st, err)
		}
		for _, stop := range stops[cut:] {
			stop()
		}
	})
}

// TestOwedWorkWaitsForAFailingStore keeps returning what is owed, at a pace that leaves
// the store alone, until it succeeds.
func TestOwedWorkWaitsForAFailingStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{fail: errors.New("the disk is slow"), failing: true}
		c := start(t, newStore(), withShelf(s), func(cfg *Config, _ *Coordinator) { cfg.RequeueRate = 1e6 })
		dead := c.join(t, 1)
		time.Sleep(2*testH + time.Minute)
		synctest.Wait()
		s.mu.Lock()
		tries := s.tries
		s.fail, s.failing = nil, false
		s.mu.Unlock()
		if tries < 50 || tries > 70 {
			t.Errorf("%d tries in a minute", tries)
		}
		time.Sleep(2 * retryOwed)
		synctest.Wait()
		if owed := c.row(t, dead.id).Owed; len(owed) != 0 || s.count() != 1 {
			t.Errorf("%d returned, still owed %+v", s.count(), owed)
		}
	})
}

// TestOwedWorkIsReturned walks the ways in which an epoch ends.
func TestOwedWorkIsReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{}
		c := start(t, newStore(), withShelf(s))
		left, again, dead := c.join(t, 1), c.join(t, 2), c.join(t, 3)
		if err := c.Deregister(t.Context(), left.ref, core.StateDone, ""); err != nil {
			t.Fatal(err)
		}
		old := again.ref
		again.register(t)
		stop := again.keepBeating(t)
		s.mu.Lock()
		s.fail = errors.New("the queue is busy") // once, and tried again
		s.mu.Unlock()
		time.Sleep(5 * testH)
		stop()
		synctest.Wait()
		for ref, loss := range map[core.WorkerRef]bool{left.ref: false, old: true, dead.ref: true} {
			if len(s.released[ref]) != 1 || s.losses[ref] != loss {
				t.Errorf("%v: released %v, loss %v", ref, s.released[ref], s.losses[ref])
			}
			if owed := c.row(t, ref.ID).Owed; len(owed) != 0 {
				t.Errorf("%v still owes %+v", ref, owed)
			}
		}
		failed := c.rec.of(core.TopicWorkerFailed)
		if len(failed) != 1 || failed[0].Attrs["requeued"] != int64(1) {
			t.Errorf("%+v", failed)
		}
		if err := c.stop(); err != nil || !s.closed {
			t.Errorf("stop: %v, workbook closed %v", err, s.closed)
		}
	})
}

// TestOwedWorkSurvivesARestart ends the process between the verdict and the return.
func TestOwedWorkSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, first := newStore(), &shelf{}
		c := start(t, store, withShelf(first))
		m := c.join(t, 1)
		row := c.row(t, m.id)
		row.Liveness, row.Owed = core.LivenessFailed, []owedRow{{Epoch: 1, Loss: true, Reason: "its worker failed"}}
		if err := c.stop(); err != nil {
			t.Fatal(err)
		}
		value, err := encodeRow(row)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := core.PutBytes(t.Context(), store, workerKey(m.id), value); err != nil {
			t.Fatal(err)
		}
		second := &shelf{}
		c = start(t, store, withShelf(second))
		synctest.Wait()
		if len(second.released[m.ref]) != 1 || len(c.row(t, m.id).Owed) != 0 {
			t.Errorf("released %v, row %+v", second.released, c.row(t, m.id).Owed)
		}
	})
}

func TestAttachOpensTheWorkStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newStore(), withShelf(&shelf{}))
		m := c.join(t, 1)
		beat := core.Heartbeat{Worker: m.ref, Seq: 1, State: core.StateInit, WorkOpen: true}
		session, err := c.Attach(t.Context(), m.ref, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Beat(t.Context(), beat); err != nil {
			t.Error(err)
		}
		if err := session.Close(); err != nil {
			t.Error(err)
		}
		_, err = c.Beat(t.Context(), beat)
		wantCode(t, err, core.CodeFailedPrecondition)
		_, err = c.Attach(t.Context(), core.WorkerRef{ID: m.id, Epoch: 7}, nil, nil)
		wantCode(t, err, core.CodeFenced)
	})
}

func TestNoWorkWithoutAWorkbook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newStore())
		_, err := c.Attach(t.Context(), c.join(t, 1).ref, nil, nil)
		wantCode(t, err, core.CodeUnsupported)
	})
}

func TestRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newStore())
		key := core.NewKey("test", "row")
		err := c.Record(t.Context(), []core.Write{{Key: key, Value: []byte("v")}}, core.Event{Topic: core.TopicWorkDead}, core.Event{Topic: core.TopicJobFinished})
		if err != nil {
			t.Fatal(err)
		}
		if e, err := core.Get(t.Context(), c.store, key); err != nil || string(e.Value) != "v" {
			t.Errorf("%v %v", e, err)
		}
		if err := c.Record(t.Context(), []core.Write{{Key: key, Delete: true}}); err != nil {
			t.Fatal(err)
		}
		_, err = core.Get(t.Context(), c.store, key)
		wantCode(t, err, core.CodeNotFound)
		synctest.Wait()
		evs := c.rec.of(core.TopicWorkDead, core.TopicJobFinished)
		if len(evs) != 2 || evs[0].Kind != core.EventDomain || evs[0].RunID != c.RunID().String() || evs[0].Time.IsZero() {
			t.Errorf("%+v", evs)
		}
		if !slices.IsSortedFunc(evs, func(a, b core.Event) int { return a.Time.Compare(b.Time) }) {
			t.Error("out of order")
		}
		if err := c.CancelOn(t.Context(), workerID(4), core.NewJobID()); err != nil {
			t.Errorf("nobody is left to tell: %v", err)
		}
	})
}
