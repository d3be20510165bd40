package coordinator

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// TestR18SlowDisk makes every commit take 2 H while workers beat and change their
// state: nobody who lives is declared failed, and one who died is.
func TestR18SlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &faultStore{Storage: newStore()}
		c := start(t, store)
		m, dead := c.join(t, 1), c.join(t, 2)
		store.set(func() error { time.Sleep(2 * testH); return nil })
		for i := range 12 { // each waits for the disk, as its worker does
			m.become(t, []core.WorkerState{core.StateReady, core.StateRunning}[i%2])
		}
		m.register(t)
		store.set(nil)
		synctest.Wait()
		failed := c.rec.of(core.TopicWorkerFailed)
		if len(failed) != 1 || failed[0].WorkerID != dead.id.String() {
			t.Errorf("failed: %+v", failed)
		}
	})
}

// TestFullDisk: a caller is told and may try again; what nobody could repeat waits
// for room.
func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &faultStore{Storage: newStore()}
		c := start(t, store)
		m := c.join(t, 1)
		store.set(func() error { return core.Errorf("commit", core.CodeExhausted, "no space left") })
		m.state = core.StateReady
		wantCode(t, m.beat(t), core.CodeExhausted)
		_, err := c.Register(t.Context(), core.Registration{ID: workerID(5), ProtocolMin: 1, ProtocolMax: 1})
		wantCode(t, err, core.CodeExhausted)
		time.Sleep(3 * testH)
		wantCode(t, m.beat(t), core.CodeFenced) // it has failed, though nothing says so on disk yet
		store.set(nil)
		time.Sleep(2 * retryFull)
		synctest.Wait()
		if got := c.rec.story(m.id); got != "registered suspect failed" {
			t.Errorf("events %q", got)
		}
		if row := c.row(t, m.id); row.Liveness != core.LivenessFailed {
			t.Errorf("row %+v", row)
		}
	})
}

// TestBrokenStoreEndsTheCoordinator: after a failed sync nothing can be promised.
func TestBrokenStoreEndsTheCoordinator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &faultStore{Storage: newStore()}
		c := start(t, store)
		m := c.join(t, 1)
		store.set(func() error { return core.Errorf("commit", core.CodeBroken, "fdatasync failed") })
		m.state = core.StateReady
		wantCode(t, m.beat(t), core.CodeBroken)
		wantCode(t, c.wait(), core.CodeBroken)
		_, err := c.Register(t.Context(), core.Registration{ID: workerID(5), ProtocolMin: 1, ProtocolMax: 1})
		wantCode(t, err, core.CodeBroken)
	})
}

// TestOneRefusalSparesTheBatch: of changes that share a commit only the one that
// cannot be stored fails, and its events with it.
func TestOneRefusalSparesTheBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &faultStore{Storage: newStore()}
		c := start(t, store)
		release := block(store)
		first := make(chan error, 1)
		go func() { first <- c.Record(t.Context(), nil) }() // keeps the writer busy
		synctest.Wait()
		bad := core.Write{Key: core.NewKey("BAD"), Value: []byte("x")}
		results := make([]chan error, 3)
		for i := range results {
			results[i] = make(chan error, 1)
			writes := []core.Write{{Key: core.NewKey("test", "row"), Value: []byte("v")}}
			if i == 1 {
				writes = append(writes, bad)
			}
			go func() { results[i] <- c.Record(t.Context(), writes, core.Event{Topic: core.TopicWorkDead}) }()
			synctest.Wait()
		}
		release()
		if err := <-first; err != nil {
			t.Error(err)
		}
		for i, out := range results {
			if err := <-out; (err != nil) != (i == 1) {
				t.Errorf("change %d: %v", i, err)
			}
		}
		synctest.Wait()
		if n := len(c.rec.of(core.TopicWorkDead)); n != 2 {
			t.Errorf("%d events", n)
		}
	})
}

// TestConflictIsTriedAgain lets another writer change the epoch row's neighbour
// that a change has read.
func TestConflictIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := newStore()
		store := &faultStore{Storage: inner}
		c := start(t, store)
		m := c.join(t, 1)
		var once atomic.Bool
		store.set(func() error {
			if once.Swap(true) {
				return nil
			}
			row := c.row(t, m.id)
			row.Version = "changed meanwhile"
			value, err := encodeRow(row)
			if err == nil {
				_, err = core.PutBytes(context.Background(), inner, workerKey(m.id), value)
			}
			return err
		})
		m.become(t, core.StateReady)
		if row := c.row(t, m.id); row.Version != "changed meanwhile" || row.State != core.StateReady {
			t.Errorf("a change was lost: %+v", row)
		}
	})
}

func TestCallersStopWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &faultStore{Storage: newStore()}
		c := start(t, store)
		release := block(store)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.Register(ctx, core.Registration{ID: workerID(1), ProtocolMin: 1, ProtocolMax: 1})
		wantCode(t, err, core.CodeDeadlineExceeded)
		release()
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestDeadPartsEndTheProcess: when detection dies, Run does, with the cause.
func TestDeadPartsEndTheProcess(t *testing.T) {
	for name, part := range map[string]func(context.Context) error{
		"panic": func(context.Context) error { panic("planted") },
		"error": func(context.Context) error { return errors.New("planted") },
		"end":   func(context.Context) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := prepare(t, newStore())
				c.part = func(ctx context.Context) error {
					<-c.Ready()
					return part(ctx)
				}
				c.run(t)
				err := c.wait()
				if err == nil || !strings.Contains(err.Error(), "planted") {
					t.Errorf("Run returned %v", err)
				}
				stopped := c.rec.of(core.TopicCoordinatorStopped)
				if len(stopped) != 1 || stopped[0].Level != core.LevelError || stopped[0].Attrs["error"] == nil {
					t.Errorf("the last event must tell the cause: %+v", stopped)
				}
			})
		})
	}
}

func TestRunTwice(t *testing.T) {
	c := start(t, newStore())
	wantCode(t, c.Run(t.Context()), core.CodeFailedPrecondition)
}

func TestConfigNamesEveryViolation(t *testing.T) {
	vs := Config{Timing: core.Timing{HeartbeatInterval: 1}, FlushInterval: 1, EventRetention: 1, RequeueRate: -1, StopTimeout: -1}.Validate()
	if len(vs) < 5 {
		t.Errorf("%d violations: %v", len(vs), vs)
	}
	if vs := (Config{}).Validate(); len(vs) != 0 {
		t.Errorf("the zero value must be usable: %v", vs)
	}
	exact := core.Timing{HeartbeatInterval: time.Second, SelfFence: 1500 * time.Millisecond, Failure: 1500 * time.Millisecond}
	if c := (Config{Timing: exact}).WithDefaults(); c.Timing != exact || len(c.Validate()) != 0 {
		t.Errorf("a skew budget of 0 became %v: %v", c.Timing.Skew, c.Validate())
	}
	_, err := New(Config{EventRetention: 1})
	wantCode(t, err, core.CodeConfigInvalid)
}
