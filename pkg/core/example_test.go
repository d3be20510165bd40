package core_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
)

// A storage keeps rows under keys. Update runs a transaction until it commits without a
// conflict.
func ExampleStorage() {
	ctx := context.Background()
	var store core.Storage = memstore.New(memstore.Options{})
	defer store.Close()

	notes := core.NewKey("notes")
	rev, err := core.Update(ctx, store, func(tx core.Txn) error {
		for _, name := range []string{"b", "a"} {
			if err := tx.Put(notes.Child(name), []byte("note "+name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	rows, err := store.Scan(ctx, notes, core.ScanOptions{})
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range rows {
		fmt.Printf("%s = %s, revision %d\n", r.Key, r.Value, r.Revision)
	}
	_, err = core.Get(ctx, store, notes.Child("c"))
	fmt.Println("commit", rev, "and then", core.CodeOf(err))
	// Output:
	// notes/a = note a, revision 1
	// notes/b = note b, revision 1
	// commit 1 and then not_found
}

// A transaction commits only when nothing that it has read has changed meanwhile.
func ExampleTxn() {
	ctx := context.Background()
	store := memstore.New(memstore.Options{})
	defer store.Close()
	counter := core.NewKey("counters", "seen")

	tx, err := store.Begin(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Discard()
	swapped, err := tx.CompareAndSwap(ctx, counter, nil, []byte("1")) // insert only
	if err != nil {
		log.Fatal(err)
	}
	// Somebody else is faster.
	if _, err := core.PutBytes(ctx, store, counter, []byte("7")); err != nil {
		log.Fatal(err)
	}
	_, err = tx.Commit(ctx)
	fmt.Println(swapped, core.CodeOf(err))
	// Output: true conflict
}

// A watch delivers every commit below a prefix, once and in order, from any revision
// that the history still holds.
func ExampleWatcher() {
	ctx := context.Background()
	store := memstore.New(memstore.Options{})
	defer store.Close()
	for _, name := range []string{"one", "two"} {
		if _, err := core.PutBytes(ctx, store, core.NewKey("jobs", name), []byte("new")); err != nil {
			log.Fatal(err)
		}
	}
	w, err := store.Watch(ctx, core.NewKey("jobs"), 1)
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	for range 2 {
		c, err := w.Next(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(c.Revision, c.Changes[0].Key)
	}
	fmt.Println("go on from", w.Progress()+1)
	// Output:
	// 1 jobs/one
	// 2 jobs/two
	// go on from 3
}

// Callers branch on codes, never on text, and the hint says whether to try again.
func ExampleErrorf() {
	err := core.Errorf("fetch", core.CodeUnavailable, "nobody listens at %s", "127.0.0.1:1")
	wrapped := fmt.Errorf("start: %w", err)

	var e *core.Error
	fmt.Println(core.CodeOf(wrapped), core.RetryOf(wrapped).Kind == core.RetryBackoff, errors.As(wrapped, &e))
	fmt.Println(wrapped)
	// Output:
	// unavailable true true
	// start: fetch: nobody listens at 127.0.0.1:1
}

// Whatever prints a secret, its bytes stay where they are.
func ExampleSecret() {
	s := core.NewSecret([]byte("hunter2"))
	fmt.Printf("%v %s %q %d bytes\n", s, s, s, s.Len())
	fmt.Println(string(s.Reveal()))
	// Output:
	// [redacted] [redacted] [redacted] 7 bytes
	// hunter2
}

// topics is an emitter that counts. Emit never waits, so that telling an event costs a
// heartbeat nothing.
type topics struct {
	mu   sync.Mutex // guards seen
	seen map[string]int
}

var _ core.EventEmitter = (*topics)(nil)

// Emit implements [core.EventEmitter].
func (t *topics) Emit(ev core.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen[ev.Topic]++
}

// Close implements [core.EventEmitter]. Nothing waits to be printed.
func (t *topics) Close(context.Context) error { return nil }

// An emitter of one's own goes into the Config of a coordinator or worker.
func ExampleEventEmitter() {
	em := &topics{seen: map[string]int{}}
	em.Emit(core.Event{Kind: core.EventDomain, Topic: core.TopicWorkerRegistered})
	em.Emit(core.Event{Kind: core.EventDomain, Topic: core.TopicWorkerRegistered})
	if err := em.Close(context.Background()); err != nil {
		log.Fatal(err)
	}
	fmt.Println(em.seen[core.TopicWorkerRegistered])
	// Output: 2
}

// One interval gives the whole timing, and the rules hold it together.
func ExampleDefaultTiming() {
	t := core.DefaultTiming(time.Second)
	fmt.Println(t.HeartbeatInterval, t.SelfFence, t.Failure, len(t.Validate()) == 0)
	t.SelfFence = t.Failure
	fmt.Println(len(t.Validate()) > 0)
	// Output:
	// 1s 1.5s 1.75s true
	// true
}

// fixed is a machine that is known without looking, for tests and for platforms that
// describe themselves.
type fixed struct{ gone chan core.Preemption }

var _ core.ComputeHint = fixed{}

// Inventory implements [core.ComputeHint].
func (fixed) Inventory(context.Context) (core.Inventory, error) {
	return core.Inventory{Hostname: "gpu-7", GPUs: []core.GPUInfo{{Name: "H100", MemoryMiB: 80 << 10}}}, nil
}

// Preemption implements [core.ComputeHint].
func (f fixed) Preemption(ctx context.Context) (core.Preemption, error) {
	select {
	case p := <-f.gone:
		return p, nil
	case <-ctx.Done():
		return core.Preemption{}, core.Wrap("preemption", core.CodeCanceled, ctx.Err())
	}
}

// A worker asks its hint once what the machine is, and waits for its end, on which it
// drains.
func ExampleComputeHint() {
	hint := fixed{gone: make(chan core.Preemption, 1)}
	inv, err := hint.Inventory(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	hint.gone <- core.Preemption{Source: "the platform", Reason: "spot price"}
	p, err := hint.Preemption(context.Background())
	fmt.Println(inv.GPUs[0].Name, p.Reason, err)
	// Output: H100 spot price <nil>
}
