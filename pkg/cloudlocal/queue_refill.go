package cloudlocal

import (
	"container/heap"
	"context"
	"slices"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// refill loads the next window of a lane. It is called with mu held and returns
// with mu held; the scan itself runs without it.
func (q *Queue) refill(ctx context.Context, ix *queueIndex, l *lane) error {
	if l.refilling {
		q.cond.Wait()
		return nil
	}
	l.refilling = true
	from := place{prio: l.prio, id: l.loaded}
	q.mu.Unlock()
	found, full, err := q.scanWindow(ctx, ix.name, from)
	q.mu.Lock()
	l.refilling = false
	arrived := l.arrived
	l.arrived = nil
	q.cond.Broadcast()
	if err != nil {
		return err
	}
	if len(found) > 0 {
		l.loaded = found[len(found)-1].id
	}
	known := map[core.ItemID]bool{}
	add := func(r readyItem) {
		// After a restart leased and delayed items may lie behind loaded too.
		_, delayed := ix.delayed[r.id]
		if delayed || ix.leases[r.id] != nil || known[r.id] || ix.inFlight(r.id) {
			return
		}
		known[r.id] = true
		heap.Push(&l.ready, r)
		l.disk--
	}
	for _, r := range found {
		add(r)
	}
	for _, r := range arrived {
		if r.id <= l.loaded {
			add(r)
		}
	}
	if !full && len(arrived) == 0 {
		l.disk = 0 // the lane's end was reached and nothing came meanwhile
	}
	return nil
}

// scanWindow reads the places behind from in its lane, and which of them have a
// state row. full tells that there may be more.
func (q *Queue) scanWindow(ctx context.Context, queue string, from place) (found []readyItem, full bool, err error) {
	lanePrefix := from.segment()[:4]
	for _, row := range []string{rowItem, rowState} {
		after := rowKey(queue, row, from.segment())
		n := 0
		for e, err := range q.cfg.Storage.Iterate(ctx, rowKey(queue, row), core.ScanOptions{After: &after, Limit: q.cfg.Window}) {
			if err != nil {
				return nil, false, core.WithOp("queue: refill", err)
			}
			p, err := placeOf(e.Key)
			if err != nil {
				return nil, false, err
			}
			if e.Key.Path[2][:4] != lanePrefix {
				break
			}
			if row == rowItem {
				found = append(found, readyItem{id: p.id})
				n++
				continue
			}
			i, ok := slices.BinarySearchFunc(found, p.id, func(r readyItem, id core.ItemID) int { return int(int64(r.id) - int64(id)) })
			if ok {
				found[i].tried = true
			}
			if i == len(found) {
				break
			}
		}
		if row == rowItem {
			full = n == q.cfg.Window
		}
	}
	return found, full, nil
}
