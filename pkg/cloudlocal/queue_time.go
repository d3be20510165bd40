package cloudlocal

import (
	"container/heap"
	"context"
	"time"
)

// reapBatch bounds how many overdue leases one transaction returns.
const reapBatch = 1024

// busyPause is how long an overdue lease is left to a call that is changing it.
const busyPause = 10 * time.Millisecond

// keepTime makes delayed items ready and returns overdue leases, each when its
// time comes, with one timer for the whole timeline.
func (q *Queue) keepTime(ctx context.Context) {
	defer close(q.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		overdue, next := q.advance(time.Now())
		if len(overdue) > 0 {
			q.reap(ctx, overdue)
			continue
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-q.changed:
		case <-timer.C:
		}
	}
}

// advance files what is due and returns the overdue leases, seized, and how long
// until something else is due.
func (q *Queue) advance(now time.Time) ([]*finishing, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var overdue []*finishing
	var busy []waiting
	defer func() {
		for _, w := range busy {
			w.at = now.Add(busyPause)
			q.schedule(w)
		}
	}()
	for len(q.times) > 0 && len(overdue) < reapBatch {
		w := q.times[0]
		if wait := w.at.Sub(now); wait > 0 {
			return overdue, wait
		}
		heap.Pop(&q.times)
		if w.token == 0 {
			if _, ok := w.q.delayed[w.place.id]; ok {
				delete(w.q.delayed, w.place.id)
				q.held--
				w.q.arrive(w.place, true, q.cfg.Window)
				w.q.wake(1)
			}
			continue
		}
		l := w.q.leases[w.place.id]
		if l == nil || l.lease.Token != w.token || l.deadline.After(w.at) || q.closed {
			continue // finished, or extended, which has an entry of its own
		}
		if l.busy || w.q.purging {
			// A change under way decides first; if it leaves the lease, look again.
			busy = append(busy, w)
			continue
		}
		l.busy = true
		w.q.busy++
		q.own(l.lease.Owner, l.lease.Epoch)
		overdue = append(overdue, &finishing{ix: w.q, lease: l})
	}
	return overdue, time.Hour
}

// reap returns overdue leases. When the store refuses, they become due again a
// little later, because an item must not be forgotten over a full disk.
func (q *Queue) reap(ctx context.Context, overdue []*finishing) {
	_, err := q.releaseAll(context.WithoutCancel(ctx), "queue: reap", overdue, true, "the lease ran out")
	if err == nil {
		return
	}
	q.log.Error("overdue leases could not be returned", "leases", len(overdue), "error", err)
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, f := range overdue {
		q.schedule(waiting{at: time.Now().Add(time.Second), q: f.ix, place: f.lease.place, token: f.lease.lease.Token})
	}
}

// compact drops entries of the timeline whose item or lease is gone, once they
// outnumber the others. mu is held.
func (q *Queue) compact() {
	if len(q.times) < 1024 || len(q.times) < 4*q.held {
		return
	}
	kept := q.times[:0]
	for _, w := range q.times {
		if w.token == 0 {
			if _, ok := w.q.delayed[w.place.id]; !ok {
				continue
			}
		} else if l := w.q.leases[w.place.id]; l == nil || l.lease.Token != w.token {
			continue
		}
		kept = append(kept, w)
	}
	clear(q.times[len(kept):])
	q.times = kept
	heap.Init(&q.times)
}
