package jobs

import (
	"context"
	"slices"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// serves reports whether the worker can work on the job. Book.mu is held.
func (s *session) serves(j *job) bool {
	digest, ok := s.plugins[j.row.Spec.Plugin]
	return ok && (j.row.Spec.Digest == "" || j.row.Spec.Digest == digest)
}

// eligible returns the queues of the jobs that the worker can serve, in the order
// in which they are looked at, and the channel that says when to look again.
func (s *session) eligible() (queues []string, changed <-chan struct{}, pin []*job) {
	b := s.book
	b.mu.Lock()
	defer b.mu.Unlock()
	var prio []int32
	for _, j := range b.order {
		if j.stopped || !s.serves(j) {
			continue
		}
		if j.row.Spec.Digest == "" {
			pin = append(pin, j)
			continue
		}
		queues = append(queues, queueOf(j.id))
		prio = append(prio, j.row.Spec.Priority)
	}
	// Jobs of the highest priority take turns, so that an early large one does not
	// keep later ones waiting.
	top := 0
	for top < len(prio) && prio[top] == prio[0] {
		top++
	}
	if top > 1 {
		s.turn++
		k := s.turn % top
		queues = slices.Concat(queues[k:top], queues[:k], queues[top:])
	}
	return queues, b.changed, pin
}

// Pull implements [core.WorkSession].
func (s *session) Pull(ctx context.Context, budget core.PullBudget) ([]core.WorkItem, error) {
	s.pulling.Lock()
	defer s.pulling.Unlock()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(s.ctx, func() { stop(context.Cause(s.ctx)) })()
	for {
		queues, changed, pin := s.eligible()
		for _, j := range pin {
			if err := s.book.pin(ctx, j, s); err != nil {
				return nil, s.cause(ctx, err)
			}
		}
		if len(pin) > 0 {
			continue
		}
		items, err := s.dequeue(ctx, queues, changed, budget)
		if err != nil {
			return nil, s.cause(ctx, err)
		}
		var out []core.WorkItem
		for _, it := range items {
			w, ok, err := s.accept(it)
			if err != nil {
				return nil, err
			}
			if ok {
				out = append(out, w)
			}
		}
		if len(out) > 0 {
			s.book.leasedMore(out)
			return out, nil
		}
		if ctx.Err() != nil {
			return nil, s.cause(ctx, ctx.Err())
		}
	}
}

// dequeue leases items from the queues, or returns nothing when the set of jobs
// has changed meanwhile.
func (s *session) dequeue(ctx context.Context, queues []string, changed <-chan struct{}, budget core.PullBudget) ([]core.LeasedItem, error) {
	if len(queues) == 0 {
		select {
		case <-changed:
		case <-ctx.Done():
		}
		return nil, nil
	}
	n, err := s.share(ctx, queues, budget.Slots)
	if err != nil {
		return nil, err
	}
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-changed:
			cancel()
		case <-wait.Done():
		}
	}()
	items, err := s.book.cfg.Queue.Dequeue(wait, core.DequeueOptions{
		Queues: queues, Owner: s.ref.ID, Epoch: s.ref.Epoch, MaxItems: n, MaxBytes: budget.Bytes, Wait: pullWait,
	})
	if core.IsCode(err, core.CodeCanceled) && ctx.Err() == nil {
		return nil, nil
	}
	return items, err
}

// share is how many items one pull may take: twice the free slots, but no more
// than half of an even share of the backlog, so that no worker hoards what another
// could start at once; and at least one.
func (s *session) share(ctx context.Context, queues []string, slots int) (int, error) {
	slots = max(slots, 1)
	var ready int64
	for _, q := range queues {
		var err error
		if ready, err = s.book.ready(ctx, q); err != nil {
			return 0, err
		}
		if ready > 0 {
			break
		}
	}
	s.book.mu.Lock()
	workers := int64(len(s.book.sessions))
	s.book.mu.Unlock()
	return int(max(1, min(int64(slots)*2, ready/(2*max(workers, 1))))), nil
}

func (b *Book) ready(ctx context.Context, queue string) (int64, error) {
	if c, ok := b.cfg.Queue.(core.ReadyCounter); ok {
		return c.Ready(queue), nil
	}
	st, err := b.cfg.Queue.Stats(ctx, queue)
	return st.Ready, err
}

// pin fixes the digest of a job that named none to the one this worker has.
func (b *Book) pin(ctx context.Context, j *job, s *session) error {
	j.saving.Lock()
	defer j.saving.Unlock()
	b.mu.Lock()
	digest := s.plugins[j.row.Spec.Plugin]
	row := j.row
	skip := digest == "" || row.Spec.Digest != "" || j.stopped
	b.mu.Unlock()
	if skip {
		return nil
	}
	row.Spec.Digest = digest
	if err := b.writeJob(ctx, j, row); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	j.row = row
	b.announce()
	return nil
}

// leasedMore counts items that went out.
func (b *Book) leasedMore(items []core.WorkItem) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, it := range items {
		if j := b.active[it.Job]; j != nil {
			j.counts.Leased++
		}
	}
}
