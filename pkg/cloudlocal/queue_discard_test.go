package cloudlocal

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
)

func (p *pressed) discard(want bool) {
	p.t.Helper()
	if got, err := p.q.Discard(p.t.Context(), "q"); err != nil || got != want {
		p.t.Fatalf("discard: %v, %v, want %v", got, err, want)
	}
}

func (p *pressed) nack(it core.LeasedItem) {
	p.t.Helper()
	out, err := core.NackOne(p.t.Context(), p.q, core.Nack{Lease: it.Lease, Kind: core.NackFailed, Retry: core.RetryHint{Kind: core.RetryNow}})
	if err != nil || !out.Dead {
		p.t.Fatalf("%+v, %v, want it dead", out, err)
	}
}

// TestDiscardTakesEmptyQueuesOnly asks for it in every state of an item.
func TestDiscardTakesEmptyQueuesOnly(t *testing.T) {
	fail := errors.New("no commit today")
	broken := false
	store := memstore.New(memstore.Options{CommitHook: func() error {
		if broken {
			return core.Wrap("commit", core.CodeExhausted, fail)
		}
		return nil
	}})
	p := newPressed(t, QueueConfig{Storage: store, Window: 16, MaxAttempts: 1, Remember: 1})
	p.discard(false) // there is none
	p.must(p.enqueue(1, 8, time.Time{}))
	p.discard(false) // ready
	items, err := p.take(1)
	p.must(err)
	p.discard(false) // leased
	p.nack(items[0])
	p.discard(false) // dead
	if n, err := p.q.DropDead(t.Context(), "q"); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	p.must(p.enqueue(1, 8, time.Now().Add(time.Hour)))
	p.discard(false) // delayed
	if n, err := p.q.Purge(t.Context(), "q"); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	if _, err := p.q.Enqueue(t.Context(), "q", []core.NewItem{{Payload: []byte("x"), IdempotencyKey: "k"}}); err != nil {
		t.Fatal(err)
	}
	items, err = p.take(1)
	p.must(err)
	p.must(core.AckOne(t.Context(), p.q, items[0].Lease))
	p.discard(false) // the key is remembered
	_, err = p.q.Purge(t.Context(), "q")
	p.must(err)

	broken = true
	if gone, err := p.q.Discard(t.Context(), "q"); gone || !errors.Is(err, fail) {
		t.Fatalf("a store that refuses: %v, %v", gone, err)
	}
	broken = false
	if names, err := p.q.Queues(t.Context()); err != nil || !slices.Equal(names, []string{"q"}) {
		t.Fatalf("after a discard that failed: %v, %v", names, err)
	}
	p.discard(true)
	p.discard(false)
	if names, err := p.q.Queues(t.Context()); err != nil || len(names) > 0 || len(p.q.queues) > 0 {
		t.Errorf("left: %v, %v; %d in memory", names, err, len(p.q.queues))
	}
	for e, err := range store.Iterate(t.Context(), core.NewKey(core.NamespaceQueue), core.ScanOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Key.Path[0] == "q" || len(e.Key.Path) > 2 {
			t.Errorf("row %q is left", e.Key)
		}
	}
	clear(p.put)
	p.must(p.enqueue(3, 8, time.Time{})) // the name begins anew
	p.drain()
}

// TestDiscardLeavesWaitersWaiting takes a queue away under a call that waits on it.
func TestDiscardLeavesWaitersWaiting(t *testing.T) {
	p := newPressed(t, QueueConfig{Storage: memstore.New(memstore.Options{})})
	p.must(p.enqueue(1, 8, time.Time{}))
	items, err := p.take(1)
	p.must(err)
	p.ack(items)
	got := make(chan []core.LeasedItem, 1)
	go func() {
		items, err := p.q.Dequeue(t.Context(), core.DequeueOptions{Queues: []string{"q", "other"}, Owner: core.WorkerID{1}, Epoch: 1, MaxItems: 1, Wait: time.Hour})
		if err != nil {
			t.Error(err)
		}
		got <- items
	}()
	waits := func() bool {
		p.q.mu.Lock()
		defer p.q.mu.Unlock()
		return p.q.queues["other"] != nil
	}
	for !waits() {
		wait(time.Millisecond)
	}
	p.discard(true)
	p.must(p.enqueue(1, 8, time.Time{}))
	p.ack(<-got)
	p.discard(true)
	if n := len(p.q.queues); n > 0 {
		t.Errorf("%d queues are kept in memory", n)
	}
	p.drain()
}
