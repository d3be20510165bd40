package cloudlocal

import (
	"context"
	"slices"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

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
	if limit <= 0 {
		return []core.QueueEntry{}, nil
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
	return out[:min(len(out), limit)], nil
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
		if err := q.show(ctx, &item); err != nil {
			return nil, err
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
	if limit <= 0 {
		return []core.QueueEntry{}, nil
	}
	from := rowKey(queue, rowDead, numberSegment(after))
	var out []core.QueueEntry
	for e, err := range q.cfg.Storage.Iterate(ctx, rowKey(queue, rowDead), core.ScanOptions{After: &from, Limit: limit}) {
		if err != nil {
			return nil, core.WithOp(op, err)
		}
		id, r, err := deadOf(e)
		if err != nil {
			return nil, core.WithOp(op, err)
		}
		if err := q.show(ctx, &r.Item); err != nil {
			return nil, core.WithOp(op, err)
		}
		out = append(out, entryOf(place{prio: r.Priority, id: id}, r.Item, r.State, true))
	}
	return out, nil
}

// show fills in a payload that lies in the object store, for an operator to see. A
// damaged or missing one is shown empty: the item's history says why it is dead,
// and those behind it must be seen.
func (q *Queue) show(ctx context.Context, item *itemRecord) error {
	err := q.fetch(ctx, item)
	if core.IsCode(err, core.CodeCorrupt) || core.IsCode(err, core.CodeNotFound) {
		item.Payload = nil
		return nil
	}
	return err
}
