package coordinator

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func (m *member) commands() (seqs []uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, cmd := range m.got {
		seqs = append(seqs, cmd.Seq)
	}
	return seqs
}

func TestCommandsAreNumberedAndResumed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		c := start(t, store)
		m := c.join(t, 1)
		job := core.NewJobID()
		for i, cmd := range []core.Command{
			{Kind: core.CommandReload, Plugin: "p", Seq: 99}, {Kind: core.CommandCancel, Job: job}, {Kind: core.CommandDrain, Reason: "upgrade"},
		} {
			if seq, err := c.SendCommand(t.Context(), m.id, cmd); err != nil || seq != uint64(i+1) {
				t.Fatalf("command %d: %d, %v", i, seq, err)
			}
		}
		synctest.Wait()
		if got := fmt.Sprint(m.commands()); got != "[1 2 3]" {
			t.Errorf("streamed %s", got)
		}
		if err := c.Acknowledge(t.Context(), core.CommandResult{Worker: m.ref, Seq: 1, Code: core.CodePluginContract, Detail: "so"}); err != nil {
			t.Fatal(err)
		}
		if err := c.stop(); err != nil {
			t.Fatal(err)
		}

		c = start(t, store) // the other side restarts: the rest is sent again, in order
		m.c, m.got = c, nil
		m.subscribe(t, 1)
		synctest.Wait()
		if got := fmt.Sprint(m.commands()); got != "[2 3]" {
			t.Errorf("after the restart %s", got)
		}
		if cmd := m.got[0]; cmd.Kind != core.CommandCancel || cmd.Job != job || cmd.IssuedAt.IsZero() {
			t.Errorf("%+v", cmd)
		}
		res, err := c.AwaitCommand(t.Context(), m.id, 1)
		if err != nil || res.Code != core.CodePluginContract || res.Detail != "so" || res.Worker != m.ref {
			t.Errorf("%+v, %v", res, err)
		}
		answer := make(chan core.CommandResult, 1)
		go func() {
			res, err := c.AwaitCommand(t.Context(), m.id, 2)
			if err != nil {
				t.Error(err)
			}
			answer <- res
		}()
		synctest.Wait()
		for range 2 { // repeating is no error
			if err := c.Acknowledge(t.Context(), core.CommandResult{Worker: m.ref, Seq: 3}); err != nil {
				t.Fatal(err)
			}
		}
		if res := <-answer; res.Seq != 3 || res.Code != core.CodeUnknown {
			t.Errorf("an answer covers what lies before it: %+v", res)
		}
		if es, err := store.Scan(t.Context(), bookKey(m.id), core.ScanOptions{}); err != nil || len(es) != 1 {
			t.Errorf("%d rows are left of acknowledged commands, %v", len(es), err)
		}
		if reg := m.register(t); reg.CommandSeq != 3 {
			t.Errorf("a new epoch starts behind command %d", reg.CommandSeq)
		}
	})
}

func TestNewerSubscriptionReplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newStore())
		m := c.join(t, 1)
		first, why := m.ended, m.end
		m.subscribe(t, 0)
		<-first
		wantCode(t, *why, core.CodeConflict)
		if err := m.beat(t); err != nil {
			t.Errorf("the newer stream counts: %v", err)
		}
		wantCode(t, c.Subscribe(t.Context(), core.WorkerRef{ID: m.id, Epoch: 9}, 0, nil), core.CodeFenced)
		old, why := m.ended, m.end
		m.register(t)
		<-old
		wantCode(t, *why, core.CodeFenced)
	})
}

func TestCommandRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newStore())
		m := c.join(t, 1)
		for _, cmd := range []core.Command{{Kind: "dance"}, {Kind: core.CommandReload}, {Kind: core.CommandCancel}, {Kind: core.CommandDrain, Reason: string(make([]byte, maxText+1))}} {
			_, err := c.SendCommand(t.Context(), m.id, cmd)
			wantCode(t, err, core.CodeInvalidArgument)
		}
		_, err := c.SendCommand(t.Context(), workerID(7), core.Command{Kind: core.CommandDrain})
		wantCode(t, err, core.CodeNotFound)
		_, err = c.AwaitCommand(t.Context(), m.id, 1)
		wantCode(t, err, core.CodeNotFound)
		for range maxPending {
			if _, err := c.SendCommand(t.Context(), m.id, core.Command{Kind: core.CommandDrain}); err != nil {
				t.Fatal(err)
			}
		}
		_, err = c.SendCommand(t.Context(), m.id, core.Command{Kind: core.CommandDrain})
		wantCode(t, err, core.CodeExhausted)
	})
}

// TestWaitingForAWorkerThatEnds: a drain is answered by leaving, and a failure ends
// the wait without an answer.
func TestWaitingForAWorkerThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newStore())
		leaver, dead := c.join(t, 1), c.join(t, 2)
		await := func(m *member, kind core.CommandKind) <-chan error {
			seq, err := c.SendCommand(t.Context(), m.id, core.Command{Kind: kind, Plugin: "p"})
			if err != nil {
				t.Fatal(err)
			}
			out := make(chan error, 1)
			go func() {
				res, err := c.AwaitCommand(t.Context(), m.id, seq)
				if err == nil && res.Code != core.CodeUnknown {
					err = core.Errorf("answer", res.Code, "%s", res.Detail)
				}
				out <- err
			}()
			synctest.Wait()
			return out
		}
		reload, drain := await(leaver, core.CommandReload), await(leaver, core.CommandDrain)
		lost := await(dead, core.CommandDrain)
		if err := c.Deregister(t.Context(), leaver.ref, core.StateDone, ""); err != nil {
			t.Fatal(err)
		}
		wantCode(t, <-reload, core.CodeUnavailable)
		if err := <-drain; err != nil {
			t.Errorf("leaving answers a drain: %v", err)
		}
		time.Sleep(2 * testH)
		wantCode(t, <-lost, core.CodeUnavailable)
		_, err := c.SendCommand(t.Context(), dead.id, core.Command{Kind: core.CommandDrain})
		wantCode(t, err, core.CodeFailedPrecondition)
		dead.register(t) // it gets what it has not answered
		synctest.Wait()
		if got := fmt.Sprint(dead.commands()); got != "[1 1]" {
			t.Errorf("after its return the worker got %s", got)
		}
	})
}

// TestNumbersAreNotUsedTwice: the worker has seen more than a restored store knows.
func TestNumbersAreNotUsedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, newStore())
		m := c.join(t, 1)
		if _, err := c.Beat(t.Context(), core.Heartbeat{Worker: m.ref, Seq: 1, State: core.StateInit, ControlSeq: 40}); err != nil {
			t.Fatal(err)
		}
		if seq, err := c.SendCommand(t.Context(), m.id, core.Command{Kind: core.CommandDrain}); err != nil || seq != 41 {
			t.Errorf("number %d, %v", seq, err)
		}
	})
}
