package cloudlocal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
)

// queueScript is one run through every change that a queue can make.
type queueScript struct {
	t    *testing.T
	ctx  context.Context
	q    *Queue
	held map[string]core.Lease // by payload
	at   time.Time             // the time of the delayed item
	late bool                  // a lease has run out, and is taken back when the store allows it
}

func (s *queueScript) put(queue string, items ...core.NewItem) error {
	_, err := s.q.Enqueue(s.ctx, queue, items)
	return err
}

func (s *queueScript) take(owner byte, epoch uint64, n int, life time.Duration) error {
	items, err := s.q.Dequeue(s.ctx, core.DequeueOptions{Queues: []string{"q"}, Owner: core.WorkerID{15: owner}, Epoch: epoch, MaxItems: n, LeaseFor: life})
	for _, it := range items {
		s.held[string(it.Payload)] = it.Lease
	}
	if err == nil && len(items) == 0 {
		s.t.Fatal("nothing to take")
	}
	return err
}

func (s *queueScript) nack(payload string, kind core.NackKind, hint core.RetryHint) error {
	_, err := core.NackOne(s.ctx, s.q, core.Nack{
		Lease: s.held[payload], Kind: kind, Retry: hint, Reason: "a reason",
		OnDead: []core.Write{{Key: core.NewKey("results", payload), Value: []byte("dead")}},
	})
	return err
}

// steps are the script. Each makes at least one commit, and may be tried again
// when that failed.
func (s *queueScript) steps() []func() error {
	item := func(p string) core.NewItem { return core.NewItem{Payload: []byte(p)} }
	never, soon := core.RetryHint{}, core.RetryHint{Kind: core.RetryAfter, After: time.Second}
	return []func() error{
		func() error { return s.put("q", item("a"), item("b"), item("c"), item("d")) },
		func() error {
			return s.put("q", core.NewItem{Payload: []byte("e"), IdempotencyKey: "e", Priority: 3}, core.NewItem{Payload: []byte("f"), NotBefore: s.at})
		},
		func() error { return s.put("other", item("x")) },
		func() error { return s.take(1, 1, 3, 0) },
		func() error { return s.take(2, 1, 1, 0) },
		func() error {
			return core.AckOne(s.ctx, s.q, s.held["e"], core.Write{Key: core.NewKey("results", "e"), Value: []byte("ok")})
		},
		func() error { return s.nack("a", core.NackReturned, never) },
		func() error { return s.nack("b", core.NackFailed, soon) },
		func() error { return s.nack("c", core.NackFailed, never) },
		func() error { return s.take(2, 1, 1, 0) },
		func() error {
			_, err := s.q.ReleaseOwner(s.ctx, core.WorkerID{15: 2}, 1, true, "killed")
			return err
		},
		func() error { return s.take(3, 1, 1, time.Second) },
		func() error {
			errs, err := s.q.Extend(s.ctx, []core.Lease{s.held["a"]}, 2*time.Second)
			return errors.Join(append(errs, err)...)
		},
		func() error { _, err := s.q.RequeueDead(s.ctx, "q"); return err },
		func() error { return s.take(4, 1, 2, 0) },
		func() error { return s.nack("c", core.NackFailed, never) },
		func() error { _, err := s.q.DropDead(s.ctx, "q"); return err },
		func() error { _, err := s.q.Purge(s.ctx, "other"); return err },
		// The lease that ran out comes back, and what was delayed.
		func() error { s.late = true; wait(10 * time.Second); return nil },
		func() error { return s.take(5, 1, 9, 0) },
		func() error { _, err := s.q.Purge(s.ctx, "q"); return err },
	}
}

// counts are what both an index and the rows know of a queue.
func counts(t *testing.T, q *Queue) string {
	t.Helper()
	out := ""
	names, err := q.Queues(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		s, err := q.Stats(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		out += fmt.Sprintf("%s: %d ready, %d delayed, %d leased, %d dead; ", name, s.Ready, s.Delayed, s.Leased, s.Dead)
	}
	for owner := range byte(6) {
		held, err := q.Held(t.Context(), core.WorkerID{15: owner}, 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range held {
			out += fmt.Sprintf("%d holds %s attempt %d losses %d; ", owner, it.Payload, it.Attempt, it.Losses)
		}
	}
	return out
}

// sameAsRows compares a queue's index with one that is loaded from the rows now.
func sameAsRows(t *testing.T, q *Queue) {
	t.Helper()
	other, err := OpenQueue(t.Context(), q.cfg)
	if err != nil {
		t.Fatal(err)
	}
	known, stored := counts(t, q), counts(t, other)
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if known != stored {
		t.Fatalf("the index says  %s\nthe rows say    %s", known, stored)
	}
}

// diskFault is how a commit fails.
type diskFault struct {
	name  string
	err   error
	stays bool // until the step that it hit has ended
}

var diskFaults = []diskFault{
	{"full for a moment", core.Errorf("disk", core.CodeExhausted, "no space left on device"), false},
	{"full", core.Errorf("disk", core.CodeExhausted, "no space left on device"), true},
	{"failing", core.Errorf("disk", core.CodeUnavailable, "the store is not there"), false},
}

// runScript lets the fail-th commit of the script fail and returns how many commits
// there were and what is stored in the end.
func runScript(t *testing.T, fault diskFault, fail int) (commits int, end string) {
	var mu sync.Mutex // guards armed, struck and commits
	armed, struck := false, false
	arm := func(on bool) {
		mu.Lock()
		defer mu.Unlock()
		armed, struck = on, false
	}
	store := memstore.New(memstore.Options{CommitHook: func() error {
		mu.Lock()
		defer mu.Unlock()
		if !armed {
			return nil
		}
		if commits++; commits == fail || struck && fault.stays {
			struck = true
			return fault.err
		}
		return nil
	}})
	q, err := OpenQueue(t.Context(), QueueConfig{Storage: store, Logger: quiet(), Window: 16, MaxLosses: 9})
	if err != nil {
		t.Fatal(err)
	}
	s := &queueScript{t: t, ctx: t.Context(), q: q, held: map[string]core.Lease{}, at: time.Now().Add(5 * time.Second)}
	for i, step := range s.steps() {
		arm(true)
		err := step()
		if err != nil && !core.IsCode(err, core.CodeOf(fault.err)) {
			t.Fatalf("commit %d fails, step %d answers %v", fail, i, err)
		}
		arm(false)
		if s.late {
			wait(10 * time.Second)
			s.late = false
		}
		sameAsRows(t, q)
		arm(true)
		if err != nil {
			if err := step(); err != nil {
				t.Fatalf("commit %d failed, step %d tried again answers %v", fail, i, err)
			}
		}
	}
	arm(false)
	sameAsRows(t, q)
	for e, err := range store.Iterate(t.Context(), core.NewKey("results"), core.ScanOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		end += fmt.Sprintf("%v %s; ", e.Key, e.Value)
	}
	left, err := store.Scan(t.Context(), rowKey("q", rowItem), core.ScanOptions{})
	if err != nil || len(left) > 0 {
		t.Errorf("%d items are left, %v", len(left), err)
	}
	if err := errors.Join(q.Close(), store.Close()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	return commits, end
}

// TestR6QueueEveryCommitFails lets each commit of the script fail in turn until the
// script passes: the error is typed, the index tells what the rows hold, and the
// same call succeeds when there is room again.
func TestR6QueueEveryCommitFails(t *testing.T) {
	for _, fault := range diskFaults {
		t.Run(fault.name, func(t *testing.T) {
			run := func(fail int) (commits int, end string) {
				synctest.Test(t, func(t *testing.T) { commits, end = runScript(t, fault, fail) })
				return commits, end
			}
			total, want := run(0)
			for fail := 1; fail <= total && !t.Failed(); fail++ {
				if _, end := run(fail); end != want {
					t.Errorf("with commit %d failing the results are %s, want %s", fail, end, want)
				}
			}
			t.Logf("%d commits", total)
		})
	}
}

// TestACommitChecksTheLeaseItself has two queues open on one store, as when a
// coordinator has been replaced and does not know it yet.
func TestACommitChecksTheLeaseItself(t *testing.T) {
	for _, blind := range []bool{false, true} {
		t.Run(fmt.Sprint("blind=", blind), func(t *testing.T) {
			store := memstore.New(memstore.Options{})
			open := func() *Queue {
				q, err := OpenQueue(t.Context(), QueueConfig{Storage: store, Logger: quiet(), hooks: queueHooks{blindCommit: blind}})
				if err != nil {
					t.Fatal(err)
				}
				return q
			}
			take := func(q *Queue, owner byte) core.Lease {
				items, err := q.Dequeue(t.Context(), core.DequeueOptions{Queues: []string{"q"}, Owner: core.WorkerID{15: owner}, Epoch: 1, MaxItems: 1})
				if err != nil || len(items) != 1 {
					t.Fatalf("took %+v, %v", items, err)
				}
				return items[0].Lease
			}
			old := open()
			if _, err := core.EnqueueOne(t.Context(), old, "q", core.NewItem{Payload: []byte("a")}); err != nil {
				t.Fatal(err)
			}
			lease := take(old, 1)
			next := open()
			if _, err := next.ReleaseOwner(t.Context(), core.WorkerID{15: 1}, 1, true, "killed"); err != nil {
				t.Fatal(err)
			}
			now := take(next, 2)
			err := core.AckOne(t.Context(), old, lease)
			if blind {
				if err != nil {
					t.Errorf("a commit that does not look answers %v, so this test proves nothing", err)
				}
			} else if !core.IsCode(err, core.CodeLeaseLost) {
				t.Errorf("a lease of before is answered %v", err)
			} else if err := core.AckOne(t.Context(), next, now); err != nil {
				t.Error(err)
			}
			if err := errors.Join(old.Close(), next.Close(), store.Close()); err != nil {
				t.Error(err)
			}
		})
	}
}
