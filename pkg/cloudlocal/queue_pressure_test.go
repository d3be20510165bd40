package cloudlocal

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
)

// pressed is a queue that is brought to its limits, and what it has promised.
type pressed struct {
	t    *testing.T
	q    *Queue
	put  map[string]bool
	done map[string]bool
	n    int
}

func newPressed(t *testing.T, cfg QueueConfig) *pressed {
	t.Helper()
	cfg.Logger = quiet()
	q, err := OpenQueue(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(q.Close(), cfg.Storage.Close()); err != nil {
			t.Error(err)
		}
	})
	return &pressed{t: t, q: q, put: map[string]bool{}, done: map[string]bool{}}
}

// enqueue adds n items of a size, all or none.
func (p *pressed) enqueue(n, size int, notBefore time.Time) error {
	items := make([]core.NewItem, n)
	for i := range items {
		p.n++
		items[i] = core.NewItem{Payload: fmt.Appendf(nil, "%0*d", size, p.n), NotBefore: notBefore}
	}
	_, err := p.q.Enqueue(p.t.Context(), "q", items)
	if err == nil {
		for _, it := range items {
			p.put[string(it.Payload)] = true
		}
	}
	return err
}

func (p *pressed) take(n int) ([]core.LeasedItem, error) {
	return p.q.Dequeue(p.t.Context(), core.DequeueOptions{Queues: []string{"q"}, Owner: core.WorkerID{1}, Epoch: 1, MaxItems: n})
}

func (p *pressed) ack(items []core.LeasedItem) {
	p.t.Helper()
	for _, it := range items {
		if err := core.AckOne(p.t.Context(), p.q, it.Lease); err != nil {
			p.t.Fatal(err)
		}
		if p.done[string(it.Payload)] {
			p.t.Errorf("item %.20s came twice", it.Payload)
		}
		p.done[string(it.Payload)] = true
	}
}

func (p *pressed) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *pressed) exhausted(err error, what string) {
	p.t.Helper()
	if !core.IsCode(err, core.CodeExhausted) {
		p.t.Fatalf("%s: %v, want exhausted", what, err)
	}
}

// drain works everything off and compares it with what was promised.
func (p *pressed) drain() {
	p.t.Helper()
	for {
		items, err := p.take(100)
		p.must(err)
		if len(items) == 0 {
			break
		}
		p.ack(items)
	}
	if len(p.done) != len(p.put) {
		p.t.Errorf("%d of %d items came", len(p.done), len(p.put))
	}
}

// TestR12ItemsInMemoryAreBounded fills the index with items that must be held in
// memory: delayed ones and leased ones.
func TestR12ItemsInMemoryAreBounded(t *testing.T) {
	p := newPressed(t, QueueConfig{Storage: memstore.New(memstore.Options{}), MaxHeld: 10, Window: 16})
	p.must(p.enqueue(100, 8, time.Time{}))
	later := time.Now().Add(time.Hour)
	p.must(p.enqueue(6, 8, later))
	p.exhausted(p.enqueue(5, 8, later), "more delayed items than fit")
	held, err := p.take(9)
	if err != nil || len(held) != 4 {
		t.Fatalf("took %d, %v, want the four that fit", len(held), err)
	}
	_, err = p.take(1)
	p.exhausted(err, "one more lease")
	p.exhausted(p.enqueue(1, 8, later), "one more delayed item")
	p.must(p.enqueue(50, 8, time.Time{})) // ready items lie on disk
	p.ack(held)
	for key := range p.put { // the delayed ones are not due in this test
		var n int
		if _, err := fmt.Sscanf(key, "%d", &n); err == nil && n > 100 && n <= 106 {
			delete(p.put, key)
		}
	}
	p.drain()
	s, err := p.q.Stats(t.Context(), "q")
	if err != nil || s.Delayed != 6 || s.Ready+s.Leased != 0 {
		t.Errorf("left: %+v, %v", s, err)
	}
	if p.q.held != 6 {
		t.Errorf("%d items are counted as held, want 6", p.q.held)
	}
}

// TestR12BytesOnTheirWayAreBounded holds a commit up while others enqueue.
func TestR12BytesOnTheirWayAreBounded(t *testing.T) {
	begun, goOn := make(chan struct{}), make(chan struct{})
	armed := false
	store := memstore.New(memstore.Options{CommitHook: func() error {
		if armed {
			armed = false
			close(begun)
			<-goOn
		}
		return nil
	}})
	p := newPressed(t, QueueConfig{Storage: store, MaxInFlight: 10_000})
	p.must(p.enqueue(1, 10, time.Time{})) // numbers are reserved now
	p.must(p.enqueue(1, 5000, time.Time{}))
	armed = true
	first := make(chan error, 1)
	q := p.q
	go func() {
		_, err := q.Enqueue(t.Context(), "q", []core.NewItem{{Payload: make([]byte, 600)}})
		first <- err
	}()
	<-begun
	p.exhausted(p.enqueue(1, 600, time.Time{}), "more bytes than fit beside those under way")
	close(goOn)
	p.must(<-first)
	p.put[string(make([]byte, 600))] = true
	p.must(p.enqueue(1, 600, time.Time{}))
	p.drain()
}

// TestR12FullStore fills a bounded store: producers are told, consumers go on, and
// with the room that they make producers do too.
func TestR12FullStore(t *testing.T) {
	store, err := storage.Open(t.Context(), storage.Config{Path: filepath.Join(t.TempDir(), "rollout.db"), MaxBytes: 2 << 20})
	if err != nil {
		t.Fatal(err)
	}
	p := newPressed(t, QueueConfig{Storage: store, Window: 16})
	for range min(chaosCount(t, 3), 20) {
		var full error
		for full == nil {
			full = p.enqueue(4, 5000, time.Time{})
		}
		p.exhausted(full, "an enqueue on a full store")
		if n := len(p.put) - len(p.done); n < 100 {
			t.Fatalf("the store is full with %d items", n)
		}
		for range 40 {
			items, err := p.take(3)
			p.must(err)
			p.ack(items)
		}
	}
	p.drain()
}
