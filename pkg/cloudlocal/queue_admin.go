package cloudlocal

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// sweepBatch is how many rows one transaction of an operator's call changes.
const sweepBatch = 4096

// Queues implements [core.Queue].
func (q *Queue) Queues(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, core.Wrap("queue: list", core.CodeCanceled, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil, errClosed("queue: list")
	}
	names := make([]string, 0, len(q.queues))
	for name, ix := range q.queues {
		if ix.high > 0 { // a queue that was only asked for holds nothing
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Stats implements [core.Queue].
func (q *Queue) Stats(ctx context.Context, queue string) (core.QueueStats, error) {
	const op = "queue: stats"
	if err := checkName(op, queue); err != nil {
		return core.QueueStats{}, err
	}
	st := core.QueueStats{Queue: queue}
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return st, errClosed(op)
	}
	ix := q.queues[queue]
	var oldest place
	if ix != nil {
		st.Ready, st.Delayed, st.Leased, st.Dead = ix.readyCount(), int64(len(ix.delayed)), int64(len(ix.leases)), ix.dead
		st.Enqueued, st.Acked = ix.added, ix.acked
		for _, l := range ix.lanes {
			if len(l.ready) > 0 && (oldest.id == 0 || l.ready[0].id < oldest.id) {
				oldest = place{prio: l.prio, id: l.ready[0].id}
			}
		}
	}
	q.mu.Unlock()
	if oldest.id == 0 {
		return st, nil
	}
	key := rowKey(queue, rowItem, oldest.segment())
	es, err := q.cfg.Storage.GetMany(ctx, key)
	if err != nil {
		return st, core.WithOp(op, err)
	}
	if es[0].Exists() { // it may have been finished meanwhile
		item, err := decodeItem(key, es[0].Value)
		if err != nil {
			return st, core.WithOp(op, err)
		}
		st.Oldest = max(0, time.Since(timeOfMS(item.EnqueuedMS)))
	}
	return st, nil
}

// Ready implements [core.ReadyCounter].
func (q *Queue) Ready(queue string) int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	ix := q.queues[queue]
	if ix == nil {
		return 0
	}
	return ix.readyCount()
}

// Peek implements [core.Queue]. Rows lie by priority, so the answer is merged
// from one scan for each priority.
func (q *Queue) Peek(ctx context.Context, queue string, after core.ItemID, limit int) ([]core.QueueEntry, error) {
	const op = "queue: peek"
	if err := checkName(op, queue); err != nil {
		return nil, err
	}
	q.mu.Lock()
	var prios []int32
	if ix := q.queues[queue]; ix != nil {
		for _, l := range ix.lanes {
			prios = append(prios, l.prio)
		}
		for _, p := range ix.delayed {
			prios = append(prios, p.prio)
		}
		for _, l := range ix.leases {
			prios = append(prios, l.place.prio)
		}
	}
	closed := q.closed
	q.mu.Unlock()
	if closed {
		return nil, errClosed(op)
	}
	slices.Sort(prios)
	var out []core.QueueEntry
	for _, prio := range slices.Compact(prios) {
		es, err := q.peekLane(ctx, queue, place{prio: prio, id: after}, limit)
		if err != nil {
			return nil, core.WithOp(op, err)
		}
		out = append(out, es...)
	}
	slices.SortFunc(out, func(a, b core.QueueEntry) int { return int(min(max(int64(a.ID)-int64(b.ID), -1), 1)) })
	return out[:min(len(out), max(limit, 0))], nil
}

func (q *Queue) peekLane(ctx context.Context, queue string, from place, limit int) ([]core.QueueEntry, error) {
	after := rowKey(queue, rowItem, from.segment())
	var out []core.QueueEntry
	for e, err := range q.cfg.Storage.Iterate(ctx, rowKey(queue, rowItem), core.ScanOptions{After: &after, Limit: limit}) {
		if err != nil {
			return nil, err
		}
		p, err := placeOf(e.Key)
		if err != nil {
			return nil, err
		}
		if p.prio != from.prio {
			break
		}
		item, err := decodeItem(e.Key, e.Value)
		if err != nil {
			return nil, err
		}
		key := rowKey(queue, rowState, p.segment())
		rows, err := q.cfg.Storage.GetMany(ctx, key)
		if err != nil {
			return nil, err
		}
		var st stateRecord
		if rows[0].Exists() {
			if st, err = decodeState(key, rows[0].Value); err != nil {
				return nil, err
			}
		}
		out = append(out, entryOf(p, item, st, false))
	}
	return out, nil
}

// entryOf makes what an operator sees from rows.
func entryOf(p place, item itemRecord, st stateRecord, dead bool) core.QueueEntry {
	e := core.QueueEntry{
		ID: p.id, IdempotencyKey: item.Key, State: "ready", Payload: item.Payload, Priority: p.prio,
		Attempts: st.Attempts, Losses: st.Losses, EnqueuedAt: timeOfMS(item.EnqueuedMS), History: st.failures(),
	}
	switch {
	case dead:
		e.State = "dead"
	case st.Token != 0:
		e.State, e.Epoch, e.Deadline = "leased", st.Epoch, timeOfMS(st.DeadlineMS)
		copy(e.Owner[:], st.Owner)
	case st.NotBeforeMS > time.Now().UnixMilli():
		e.State, e.NotBefore = "delayed", timeOfMS(st.NotBeforeMS)
	}
	return e
}

// Dead implements [core.Queue].
func (q *Queue) Dead(ctx context.Context, queue string, after core.ItemID, limit int) ([]core.QueueEntry, error) {
	const op = "queue: dead"
	if err := checkName(op, queue); err != nil {
		return nil, err
	}
	from := rowKey(queue, rowDead, numberSegment(after))
	var out []core.QueueEntry
	for e, err := range q.cfg.Storage.Iterate(ctx, rowKey(queue, rowDead), core.ScanOptions{After: &from, Limit: max(limit, 1)}) {
		if err != nil {
			return nil, core.WithOp(op, err)
		}
		id, r, err := deadOf(e)
		if err != nil {
			return nil, core.WithOp(op, err)
		}
		out = append(out, entryOf(place{prio: r.Priority, id: id}, r.Item, r.State, true))
	}
	return out, nil
}

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

// sweepDead takes dead items away in batches. each stages what becomes of one and
// returns its place when it is ready again.
func (q *Queue) sweepDead(ctx context.Context, op, queue string, ids []core.ItemID, each func(core.Txn, core.ItemID, deadRecord) (place, error)) (int, error) {
	ix, err := q.enter(op, queue, false)
	if err != nil {
		return 0, err
	}
	if ix == nil {
		q.mu.Unlock()
		return 0, nil
	}
	q.mu.Unlock()
	total := 0
	all := len(ids) == 0
	for err == nil {
		if all {
			var batch []core.QueueEntry
			batch, err = q.Dead(ctx, queue, 0, sweepBatch)
			for _, e := range batch {
				ids = append(ids, e.ID)
			}
		}
		if len(ids) == 0 || err != nil {
			break
		}
		n := min(len(ids), sweepBatch)
		q.guard(ix, ids[:n])
		var places []place
		var gone int
		places, gone, err = q.sweepBatch(context.WithoutCancel(ctx), queue, ids[:n], each)
		total += gone
		q.mu.Lock()
		for _, id := range ids[:n] {
			delete(ix.inflight, id)
		}
		ids = ids[n:]
		ix.dead -= int64(gone)
		for _, p := range places {
			ix.arrive(p, true, q.cfg.Window)
		}
		ix.wake(len(places))
		q.mu.Unlock()
	}
	q.mu.Lock()
	q.exit(ix)
	return total, core.WithOp(op, err)
}

// guard keeps refills from finding the rows of items that are about to be ready
// again before they are filed.
func (q *Queue) guard(ix *queueIndex, ids []core.ItemID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, id := range ids {
		ix.inflight[id] = id
	}
}

func (q *Queue) sweepBatch(ctx context.Context, queue string, ids []core.ItemID, each func(core.Txn, core.ItemID, deadRecord) (place, error)) (places []place, gone int, err error) {
	_, err = core.Update(ctx, q.cfg.Storage, func(tx core.Txn) error {
		places, gone = nil, 0
		for _, id := range ids {
			key := rowKey(queue, rowDead, numberSegment(id))
			es, err := tx.GetMany(ctx, key)
			if err != nil {
				return err
			}
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
		return nil, 0, err
	}
	return places, gone, nil
}

// Purge implements [core.Queue]. Calls under way finish first; others wait until
// the rows are gone. A process that dies meanwhile leaves a part, which a second
// purge removes.
func (q *Queue) Purge(ctx context.Context, queue string) (int, error) {
	const op = "queue: purge"
	if err := checkName(op, queue); err != nil {
		return 0, err
	}
	q.mu.Lock()
	ix := q.queues[queue]
	for ix != nil && !q.closed && ix.purging {
		q.cond.Wait()
	}
	if ix == nil || q.closed {
		closed := q.closed
		q.mu.Unlock()
		if closed {
			return 0, errClosed(op)
		}
		return 0, nil
	}
	ix.purging = true
	for ix.busy > 0 {
		q.cond.Wait()
	}
	ix.busy++ // so that Close waits for the rows to be gone
	for _, l := range ix.leases {
		q.drop(ix, l)
	}
	q.held -= len(ix.delayed)
	clear(ix.delayed)
	ix.lanes, ix.done, ix.dead = nil, nil, 0
	q.mu.Unlock()

	total, err := q.removeAll(context.WithoutCancel(ctx), queue)

	var left *loadedQueue
	if err != nil {
		// Rows that are left must be known again.
		var lerr error
		if left, lerr = q.loadQueue(context.WithoutCancel(ctx), queue); lerr != nil {
			err = errors.Join(err, lerr)
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if left != nil {
		left.ix.next, left.ix.waiters = max(left.ix.next, ix.next), ix.waiters
		q.adopt(left)
	}
	ix.busy--
	ix.purging = false
	q.cond.Broadcast()
	return total, core.WithOp(op, err)
}

// removeAll deletes the rows of a queue except its reservation of numbers, and
// counts the items.
func (q *Queue) removeAll(ctx context.Context, queue string) (int, error) {
	total := 0
	for _, row := range []string{rowItem, rowState, rowDead, rowIdem} {
		for {
			es, err := q.cfg.Storage.Scan(ctx, rowKey(queue, row), core.ScanOptions{Limit: sweepBatch})
			if err != nil {
				return total, err
			}
			if len(es) == 0 {
				break
			}
			_, err = core.Update(ctx, q.cfg.Storage, func(tx core.Txn) error {
				for _, e := range es {
					if err := tx.Delete(e.Key); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return total, err
			}
			if row == rowItem || row == rowDead {
				total += len(es)
			}
		}
	}
	return total, nil
}
