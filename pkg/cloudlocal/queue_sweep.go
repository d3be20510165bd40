package cloudlocal

import (
	"context"
	"errors"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Bounds of one transaction of an operator's call.
const (
	sweepRows  = 4096
	sweepBytes = 4 << 20
)

func deadOf(e core.Entry) (core.ItemID, deadRecord, error) {
	if len(e.Key.Path) != 3 {
		return 0, deadRecord{}, core.Errorf("queue: read row", core.CodeCorrupt, "row %q has no number", e.Key)
	}
	n, err := parseNumber(e.Key.Path[2])
	if err != nil {
		return 0, deadRecord{}, err
	}
	r, err := decodeDead(e.Key, e.Value)
	return core.ItemID(n), r, err
}

// RequeueDead implements [core.Queue].
func (q *Queue) RequeueDead(ctx context.Context, queue string, ids ...core.ItemID) (int, error) {
	return q.sweepDead(ctx, "queue: requeue dead", queue, ids, func(tx core.Txn, id core.ItemID, r deadRecord) (place, error) {
		p := place{prio: r.Priority, id: id}
		b, err := encodeRecord(&r.Item)
		if err != nil {
			return p, err
		}
		if err := tx.Put(rowKey(queue, rowItem, p.segment()), b); err != nil {
			return p, err
		}
		return p, putState(tx, queue, p, stateRecord{Version: recordVersion, History: r.State.History})
	})
}

// DropDead implements [core.Queue].
func (q *Queue) DropDead(ctx context.Context, queue string, ids ...core.ItemID) (int, error) {
	return q.sweepDead(ctx, "queue: drop dead", queue, ids, func(tx core.Txn, id core.ItemID, r deadRecord) (place, error) {
		if r.Item.Key == "" {
			return place{}, nil
		}
		return place{}, tx.Delete(rowKey(queue, rowIdem, r.Item.Key))
	})
}

// sweepEach stages what becomes of a dead item and returns its place when it is
// ready again.
type sweepEach func(tx core.Txn, id core.ItemID, r deadRecord) (place, error)

// sweepDead takes dead items away in batches. One call at a time sweeps a queue,
// so that none can find the rows of another's items before they are filed.
func (q *Queue) sweepDead(ctx context.Context, op, queue string, ids []core.ItemID, each sweepEach) (int, error) {
	ix, err := q.enter(op, queue, false)
	if err != nil {
		return 0, err
	}
	if ix == nil {
		q.mu.Unlock()
		return 0, nil
	}
	for ix.sweeping {
		q.cond.Wait()
	}
	ix.sweeping = true
	q.mu.Unlock()
	total, err := q.sweepAll(context.WithoutCancel(ctx), ix, ids, each)
	q.mu.Lock()
	ix.sweeping = false
	q.exit(ix)
	return total, core.WithOp(op, err)
}

// sweepAll sweeps the named items, or all that are dead now.
func (q *Queue) sweepAll(ctx context.Context, ix *queueIndex, ids []core.ItemID, each sweepEach) (total int, err error) {
	all := len(ids) == 0
	var after core.ItemID
	for {
		if all && len(ids) == 0 {
			if ids, err = q.deadIDs(ctx, ix.name, after); err != nil {
				return total, err
			}
		}
		if len(ids) == 0 {
			return total, nil
		}
		after = ids[len(ids)-1]
		done, gone, err := q.sweepSome(ctx, ix, ids, each)
		total += gone
		if err != nil {
			return total, err
		}
		ids = ids[done:]
	}
}

// deadIDs lists dead items behind after.
func (q *Queue) deadIDs(ctx context.Context, queue string, after core.ItemID) ([]core.ItemID, error) {
	from := rowKey(queue, rowDead, numberSegment(after))
	var ids []core.ItemID
	for e, err := range q.cfg.Storage.Iterate(ctx, rowKey(queue, rowDead), core.ScanOptions{After: &from, Limit: sweepRows}) {
		if err != nil {
			return nil, err
		}
		id, _, err := deadOf(e)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// sweepSome sweeps as many of the items as one transaction takes, and returns how
// many it looked at and how many were dead. While their rows are being made no
// refill may find them: they are filed here.
func (q *Queue) sweepSome(ctx context.Context, ix *queueIndex, ids []core.ItemID, each sweepEach) (done, gone int, err error) {
	ids = ids[:min(len(ids), sweepRows)]
	q.mu.Lock()
	for _, id := range ids {
		ix.guarded[id] = true
	}
	q.mu.Unlock()
	places, done, gone, err := q.sweepRows(ctx, ix.name, ids, each)
	q.mu.Lock()
	defer q.mu.Unlock()
	clear(ix.guarded)
	ix.dead -= int64(gone)
	for _, p := range places {
		ix.arrive(p, true, q.cfg.Window)
	}
	ix.wake(len(places))
	return done, gone, err
}

func (q *Queue) sweepRows(ctx context.Context, queue string, ids []core.ItemID, each sweepEach) (places []place, done, gone int, err error) {
	err = q.reserve.update(ctx, func(tx core.Txn) error {
		places, done, gone = nil, 0, 0
		size := 0
		for _, id := range ids {
			key := rowKey(queue, rowDead, numberSegment(id))
			es, err := tx.GetMany(ctx, key)
			if err != nil {
				return err
			}
			if size += len(es[0].Value); size > sweepBytes && done > 0 {
				return nil
			}
			done++
			if !es[0].Exists() {
				continue
			}
			_, r, err := deadOf(es[0])
			if err != nil {
				return err
			}
			p, err := each(tx, id, r)
			if err != nil {
				return err
			}
			if err := tx.Delete(key); err != nil {
				return err
			}
			gone++
			if p.id != 0 {
				places = append(places, p)
			}
		}
		return nil
	})
	if err != nil {
		return nil, 0, 0, err
	}
	return places, done, gone, nil
}

// Purge implements [core.Queue]. Calls under way finish first; others wait until
// the rows are gone. A process that dies meanwhile leaves whole items, which a
// second purge removes.
func (q *Queue) Purge(ctx context.Context, queue string) (int, error) {
	const op = "queue: purge"
	if err := checkName(op, queue); err != nil {
		return 0, err
	}
	q.mu.Lock()
	ix, err := q.close(op, queue)
	if ix == nil {
		q.mu.Unlock()
		return 0, err
	}
	for _, l := range ix.leases {
		q.drop(ix, l)
	}
	q.held -= len(ix.delayed)
	clear(ix.delayed)
	ix.lanes, ix.done, ix.dead = nil, nil, 0
	q.mu.Unlock()

	ctx = context.WithoutCancel(ctx)
	total, err := q.removeAll(ctx, queue)
	var left *loadedQueue
	if err != nil {
		// Rows that are left must be known again.
		var lerr error
		if left, lerr = q.loadQueue(ctx, queue); lerr != nil {
			err = errors.Join(err, lerr)
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if left != nil {
		left.ix.next, left.ix.waiters = max(left.ix.next, ix.next), ix.waiters
		left.ix.added, left.ix.acked = ix.added, ix.acked
		q.adopt(left)
	}
	q.reopen(ix)
	return total, core.WithOp(op, err)
}

// removeAll deletes the rows of a queue except its reservation of numbers, and
// counts the items. An item goes with its state, because a state alone is damage
// to whoever loads the queue.
func (q *Queue) removeAll(ctx context.Context, queue string) (int, error) {
	total := 0
	for _, row := range []string{rowItem, rowDead, rowIdem} {
		for {
			keys, err := q.someKeys(ctx, rowKey(queue, row))
			if err != nil {
				return total, err
			}
			if len(keys) == 0 {
				break
			}
			err = q.reserve.update(ctx, func(tx core.Txn) error {
				for _, k := range keys {
					if err := removeWhole(tx, k); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return total, err
			}
			if row != rowIdem {
				total += len(keys)
			}
		}
	}
	return total, nil
}

// removeWhole deletes a row, and the state with an item.
func removeWhole(tx core.Txn, k core.Key) error {
	if err := tx.Delete(k); err != nil || k.Path[1] != rowItem || len(k.Path) != 3 {
		return err
	}
	return tx.Delete(rowKey(k.Path[0], rowState, k.Path[2]))
}

// someKeys returns the keys of the first rows below a prefix.
func (q *Queue) someKeys(ctx context.Context, prefix core.Key) ([]core.Key, error) {
	var keys []core.Key
	for e, err := range q.cfg.Storage.Iterate(ctx, prefix, core.ScanOptions{Limit: sweepRows}) {
		if err != nil {
			return nil, err
		}
		keys = append(keys, e.Key)
	}
	return keys, nil
}
