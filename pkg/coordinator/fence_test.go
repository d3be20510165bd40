package coordinator

import (
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage"
)

func chaosCount(t testing.TB, otherwise int) int {
	t.Helper()
	v := os.Getenv("ROLLOUT_CHAOS_COUNT")
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("ROLLOUT_CHAOS_COUNT=%q is not a positive number", v)
	}
	return n
}

// TestR17LateMessagesAreRefused pauses a worker for longer than it may be silent.
// Everything that it sends afterwards under the old epoch is refused, and so is
// what it sent before it was replaced but reaches the store only afterwards.
func TestR17LateMessagesAreRefused(t *testing.T) {
	for range chaosCount(t, 5) {
		if late := lateChanges(t, false); late != 0 {
			t.Fatalf("%d late messages changed the book", late)
		}
	}
	if lateChanges(t, true) == 0 {
		t.Error("the check is blind: a coordinator that takes any epoch was not noticed")
	}
}

// lateChanges returns how many late messages of an old epoch were stored.
func lateChanges(t *testing.T, anyEpoch bool) (stored int) {
	synctest.Test(t, func(t *testing.T) {
		store := &faultStore{Storage: newStore()}
		c := start(t, store, func(_ *Config, c *Coordinator) {
			if c != nil {
				c.anyEpoch = anyEpoch
			}
		})
		m := c.join(t, 1)
		m.become(t, core.StateReady)
		seq, err := c.SendCommand(t.Context(), m.id, core.Command{Kind: core.CommandDrain})
		if err != nil {
			t.Fatal(err)
		}
		old := m.ref
		time.Sleep(3 * testH) // paused
		if _, err := c.Beat(t.Context(), core.Heartbeat{Worker: old, Seq: 9, State: core.StateRunning}); !core.IsCode(err, core.CodeFenced) {
			t.Errorf("late beat: %v", err)
		}
		// The disk is slow while the worker comes back and an old message waits behind it.
		release := block(store)
		var wg sync.WaitGroup
		wg.Go(func() { m.register(t) })
		synctest.Wait()
		results := make(chan error, 2)
		wg.Go(func() { results <- c.Acknowledge(t.Context(), core.CommandResult{Worker: old, Seq: seq}) })
		wg.Go(func() { results <- c.Deregister(t.Context(), old, core.StateDone, "late") })
		synctest.Wait()
		release()
		wg.Wait()
		for range 2 {
			if err := <-results; err == nil {
				stored++
			} else if !core.IsCode(err, core.CodeFenced) {
				t.Errorf("late message: %v", err)
			}
		}
		row := c.row(t, m.id)
		if row.Epoch != old.Epoch+1 || row.Liveness != core.LivenessAlive {
			t.Errorf("the book says %+v", row)
		}
	})
	return stored
}

// block holds every commit until release is called.
func block(s *faultStore) (release func()) {
	gate := make(chan struct{})
	s.set(func() error { <-gate; return nil })
	return func() { s.set(nil); close(gate) }
}

func (st *started) row(t testing.TB, id core.WorkerID) workerRow {
	t.Helper()
	e, err := core.Get(t.Context(), st.store, workerKey(id))
	if err != nil {
		t.Fatal(err)
	}
	var row workerRow
	if err := decodeRow(e, &row); err != nil {
		t.Fatal(err)
	}
	return row
}

// TestStateOfAnOldEpochIsRefusedInsideTheTransaction lets a beat pass every check
// in memory and be overtaken by a registration before it is stored.
func TestStateOfAnOldEpochIsRefusedInsideTheTransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &faultStore{Storage: newStore()}
		c := start(t, store)
		m := c.join(t, 1)
		m.become(t, core.StateReady)
		release := block(store)
		old := m.ref
		var wg sync.WaitGroup
		wg.Go(func() { m.register(t) })
		synctest.Wait()
		late := make(chan error, 1)
		wg.Go(func() {
			_, err := c.Beat(t.Context(), core.Heartbeat{Worker: old, Seq: 5, State: core.StateRunning})
			late <- err
		})
		synctest.Wait()
		release()
		wg.Wait()
		wantCode(t, <-late, core.CodeFenced)
		if row := c.row(t, m.id); row.State != core.StateInit || row.Epoch != 2 {
			t.Errorf("the new epoch's row says %s in epoch %d", row.State, row.Epoch)
		}
	})
}

// TestNewerCoordinatorFencesTheOlder runs two coordinators on one store.
func TestNewerCoordinatorFencesTheOlder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		older := start(t, store)
		m := older.join(t, 1)
		newer := start(t, store)
		if newer.Epoch() <= older.Epoch() || newer.RunID() != older.RunID() {
			t.Fatalf("epochs %d and %d", older.Epoch(), newer.Epoch())
		}
		_, err := older.Register(t.Context(), core.Registration{ID: workerID(2), ProtocolMin: 1, ProtocolMax: 1})
		wantCode(t, err, core.CodeFenced)
		wantCode(t, older.wait(), core.CodeFenced)
		before := store.Revision()
		wantCode(t, older.Acknowledge(t.Context(), core.CommandResult{Worker: m.ref, Seq: 1}), core.CodeFenced)
		wantCode(t, older.Record(t.Context(), []core.Write{{Key: core.NewKey("test", "x")}}), core.CodeFenced)
		if store.Revision() != before {
			t.Error("the older coordinator still changed the store")
		}
		m.c = newer
		m.subscribe(t, 0)
		if err := m.beat(t); err != nil {
			t.Errorf("the newer one took the worker over: %v", err)
		}
		if err := newer.stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestIdleCoordinatorNoticesItsSuccessor: with nothing to write it still ends.
func TestIdleCoordinatorNoticesItsSuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		older := start(t, store)
		time.Sleep(time.Minute)
		if _, err := storage.RaiseEpoch(t.Context(), store); err != nil {
			t.Fatal(err)
		}
		wantCode(t, older.wait(), core.CodeFenced)
	})
}
