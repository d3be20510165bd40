package jobs

import (
	"context"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Jobs implements [core.Jobs].
func (b *Book) Jobs(ctx context.Context, limit int) ([]core.Job, error) {
	out := []core.Job{}
	for e, err := range b.cfg.Storage.Iterate(ctx, core.NewKey(core.NamespaceJobs), core.ScanOptions{Limit: limit, Reverse: true}) {
		if err != nil {
			return nil, core.WithOp("jobs: list", err)
		}
		id, err := jobOfKey(e.Key)
		if err != nil {
			return nil, core.WithOp("jobs: list", err)
		}
		row, err := decodeJob(e)
		if err != nil {
			return nil, core.WithOp("jobs: list", err)
		}
		b.mu.Lock()
		if j := b.active[id]; j != nil {
			out = append(out, b.public(j))
		} else {
			out = append(out, publicRow(id, row))
		}
		b.mu.Unlock()
	}
	return out, nil
}

// Job implements [core.Jobs].
func (b *Book) Job(ctx context.Context, id core.JobID) (core.Job, error) {
	j, row, err := b.find(ctx, id)
	if err != nil {
		return core.Job{}, core.WithOp("jobs: show", err)
	}
	if j == nil {
		return publicRow(id, row), nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.public(j), nil
}

// WatchJob implements [core.Jobs].
func (b *Book) WatchJob(ctx context.Context, id core.JobID, send func(core.Job) error) error {
	for {
		j, row, err := b.find(ctx, id)
		if err != nil {
			return core.WithOp("jobs: watch", err)
		}
		if j == nil {
			return send(publicRow(id, row))
		}
		b.mu.Lock()
		now, changed := b.public(j), j.follow()
		b.mu.Unlock()
		if err := send(now); err != nil || ended(now.State) {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return core.Wrap("jobs: watch", core.CodeCanceled, ctx.Err())
		}
	}
}

// CancelJob implements [core.Jobs].
func (b *Book) CancelJob(ctx context.Context, id core.JobID, reason string) error {
	j, _, err := b.find(ctx, id)
	if err != nil || j == nil {
		return core.WithOp("jobs: cancel", err)
	}
	if reason == "" {
		reason = "cancelled by an operator"
	}
	// Once begun it runs to its end: half a cancellation would be swept up only at
	// the next start.
	return core.WithOp("jobs: cancel", b.giveUp(context.WithoutCancel(ctx), j, core.CodeCanceled, reason))
}

// Results implements [core.Jobs].
func (b *Book) Results(ctx context.Context, id core.JobID, from int64, wait bool, send func(core.ItemResult) error) error {
	const op = "jobs: results"
	next := max(from, 0)
	for {
		j, _, err := b.find(ctx, id)
		if err != nil {
			return core.WithOp(op, err)
		}
		var changed <-chan struct{}
		if j != nil {
			// Taken before the scan, so that a result stored meanwhile is not missed.
			b.mu.Lock()
			changed = j.follow()
			b.mu.Unlock()
		}
		next, err = b.sendResults(ctx, id, next, wait && j != nil, send)
		if err != nil {
			return core.WithOp(op, err)
		}
		if !wait || j == nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return core.Wrap(op, core.CodeCanceled, ctx.Err())
		}
	}
}

// sendResults sends the results from an index on and returns the next one. With
// gapless it stops at the first item that has none yet.
func (b *Book) sendResults(ctx context.Context, id core.JobID, next int64, gapless bool, send func(core.ItemResult) error) (int64, error) {
	var opts core.ScanOptions
	if next > 0 {
		after := resultKey(id, next-1)
		opts.After = &after
	}
	for e, err := range b.cfg.Storage.Iterate(ctx, resultPrefix(id), opts) {
		if err != nil {
			return next, err
		}
		index, err := indexOf(e.Key)
		if err != nil {
			return next, err
		}
		if gapless && index != next {
			return next, nil
		}
		row, err := decodeResult(e.Key, e.Value)
		if err != nil {
			return next, err
		}
		if len(row.Content) == core.ContentIDSize {
			if row.Result, err = core.ReadBlob(ctx, b.cfg.Objects, core.ContentID(row.Content), core.MaxCallPayload); err != nil {
				return next, err
			}
		}
		if err := send(row.line(index)); err != nil {
			return next, err
		}
		next = index + 1
	}
	return next, nil
}

// JobQueue implements [core.Jobs].
func (b *Book) JobQueue(ctx context.Context, id core.JobID) (core.QueueStats, error) {
	if _, _, err := b.find(ctx, id); err != nil {
		return core.QueueStats{}, err
	}
	return b.cfg.Queue.Stats(ctx, queueOf(id))
}

// PeekJob implements [core.Jobs].
func (b *Book) PeekJob(ctx context.Context, id core.JobID, after core.ItemID, limit int) ([]core.QueueEntry, error) {
	if _, _, err := b.find(ctx, id); err != nil {
		return nil, err
	}
	es, err := b.cfg.Queue.Peek(ctx, queueOf(id), after, limit)
	return b.unwrap(ctx, es, err)
}

// DeadItems implements [core.Jobs].
func (b *Book) DeadItems(ctx context.Context, id core.JobID, after core.ItemID, limit int) ([]core.QueueEntry, error) {
	if _, _, err := b.find(ctx, id); err != nil {
		return nil, err
	}
	es, err := b.cfg.Queue.Dead(ctx, queueOf(id), after, limit)
	return b.unwrap(ctx, es, err)
}

// unwrap replaces each entry's payload by the input line and its key by the line's
// id.
func (b *Book) unwrap(ctx context.Context, es []core.QueueEntry, err error) ([]core.QueueEntry, error) {
	if err != nil {
		return nil, err
	}
	for i := range es {
		env, err := decodeEnvelope(es[i].Payload)
		if err != nil {
			return nil, err
		}
		if len(env.Content) > 0 {
			if env.Payload, err = core.ReadBlob(ctx, b.cfg.Objects, core.ContentID(env.Content), core.MaxCallPayload); err != nil {
				return nil, err
			}
		}
		es[i].Payload, es[i].IdempotencyKey = env.Payload, env.ID
	}
	return es, nil
}
