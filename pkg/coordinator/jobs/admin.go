package jobs

import (
	"context"
	"time"

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

// RequeueDead implements [core.Jobs].
func (b *Book) RequeueDead(ctx context.Context, id core.JobID, items ...core.ItemID) (int, error) {
	const op = "jobs: requeue dead"
	j, row, err := b.find(ctx, id)
	if err != nil {
		return 0, core.WithOp(op, err)
	}
	ctx = context.WithoutCancel(ctx)
	if j == nil {
		if row.State == core.JobCanceled {
			return 0, core.Errorf(op, core.CodeFailedPrecondition, "job %s was cancelled; submit its input again with --resume", id)
		}
		if j, err = b.reopen(ctx, id, row); err != nil {
			return 0, core.WithOp(op, err)
		}
	}
	if !b.enter(j) {
		return 0, core.Errorf(op, core.CodeConflict, "job %s is just ending, try again", id)
	}
	n, err := b.requeue(ctx, j, items)
	b.exit(j)
	if err != nil {
		// Results may be gone whose items are dead still.
		b.again(j, "store the results of dead items", b.settle)
	} else {
		err = b.finishIfDone(ctx, j)
	}
	return n, core.WithOp(op, err)
}

// reopen makes a finished job active again. Its deadline, if any, is lifted: it
// has passed or no longer says anything about the items that are tried again.
func (b *Book) reopen(ctx context.Context, id core.JobID, row jobRow) (*job, error) {
	row.State, row.EndedAt, row.Spec.Deadline = core.JobRunning, time.Time{}, time.Time{}
	j := &job{id: id, row: row, counts: row.Counts}
	if err := b.writeJob(ctx, j, row); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if other := b.active[id]; other != nil {
		return other, nil // another call was faster
	}
	b.activate(j)
	return j, nil
}

// requeue takes the results of dead items away and makes the items ready.
func (b *Book) requeue(ctx context.Context, j *job, items []core.ItemID) (int, error) {
	b.burial.Lock()
	defer b.burial.Unlock()
	want := make(map[core.ItemID]bool, len(items))
	for _, id := range items {
		want[id] = true
	}
	total := 0
	var after core.ItemID
	for {
		page, err := b.cfg.Queue.Dead(ctx, queueOf(j.id), after, sweepPage)
		if err != nil || len(page) == 0 {
			return total, err
		}
		after = page[len(page)-1].ID
		n, err := b.requeuePage(ctx, j, page, want)
		total += n
		if err != nil {
			return total, err
		}
	}
}

func (b *Book) requeuePage(ctx context.Context, j *job, page []core.QueueEntry, want map[core.ItemID]bool) (int, error) {
	var ids []core.ItemID
	var keys []core.Key
	for _, e := range page {
		if len(want) > 0 && !want[e.ID] {
			continue
		}
		env, err := decodeEnvelope(e.Payload)
		if err != nil {
			return 0, err
		}
		ids, keys = append(ids, e.ID), append(keys, resultKey(j.id, env.Index))
	}
	if len(ids) == 0 {
		return 0, nil
	}
	// Results first: a crash in between leaves dead items without a result, which
	// the next start settles.
	if err := b.removeResults(ctx, j, keys); err != nil {
		return 0, err
	}
	return b.cfg.Queue.RequeueDead(ctx, queueOf(j.id), ids...)
}

// removeResults takes results away and out of the counts. Those that are gone
// already have been counted.
func (b *Book) removeResults(ctx context.Context, j *job, keys []core.Key) error {
	es, err := b.cfg.Storage.GetMany(ctx, keys...)
	if err != nil {
		return err
	}
	var writes []core.Write
	var rows []resultRow
	for _, e := range es {
		if !e.Exists() {
			continue
		}
		row, err := decodeResult(e.Key, e.Value)
		if err != nil {
			return err
		}
		writes, rows = append(writes, core.Write{Key: e.Key, Delete: true}), append(rows, row)
	}
	if len(writes) == 0 {
		return nil
	}
	if err := b.cfg.Record(ctx, writes); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range rows {
		j.count(r, -1)
	}
	j.tell()
	return nil
}

// DropDead implements [core.Jobs].
func (b *Book) DropDead(ctx context.Context, id core.JobID, items ...core.ItemID) (int, error) {
	b.burial.Lock()
	defer b.burial.Unlock()
	j, _, err := b.find(ctx, id)
	if err == nil && j != nil {
		err = b.settlePages(ctx, j) // an item that is dropped must have its result
	}
	if err != nil {
		return 0, core.WithOp("jobs: drop dead", err)
	}
	n, err := b.cfg.Queue.DropDead(ctx, queueOf(id), items...)
	return n, core.WithOp("jobs: drop dead", err)
}
