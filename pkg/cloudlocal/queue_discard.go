package cloudlocal

import (
	"context"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Discard forgets a queue that holds nothing, neither items nor dead ones nor
// finished idempotency keys: its rows go, and what memory keeps of it. It reports
// false and changes nothing when the queue holds something. Whoever uses the name
// again begins a new queue, whose items are numbered from the start.
func (q *Queue) Discard(ctx context.Context, queue string) (bool, error) {
	const op = "queue: discard"
	if err := checkName(op, queue); err != nil {
		return false, err
	}
	q.mu.Lock()
	ix, err := q.close(op, queue)
	if ix == nil {
		q.mu.Unlock()
		return false, err
	}
	held := ix.readyCount() > 0 || len(ix.delayed) > 0 || len(ix.leases) > 0
	if !held {
		ix.lanes = nil // the room of a window that is empty
	}
	if held || ix.dead > 0 || len(ix.done) > 0 {
		q.reopen(ix)
		q.mu.Unlock()
		return false, nil
	}
	q.mu.Unlock()

	ctx = context.WithoutCancel(ctx)
	err = q.reserve.update(ctx, func(tx core.Txn) error {
		if err := tx.Delete(rowKey("", "q", queue)); err != nil {
			return err
		}
		return tx.Delete(rowKey(queue, rowHigh))
	})

	q.mu.Lock()
	defer q.mu.Unlock()
	if err == nil {
		delete(q.queues, queue)
		if len(ix.waiters) > 0 {
			q.queues[queue] = newQueueIndex(queue)
			q.queues[queue].waiters = ix.waiters
		}
	}
	q.reopen(ix)
	return err == nil, core.WithOp(op, err)
}

// close keeps every call off a queue and waits for those under way. It returns nil
// when there is no such queue. mu is held on entry and return, and released while it
// waits.
func (q *Queue) close(op, queue string) (*queueIndex, error) {
	ix := q.queues[queue]
	for ix != nil && !q.closed && ix.purging {
		q.cond.Wait()
		ix = q.queues[queue]
	}
	if q.closed {
		return nil, errClosed(op)
	}
	if ix == nil {
		return nil, nil
	}
	ix.purging = true
	for ix.busy > 0 {
		q.cond.Wait()
	}
	ix.busy++ // so that Close waits for what follows
	return ix, nil
}

// reopen ends what close began. mu is held.
func (q *Queue) reopen(ix *queueIndex) {
	ix.busy--
	ix.purging = false
	q.cond.Broadcast()
}
