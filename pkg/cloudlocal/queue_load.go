package cloudlocal

import (
	"context"
	"encoding/binary"
	"iter"
	"slices"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// load builds the index from the rows of every queue.
func (q *Queue) load(ctx context.Context) error {
	names := core.NewKey(core.NamespaceQueue, "", "q")
	for e, err := range q.cfg.Storage.Iterate(ctx, names, core.ScanOptions{}) {
		if err != nil {
			return core.WithOp("queue: load", err)
		}
		if len(e.Key.Path) != 3 {
			return core.Errorf("queue: load", core.CodeCorrupt, "row %q does not name a queue", e.Key)
		}
		ld, err := q.loadQueue(ctx, e.Key.Path[2])
		if err != nil {
			return core.WithOp("queue: load", err)
		}
		q.mu.Lock()
		q.adopt(ld)
		q.mu.Unlock()
	}
	return nil
}

// loadedQueue is a queue read from its rows, not yet part of the index.
type loadedQueue struct {
	ix      *queueIndex
	leases  []*leased
	delayed []waiting
}

// adopt makes a loaded queue part of the index. mu is held.
func (q *Queue) adopt(ld *loadedQueue) {
	q.queues[ld.ix.name] = ld.ix
	for _, l := range ld.leases {
		q.held++
		q.hold(ld.ix, l)
	}
	for _, w := range ld.delayed {
		ld.ix.delayed[w.place.id] = w.place
		q.held++
		q.schedule(w)
	}
}

// loadQueue reads one queue. It touches nothing of q but its configuration.
func (q *Queue) loadQueue(ctx context.Context, name string) (*loadedQueue, error) {
	ix := newQueueIndex(name)
	ld := &loadedQueue{ix: ix}
	if err := q.loadItems(ctx, ld); err != nil {
		return nil, err
	}
	if err := q.loadRest(ctx, ix); err != nil {
		return nil, err
	}
	es, err := q.cfg.Storage.GetMany(ctx, rowKey(name, rowHigh))
	if err != nil {
		return nil, err
	}
	if es[0].Exists() {
		if len(es[0].Value) != 8 {
			return nil, core.Errorf("queue: load", core.CodeCorrupt, "row %q has %d bytes, not 8", es[0].Key, len(es[0].Value))
		}
		ix.high = core.ItemID(binary.BigEndian.Uint64(es[0].Value))
	}
	// Numbers up to high may have been used by items that are gone.
	ix.next = max(ix.next, ix.high+1)
	return ld, nil
}

func placeOf(k core.Key) (place, error) {
	if len(k.Path) != 3 {
		return place{}, core.Errorf("queue: read row", core.CodeCorrupt, "row %q has no place", k)
	}
	return parsePlace(k.Path[2])
}

// stateCursor walks the states of a queue beside its items, whose places are in the
// same order.
type stateCursor struct {
	next  func() (core.Entry, error, bool)
	place place // of the state that has not been asked for yet
	state stateRecord
	ended bool
}

func (c *stateCursor) advance() error {
	e, err, ok := c.next()
	if err != nil || !ok {
		c.ended = true
		return err
	}
	if c.place, err = placeOf(e.Key); err != nil {
		return err
	}
	c.state, err = decodeState(e.Key, e.Value)
	return err
}

// of returns the state of the item at p, if it has one. Places are asked for in
// order; a state that is passed over has no item.
func (c *stateCursor) of(p place) (st stateRecord, tried bool, err error) {
	if c.ended || p.before(c.place) {
		return stateRecord{}, false, nil
	}
	if p != c.place {
		return stateRecord{}, false, c.orphan()
	}
	st = c.state
	return st, true, c.advance()
}

func (c *stateCursor) orphan() error {
	return core.Errorf("queue: load", core.CodeCorrupt, "item %d has a state but no item row", c.place.id)
}

// loadItems files every item by its state. Leases keep their owner and token, so
// an owner that outlived the restart goes on with them.
func (q *Queue) loadItems(ctx context.Context, ld *loadedQueue) error {
	next, stop := iter.Pull2(q.cfg.Storage.Iterate(ctx, rowKey(ld.ix.name, rowState), core.ScanOptions{}))
	defer stop()
	states := stateCursor{next: next}
	if err := states.advance(); err != nil {
		return err
	}
	now := time.Now()
	for e, err := range q.cfg.Storage.Iterate(ctx, rowKey(ld.ix.name, rowItem), core.ScanOptions{}) {
		if err != nil {
			return err
		}
		p, err := placeOf(e.Key)
		if err != nil {
			return err
		}
		st, tried, err := states.of(p)
		if err != nil {
			return err
		}
		if err := q.loadItem(ld, e, p, st, tried, now); err != nil {
			return err
		}
	}
	if !states.ended {
		return states.orphan()
	}
	return nil
}

// loadItem files one item. Its row is decoded only where memory needs something of
// it.
func (q *Queue) loadItem(ld *loadedQueue, e core.Entry, p place, st stateRecord, tried bool, now time.Time) error {
	ix := ld.ix
	ix.next = max(ix.next, p.id+1)
	switch {
	case st.Token != 0:
		item, err := decodeItem(e.Key, e.Value)
		if err != nil {
			return err
		}
		ld.leases = append(ld.leases, leasedOf(ix.name, p, item, st, q.cfg))
	case st.NotBeforeMS > now.UnixMilli():
		ld.delayed = append(ld.delayed, waiting{at: time.UnixMilli(st.NotBeforeMS), q: ix, place: p})
	default:
		ix.arrive(p, tried, q.cfg.Window)
	}
	return nil
}

// leasedOf rebuilds a lease from its rows.
func leasedOf(queue string, p place, item itemRecord, st stateRecord, cfg QueueConfig) *leased {
	l := &leased{
		lease:    core.Lease{Queue: queue, Item: p.id, Epoch: st.Epoch, Token: st.Token},
		place:    p,
		attempts: st.Attempts, losses: st.Losses,
		maxA: orDefault(item.MaxAttempts, cfg.MaxAttempts), maxL: orDefault(item.MaxLosses, cfg.MaxLosses),
		key: item.Key, size: item.Size, deadline: timeOfMS(st.DeadlineMS),
	}
	copy(l.lease.Owner[:], st.Owner)
	return l
}

func orDefault(v, def int) int {
	if v == 0 {
		return def
	}
	return v
}

// loadRest counts dead items and lists finished idempotency keys by age.
func (q *Queue) loadRest(ctx context.Context, ix *queueIndex) error {
	for e, err := range q.cfg.Storage.Iterate(ctx, rowKey(ix.name, rowDead), core.ScanOptions{}) {
		if err != nil {
			return err
		}
		if len(e.Key.Path) != 3 {
			return core.Errorf("queue: load", core.CodeCorrupt, "row %q has no number", e.Key)
		}
		n, err := parseNumber(e.Key.Path[2])
		if err != nil {
			return err
		}
		ix.next = max(ix.next, core.ItemID(n)+1)
		ix.dead++
	}
	type finished struct {
		key string
		at  int64
	}
	var done []finished
	for e, err := range q.cfg.Storage.Iterate(ctx, rowKey(ix.name, rowIdem), core.ScanOptions{}) {
		if err != nil {
			return err
		}
		r, err := decodeIdem(e.Key, e.Value)
		if err != nil {
			return err
		}
		if r.DoneMS != 0 && len(e.Key.Path) == 3 {
			done = append(done, finished{e.Key.Path[2], r.DoneMS})
		}
	}
	slices.SortStableFunc(done, func(a, b finished) int { return int(min(max(a.at-b.at, -1), 1)) })
	for _, f := range done {
		ix.done = append(ix.done, f.key)
	}
	return nil
}
