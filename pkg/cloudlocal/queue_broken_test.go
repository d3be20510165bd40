package cloudlocal_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/cloudlocal"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/core/coretest"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
)

// queueMutant is a queue with one deliberate defect. Each hook stands in for the
// sound behaviour, which it is handed as the embedded queue.
type queueMutant struct {
	core.Queue
	store    core.Storage
	reopened bool

	enqueue func(ctx context.Context, m *queueMutant, queue string, items []core.NewItem) ([]core.Enqueued, error)
	dequeue func(ctx context.Context, m *queueMutant, o core.DequeueOptions) ([]core.LeasedItem, error)
	held    func(ctx context.Context, m *queueMutant, owner core.WorkerID, epoch uint64) ([]core.LeasedItem, error)
	extend  func(ctx context.Context, m *queueMutant, ls []core.Lease, life time.Duration) ([]error, error)
	ack     func(ctx context.Context, m *queueMutant, acks []core.Ack) ([]error, error)
	nack    func(ctx context.Context, m *queueMutant, ns []core.Nack) ([]core.Nacked, error)
	release func(ctx context.Context, m *queueMutant, owner core.WorkerID, epoch uint64, loss bool, reason string) ([]core.Released, error)
	stats   func(s core.QueueStats) core.QueueStats
	peek    func(ctx context.Context, m *queueMutant, queue string, after core.ItemID, limit int) ([]core.QueueEntry, error)
	dead    func(es []core.QueueEntry) []core.QueueEntry
	requeue func(ctx context.Context, m *queueMutant, queue string, ids []core.ItemID) (int, error)
	purge   func(ctx context.Context, m *queueMutant, queue string) (int, error)
	close   func(m *queueMutant) error
	restart func(ctx context.Context, m *queueMutant) error // after each reopening
}

func (m *queueMutant) Enqueue(ctx context.Context, queue string, items []core.NewItem) ([]core.Enqueued, error) {
	if m.enqueue == nil {
		return m.Queue.Enqueue(ctx, queue, items)
	}
	return m.enqueue(ctx, m, queue, items)
}

func (m *queueMutant) Dequeue(ctx context.Context, o core.DequeueOptions) ([]core.LeasedItem, error) {
	if m.dequeue == nil {
		return m.Queue.Dequeue(ctx, o)
	}
	return m.dequeue(ctx, m, o)
}

func (m *queueMutant) Held(ctx context.Context, owner core.WorkerID, epoch uint64) ([]core.LeasedItem, error) {
	if m.held == nil {
		return m.Queue.Held(ctx, owner, epoch)
	}
	return m.held(ctx, m, owner, epoch)
}

func (m *queueMutant) Extend(ctx context.Context, ls []core.Lease, life time.Duration) ([]error, error) {
	if m.extend == nil {
		return m.Queue.Extend(ctx, ls, life)
	}
	return m.extend(ctx, m, ls, life)
}

func (m *queueMutant) Ack(ctx context.Context, acks []core.Ack) ([]error, error) {
	if m.ack == nil {
		return m.Queue.Ack(ctx, acks)
	}
	return m.ack(ctx, m, acks)
}

func (m *queueMutant) Nack(ctx context.Context, ns []core.Nack) ([]core.Nacked, error) {
	if m.nack == nil {
		return m.Queue.Nack(ctx, ns)
	}
	return m.nack(ctx, m, ns)
}

func (m *queueMutant) ReleaseOwner(ctx context.Context, owner core.WorkerID, epoch uint64, loss bool, reason string) ([]core.Released, error) {
	if m.release == nil {
		return m.Queue.ReleaseOwner(ctx, owner, epoch, loss, reason)
	}
	return m.release(ctx, m, owner, epoch, loss, reason)
}

func (m *queueMutant) Stats(ctx context.Context, queue string) (core.QueueStats, error) {
	s, err := m.Queue.Stats(ctx, queue)
	if m.stats != nil {
		s = m.stats(s)
	}
	return s, err
}

func (m *queueMutant) Peek(ctx context.Context, queue string, after core.ItemID, limit int) ([]core.QueueEntry, error) {
	if m.peek == nil {
		return m.Queue.Peek(ctx, queue, after, limit)
	}
	return m.peek(ctx, m, queue, after, limit)
}

func (m *queueMutant) Dead(ctx context.Context, queue string, after core.ItemID, limit int) ([]core.QueueEntry, error) {
	es, err := m.Queue.Dead(ctx, queue, after, limit)
	if m.dead != nil {
		es = m.dead(es)
	}
	return es, err
}

func (m *queueMutant) RequeueDead(ctx context.Context, queue string, ids ...core.ItemID) (int, error) {
	if m.requeue == nil {
		return m.Queue.RequeueDead(ctx, queue, ids...)
	}
	return m.requeue(ctx, m, queue, ids)
}

func (m *queueMutant) Purge(ctx context.Context, queue string) (int, error) {
	if m.purge == nil {
		return m.Queue.Purge(ctx, queue)
	}
	return m.purge(ctx, m, queue)
}

func (m *queueMutant) Close() error {
	if m.close == nil {
		return m.Queue.Close()
	}
	return m.close(m)
}

// queueDefect is one way to be broken and the sentences that it breaks, all of
// them, each named by a part of it that no other sentence has.
type queueDefect struct {
	name   string
	mutant func() *queueMutant
	breaks []string
}

// TestBrokenQueuesFailTheSentencesTheyBreak runs the kit on defective queues. Each
// must fail every sentence that it breaks and no other, and each sentence must be
// failed by one of them.
func TestBrokenQueuesFailTheSentencesTheyBreak(t *testing.T) {
	all := slices.Concat(deliveryDefects(), leaseDefects(), operatorDefects())
	checks := coretest.QueueChecks()
	failed := map[string]bool{}
	var mu sync.Mutex // guards failed
	t.Run("defects", func(t *testing.T) {
		for _, d := range all {
			t.Run(d.name, func(t *testing.T) {
				t.Parallel()
				for _, rule := range judgeQueue(t, d, checks) {
					mu.Lock()
					failed[rule] = true
					mu.Unlock()
				}
			})
		}
	})
	for _, c := range checks {
		if !failed[c.Rule] {
			t.Errorf("no defective queue fails the sentence %q", c.Rule)
		}
	}
}

// costly are parts of sentences whose checks do much work; only the defects that
// break them run those.
var costly = []string{"many producers", "bad arguments"}

// judgeQueue returns the sentences that a defective queue failed.
func judgeQueue(t *testing.T, d queueDefect, checks []coretest.QueueCheck) (broken []string) {
	for _, part := range d.breaks {
		if n := len(slices.DeleteFunc(slices.Clone(checks), func(c coretest.QueueCheck) bool { return !strings.Contains(c.Rule, part) })); n != 1 {
			t.Errorf("%d sentences hold %q, want one", n, part)
		}
	}
	for _, c := range checks {
		want := slices.ContainsFunc(d.breaks, func(part string) bool { return strings.Contains(c.Rule, part) })
		if !want && slices.ContainsFunc(costly, func(part string) bool { return strings.Contains(c.Rule, part) }) {
			continue
		}
		err := checkMutant(d, c, want)
		if err != nil {
			broken = append(broken, c.Rule)
		}
		if want != (err != nil) {
			t.Errorf("sentence %q: broken is %v, want %v (%v)", c.Rule, err != nil, want, err)
		}
	}
	return broken
}

// checkMutant gives a check that should pass long enough for a loaded machine. One
// that should fail may have to wait for what never comes.
func checkMutant(d queueDefect, c coretest.QueueCheck, fails bool) (err error) {
	limit := time.Minute
	if fails {
		limit = 500 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	store := memstore.New(memstore.Options{})
	m := d.mutant()
	m.store = store
	f := &coretest.QueueFixture{Storage: store, Queue: m}
	open := func() (err error) {
		m.Queue, err = cloudlocal.OpenQueue(context.Background(), cloudlocal.QueueConfig{
			Storage: store, Window: 16, RetryFloor: time.Millisecond, RetryBase: time.Millisecond, Logger: slog.New(slog.DiscardHandler),
		})
		return err
	}
	f.Reopen = func() error {
		// A mutant whose Close does nothing must not leave its queue open.
		if err := m.Queue.Close(); err != nil {
			return err
		}
		m.reopened = true
		if err := open(); err != nil || m.restart == nil {
			return err
		}
		return m.restart(ctx, m)
	}
	if err := open(); err != nil {
		return err
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the check could not go on: %v", r) // it looked for what was not there
		}
		if cerr := m.Queue.Close(); err == nil {
			err = cerr
		}
		if cerr := store.Close(); err == nil {
			err = cerr
		}
	}()
	return c.Check(ctx, f)
}
