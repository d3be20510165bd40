package cloudlocal

import (
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage"
)

// Each row is measured twice: ours, and by hand, which is the same number of
// durable steps on bare bbolt with one goroutine that commits for all who wait.
// Items are numbered in order and carry 100 bytes.

var benchItem = []byte(fmt.Sprintf("%0100d", 7))

func benchQueue(b *testing.B) *Queue {
	b.Helper()
	store, err := storage.Open(b.Context(), storage.Config{Path: filepath.Join(b.TempDir(), "ours.db")})
	if err != nil {
		b.Fatal(err)
	}
	q, err := OpenQueue(b.Context(), QueueConfig{Storage: store, Logger: quiet()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := q.Close(); err != nil {
			b.Error(err)
		}
		if err := store.Close(); err != nil {
			b.Error(err)
		}
	})
	return q
}

// handQueue is a queue by hand: items and leases in a bucket each, and no index,
// no order, no checks.
type handQueue struct {
	db   *bolt.DB
	work chan handStep
	done chan struct{}
	next atomic.Uint64
}

type handStep struct {
	change func(items, leases *bolt.Bucket) error
	result chan error
}

var handItems, handLeases = []byte("items"), []byte("leases")

func newHandQueue(b *testing.B) *handQueue {
	b.Helper()
	db, err := bolt.Open(filepath.Join(b.TempDir(), "hand.db"), 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType, NoStatistics: true})
	if err != nil {
		b.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		if _, err := tx.CreateBucket(handItems); err != nil {
			return err
		}
		_, err := tx.CreateBucket(handLeases)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	h := &handQueue{db: db, work: make(chan handStep, 4096), done: make(chan struct{})}
	go h.run()
	b.Cleanup(func() {
		close(h.work)
		<-h.done
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	return h
}

func (h *handQueue) update(steps ...handStep) error {
	return h.db.Update(func(tx *bolt.Tx) error {
		items, leases := tx.Bucket(handItems), tx.Bucket(handLeases)
		for _, s := range steps {
			if err := s.change(items, leases); err != nil {
				return err
			}
		}
		return nil
	})
}

func (h *handQueue) run() {
	defer close(h.done)
	var group []handStep
	for first := range h.work {
		group = append(group[:0], first)
		for more := true; more && len(group) < 1024; {
			select {
			case s, ok := <-h.work:
				if more = ok; ok {
					group = append(group, s)
				}
			default:
				more = false
			}
		}
		err := h.update(group...)
		for _, s := range group {
			s.result <- err
		}
	}
}

// do has a change committed together with those of others.
func (h *handQueue) do(change func(items, leases *bolt.Bucket) error) error {
	s := handStep{change, make(chan error, 1)}
	h.work <- s
	return <-s.result
}

// put returns a step that stores the next item, and the item's key.
func (h *handQueue) put() ([]byte, func(items, leases *bolt.Bucket) error) {
	key := binary.BigEndian.AppendUint64(nil, h.next.Add(1))
	return key, func(items, _ *bolt.Bucket) error { return items.Put(key, benchItem) }
}

// cycle is one item's life in three durable steps.
func (h *handQueue) cycle() error {
	key, put := h.put()
	if err := h.do(put); err != nil {
		return err
	}
	lease := make([]byte, 40)
	if err := h.do(func(_, leases *bolt.Bucket) error { return leases.Put(key, lease) }); err != nil {
		return err
	}
	return h.do(func(items, leases *bolt.Bucket) error {
		if leases.Get(key) == nil {
			return fmt.Errorf("item %x is not leased", key)
		}
		if err := leases.Delete(key); err != nil {
			return err
		}
		return items.Delete(key)
	})
}

// spreadQueue runs b.N calls of do, shared by that many goroutines.
func spreadQueue(b *testing.B, goroutines int, do func(g int) error) {
	b.Helper()
	var next atomic.Int64
	var group sync.WaitGroup
	errs := make(chan error, goroutines)
	b.ResetTimer()
	for g := range goroutines {
		group.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if err := do(g); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	group.Wait()
	b.StopTimer()
	close(errs)
	if err := <-errs; err != nil {
		b.Fatal(err)
	}
}

// BenchmarkEnqueue is one durable enqueue of one item.
func BenchmarkEnqueue(b *testing.B) {
	for _, producers := range []int{1, 64} {
		name := fmt.Sprintf("%d-producers", producers)
		b.Run(name+"/ours", func(b *testing.B) {
			q := benchQueue(b)
			spreadQueue(b, producers, func(int) error {
				_, err := q.Enqueue(b.Context(), "q", []core.NewItem{{Payload: benchItem}})
				return err
			})
		})
		b.Run(name+"/hand", func(b *testing.B) {
			h := newHandQueue(b)
			spreadQueue(b, producers, func(int) error {
				_, put := h.put()
				if producers == 1 {
					return h.update(handStep{change: put})
				}
				return h.do(put)
			})
		})
	}
}

// BenchmarkEnqueueBatch is one durable enqueue of 100 items.
func BenchmarkEnqueueBatch(b *testing.B) {
	const size = 100
	b.Run("ours", func(b *testing.B) {
		q := benchQueue(b)
		items := make([]core.NewItem, size)
		for i := range items {
			items[i].Payload = benchItem
		}
		for b.Loop() {
			if _, err := q.Enqueue(b.Context(), "q", items); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "items/s")
	})
	b.Run("hand", func(b *testing.B) {
		h := newHandQueue(b)
		for b.Loop() {
			steps := make([]handStep, size)
			for i := range steps {
				_, steps[i].change = h.put()
			}
			if err := h.update(steps...); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "items/s")
	})
}

// cycleOurs enqueues, leases and finishes one item.
func cycleOurs(ctx context.Context, q *Queue, owner core.WorkerID) error {
	if _, err := q.Enqueue(ctx, "q", []core.NewItem{{Payload: benchItem}}); err != nil {
		return err
	}
	got, err := q.Dequeue(ctx, core.DequeueOptions{Queues: []string{"q"}, Owner: owner, Epoch: 1, MaxItems: 1})
	if err != nil {
		return err
	}
	if len(got) != 1 {
		return fmt.Errorf("%d items came where one was due", len(got))
	}
	return core.AckOne(ctx, q, got[0].Lease)
}

// BenchmarkCycle is the life of one item in three durable steps, 64 at a time.
func BenchmarkCycle(b *testing.B) {
	b.Run("ours", func(b *testing.B) {
		q := benchQueue(b)
		spreadQueue(b, 64, func(g int) error { return cycleOurs(b.Context(), q, core.WorkerID{15: byte(g + 1)}) })
	})
	b.Run("hand", func(b *testing.B) {
		h := newHandQueue(b)
		spreadQueue(b, 64, func(int) error { return h.cycle() })
	})
}
