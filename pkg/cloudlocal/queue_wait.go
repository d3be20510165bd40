package cloudlocal

import (
	"context"
	"slices"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// await waits until one of the queues has something new. It reports false when
// the time is over. What came between the caller's look and now is seen, because
// the queues are looked at again under the lock that the waiter joins under.
func (q *Queue) await(ctx context.Context, queues []string, wait time.Duration) (bool, error) {
	w := &waiter{ch: make(chan struct{})}
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return false, errClosed("queue: dequeue")
	}
	for _, name := range queues {
		ix := q.queues[name]
		if ix == nil {
			ix = newQueueIndex(name)
			q.queues[name] = ix
		}
		if ix.readyCount() > 0 && !ix.purging {
			q.leave(w, queues)
			q.mu.Unlock()
			return true, nil
		}
		ix.waiters = append(ix.waiters, w)
	}
	q.mu.Unlock()

	timer := time.NewTimer(wait)
	defer timer.Stop()
	var err error
	woken := false
	select {
	case <-w.ch:
		woken = true
	case <-ctx.Done():
		err = core.Wrap("queue: dequeue", core.CodeCanceled, ctx.Err())
	case <-timer.C:
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.leave(w, queues)
	if !woken && w.woken {
		// The wake-up came at the same moment: another waiter gets it.
		for _, name := range queues {
			if ix := q.queues[name]; ix != nil {
				ix.wake(1)
			}
		}
	}
	return woken, err
}

// leave removes a waiter from every queue that it joined, and with the last one a
// queue that was only waited for. mu is held.
func (q *Queue) leave(w *waiter, queues []string) {
	for _, name := range queues {
		if ix := q.queues[name]; ix != nil {
			ix.waiters = slices.DeleteFunc(ix.waiters, func(o *waiter) bool { return o == w })
			if len(ix.waiters) == 0 && ix.high == 0 && ix.busy == 0 {
				delete(q.queues, name)
			}
		}
	}
}

// passOn wakes others for what is left. A call that waited on several queues may
// have been woken by one and served by another.
func (q *Queue) passOn(queues []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, name := range queues {
		if ix := q.queues[name]; ix != nil && len(ix.waiters) > 0 && ix.readyCount() > 0 {
			ix.wake(1)
		}
	}
}
