package jobs

import (
	"context"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

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
	var gone changes
	for _, e := range es {
		if !e.Exists() {
			continue
		}
		row, err := decodeResult(e.Key, e.Value)
		if err != nil {
			return err
		}
		gone.remove(e.Key, row)
	}
	return b.recordResults(ctx, j, gone, -1)
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
	if err == nil && j == nil {
		b.discard(context.WithoutCancel(ctx), id)
	}
	return n, core.WithOp("jobs: drop dead", err)
}
