package cloudlocal

import (
	"container/heap"
	"context"
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Queue is a [core.Queue] on a [core.Storage]. Rows are the truth; memory holds
// an index of what is leased, what waits for a time, and a window of what is
// ready, refilled by scans, so its size does not follow the length of a queue.
//
// Every change has two halves: under mu the items concerned are taken out of the
// index or marked busy, then the rows are committed without the lock, then the
// outcome is filed under mu again. A commit is never abandoned half way: it runs
// to its end even when the caller's context ends, so the index always knows the
// outcome.
type Queue struct {
	cfg     QueueConfig
	log     *slog.Logger
	changed chan struct{} // capacity 1: the timeline has a new first element
	reserve reserve
	stop    context.CancelFunc
	done    chan struct{} // closed when the timer's goroutine has ended

	// mu guards everything below and every queueIndex. Held for memory work
	// only: no storage or object call is made under it.
	mu       sync.Mutex
	cond     *sync.Cond // broadcast whenever a call finishes its second half
	queues   map[string]*queueIndex
	times    timeline
	token    uint64
	released map[core.WorkerID]uint64           // epochs up to this one may hold nothing
	owners   map[core.WorkerID]map[*leased]bool // leases by owner
	ownBusy  map[core.WorkerRef]int             // calls of an epoch between their halves
	inFlight int64
	held     int // delayed and leased items, and those about to be
	closed   bool
}

var (
	_ core.Queue        = (*Queue)(nil)
	_ core.ReadyCounter = (*Queue)(nil)
)

// OpenQueue loads every queue of cfg.Storage. One Queue at a time may be open on
// a store; whoever opens the store exclusively gets that for free.
func OpenQueue(ctx context.Context, cfg QueueConfig) (*Queue, error) {
	if err := cfg.Validate().Err("queue: open"); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	q := &Queue{
		cfg: cfg, log: cfg.Logger,
		changed: make(chan struct{}, 1), done: make(chan struct{}),
		queues:   make(map[string]*queueIndex),
		released: make(map[core.WorkerID]uint64),
		owners:   make(map[core.WorkerID]map[*leased]bool),
		ownBusy:  make(map[core.WorkerRef]int),
		reserve:  reserve{store: cfg.Storage, size: cfg.Reserve},
	}
	q.cond = sync.NewCond(&q.mu)
	if err := q.reserve.open(ctx); err != nil {
		return nil, err
	}
	opens, err := q.countOpen(ctx)
	if err != nil {
		return nil, err
	}
	// Tokens of different openings can never meet: 2^40 grants fit in one.
	q.token = opens << 40
	if err := q.load(ctx); err != nil {
		return nil, err
	}
	run, stop := context.WithCancel(context.Background())
	q.stop = stop
	go q.keepTime(run)
	return q, nil
}

// countOpen raises the durable count of openings and returns it.
func (q *Queue) countOpen(ctx context.Context) (uint64, error) {
	key := core.NewKey(core.NamespaceQueue, "", "opens")
	var n uint64
	err := q.reserve.update(ctx, func(tx core.Txn) error {
		es, err := tx.GetMany(ctx, key)
		if err != nil {
			return err
		}
		n = 1
		if es[0].Exists() {
			if len(es[0].Value) != 8 {
				return core.Errorf("queue: open", core.CodeCorrupt, "row %q has %d bytes, not 8", key, len(es[0].Value))
			}
			n += binary.BigEndian.Uint64(es[0].Value)
		}
		return tx.Put(key, binary.BigEndian.AppendUint64(nil, n))
	})
	return n, core.WithOp("queue: open", err)
}

// Close ends waiting calls and the timer and waits for changes under way. The
// Storage stays open.
func (q *Queue) Close() error {
	q.mu.Lock()
	q.closed = true
	for _, ix := range q.queues {
		ix.wake(len(ix.waiters))
	}
	q.cond.Broadcast()
	for q.anyBusy() {
		q.cond.Wait()
	}
	q.mu.Unlock()
	q.stop()
	<-q.done
	return nil
}

func (q *Queue) anyBusy() bool {
	for _, ix := range q.queues {
		if ix.busy > 0 {
			return true
		}
	}
	return false
}

func errClosed(op string) error { return core.Errorf(op, core.CodeClosed, "the queue is closed") }

// checkName refuses names that could not be printed or typed.
func checkName(op, name string) error {
	ok := len(name) > 0 && len(name) <= core.MaxQueueNameLen
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		ok = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_./", c) >= 0
	}
	if !ok {
		return core.Errorf(op, core.CodeInvalidArgument, "queue name %.64q must have 1 to %d letters, digits, or any of -_./", name, core.MaxQueueNameLen)
	}
	return nil
}

// enter starts a change of one queue: it waits out a purge, counts the call busy
// and returns with mu held. A nil index means that the error is the answer and mu
// is not held.
func (q *Queue) enter(op, name string, create bool) (*queueIndex, error) {
	if err := checkName(op, name); err != nil {
		return nil, err
	}
	q.mu.Lock()
	for {
		if q.closed {
			q.mu.Unlock()
			return nil, errClosed(op)
		}
		ix := q.queues[name]
		if ix == nil && create {
			ix = newQueueIndex(name)
			q.queues[name] = ix
		}
		if ix == nil || !ix.purging {
			if ix != nil {
				ix.busy++
			}
			return ix, nil
		}
		q.cond.Wait()
	}
}

// exit ends what enter began. mu is held on entry and released on return.
func (q *Queue) exit(ix *queueIndex) {
	ix.busy--
	q.cond.Broadcast()
	q.mu.Unlock()
}

// own notes that a call is between its halves on behalf of an owner's epoch. mu is
// held.
func (q *Queue) own(owner core.WorkerID, epoch uint64) {
	q.ownBusy[core.WorkerRef{ID: owner, Epoch: epoch}]++
}

// disown ends what own began. mu is held.
func (q *Queue) disown(owner core.WorkerID, epoch uint64) {
	ref := core.WorkerRef{ID: owner, Epoch: epoch}
	if q.ownBusy[ref]--; q.ownBusy[ref] == 0 {
		delete(q.ownBusy, ref)
	}
}

// owning reports whether a call is between its halves on behalf of an owner's
// epochs up to that one. mu is held.
func (q *Queue) owning(owner core.WorkerID, epoch uint64) bool {
	for ref := range q.ownBusy {
		if ref.ID == owner && ref.Epoch <= epoch {
			return true
		}
	}
	return false
}

// hold files a lease in the index; its place in held is the caller's. mu is held.
func (q *Queue) hold(ix *queueIndex, l *leased) {
	ix.leases[l.place.id] = l
	set := q.owners[l.lease.Owner]
	if set == nil {
		set = make(map[*leased]bool)
		q.owners[l.lease.Owner] = set
	}
	set[l] = true
	if !l.deadline.IsZero() {
		q.schedule(waiting{at: l.deadline, q: ix, place: l.place, token: l.lease.Token})
	}
}

// drop removes a lease from the index. mu is held.
func (q *Queue) drop(ix *queueIndex, l *leased) {
	delete(ix.leases, l.place.id)
	if set := q.owners[l.lease.Owner]; set != nil {
		delete(set, l)
		if len(set) == 0 {
			delete(q.owners, l.lease.Owner)
		}
	}
	q.held--
}

// schedule adds to the timeline and tells the timer when its next wake-up moved.
// mu is held.
func (q *Queue) schedule(w waiting) {
	q.compact()
	heap.Push(&q.times, w)
	if q.times[0].at.Equal(w.at) {
		select {
		case q.changed <- struct{}{}:
		default: // the timer has been told already and will look at the newest state
		}
	}
}

// delay returns when a failed item is tried again; zero means at once.
func (q *Queue) delay(hint core.RetryHint, attempts int) time.Duration {
	switch hint.Kind {
	case core.RetryAfter:
		return max(hint.After, q.cfg.RetryFloor)
	case core.RetryNow:
		return q.cfg.RetryFloor
	}
	base, limit := hint.Base, hint.Max
	if base <= 0 {
		base = q.cfg.RetryBase
	}
	if limit < base {
		limit = max(base, q.cfg.RetryMax)
	}
	bound := base
	for i := 1; i < attempts && bound < limit; i++ {
		bound *= 2
	}
	// Full jitter spreads items that failed together over the whole interval.
	return max(q.cfg.RetryFloor, time.Duration(rand.Int64N(int64(min(bound, limit))+1)))
}
