package jobs

import (
	"context"
	"slices"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// sweepPage is how many items are given up with one commit.
const sweepPage = 256

// ReleaseWorker ends everything that a worker's epochs up to w.Epoch hold, and
// its session. With loss each item counts a loss; one that has used up its losses
// is dead. It returns how many items are ready again. The coordinator calls it
// when a worker failed (a loss), left, drained or began a newer epoch.
func (b *Book) ReleaseWorker(ctx context.Context, w core.WorkerRef, loss bool, reason string) (int, error) {
	b.mu.Lock()
	b.over[w.ID] = max(b.over[w.ID], w.Epoch)
	if s := b.sessions[w.ID]; s != nil && s.ref.Epoch <= w.Epoch {
		delete(b.sessions, w.ID)
		s.replace(core.Errorf("work", core.CodeFenced, "epoch %d of worker %s is over: %s", w.Epoch, w.ID, reason))
	}
	if s := b.latest[w.ID]; s != nil && s.ref.Epoch <= w.Epoch {
		delete(b.latest, w.ID)
	}
	b.mu.Unlock()
	released, err := b.cfg.Queue.ReleaseOwner(ctx, w.ID, w.Epoch, loss, reason)
	if err != nil {
		return 0, core.WithOp("work: release worker", err)
	}
	var touched []*job
	var events []core.Event
	requeued := 0
	b.mu.Lock()
	for _, r := range released {
		id, _ := jobOfQueue(r.Lease.Queue)
		j := b.active[id]
		if j == nil {
			continue
		}
		j.counts.Leased--
		if loss {
			j.counts.Losses++
		}
		j.tell()
		if r.Dead {
			if !slices.Contains(touched, j) {
				touched = append(touched, j)
			}
			continue
		}
		requeued++
		events = append(events, itemEvent(core.TopicWorkRequeued, heldItem{lease: r.Lease, job: id}, r.Attempt, r.Losses, reason, w.ID))
	}
	b.mu.Unlock()
	for _, j := range touched {
		b.soon(ctx, j, "store the results of dead items", b.settle)
	}
	b.report(ctx, events)
	return requeued, nil
}

// settle gives dead items their results and ends the job if it is done with that.
func (b *Book) settle(ctx context.Context, j *job) error {
	if err := b.settleDead(ctx, j); err != nil {
		return err
	}
	return b.finishIfDone(ctx, j)
}

// settleDead gives every dead item of a job its result. Items that die with their
// worker have none yet, also after a crash between the two commits.
func (b *Book) settleDead(ctx context.Context, j *job) error {
	b.burial.Lock()
	defer b.burial.Unlock()
	return b.settlePages(ctx, j)
}

func (b *Book) settlePages(ctx context.Context, j *job) error {
	var after core.ItemID
	for {
		page, err := b.cfg.Queue.Dead(ctx, queueOf(j.id), after, sweepPage)
		if err != nil || len(page) == 0 {
			return err
		}
		after = page[len(page)-1].ID
		if err := b.settlePage(ctx, j, page); err != nil {
			return err
		}
	}
}

// settlePage gives the dead items of a page their results, and says so.
func (b *Book) settlePage(ctx context.Context, j *job, page []core.QueueEntry) error {
	var events []core.Event
	found, err := b.unanswered(ctx, j, page, func(e core.QueueEntry, row *resultRow, index int64) {
		row.Code, row.Message = uint16(core.CodePreempted), "its workers died "+plural(int64(e.Losses), "time")
		if n := len(e.History); n > 0 {
			last := e.History[n-1]
			row.Worker = last.Owner[:]
			if !last.Loss {
				row.Code, row.Message = uint16(last.Code), last.Reason
			}
		}
		h := heldItem{lease: core.Lease{Item: e.ID}, job: j.id, index: index, id: row.ID}
		var worker core.WorkerID
		copy(worker[:], row.Worker)
		events = append(events, itemEvent(core.TopicWorkDead, h, e.Attempts, e.Losses, row.Message, worker))
	})
	if err != nil {
		return err
	}
	return b.recordResults(ctx, j, found, 1, events...)
}

// giveUp ends a job whose items will not all be worked on: those without a result
// get a dead one with that code. It may be called again after a crash.
func (b *Book) giveUp(ctx context.Context, j *job, code core.Code, reason string) error {
	if !b.stop(ctx, j, code, reason) {
		return nil
	}
	b.cancelHolders(ctx, j)
	sweep := func(ctx context.Context, j *job) error { return b.sweepUp(ctx, j, code, reason) }
	err := sweep(ctx, j)
	if err != nil {
		// The job takes no results any more, so it must come to its end.
		b.again(j, "give up the items of a job", sweep)
	}
	return err
}

// sweepUp gives every item of a stopped job that has no result a dead one, and ends
// the job.
func (b *Book) sweepUp(ctx context.Context, j *job, code core.Code, reason string) error {
	if err := b.settleDead(ctx, j); err != nil {
		return err
	}
	var after core.ItemID
	for {
		page, err := b.cfg.Queue.Peek(ctx, queueOf(j.id), after, sweepPage)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		after = page[len(page)-1].ID
		if err := b.giveUpPage(ctx, j, page, code, reason); err != nil {
			return err
		}
	}
	if _, err := b.cfg.Queue.Purge(ctx, queueOf(j.id)); err != nil {
		return err
	}
	state := core.JobFinished
	if code == core.CodeCanceled {
		state = core.JobCanceled
	}
	b.mu.Lock()
	// A submission that broke off counts the items that it had brought.
	j.row.Items = max(j.row.Items, j.counts.Done())
	j.counts.Items = j.row.Items
	b.mu.Unlock()
	return b.endJob(ctx, j, state, reason)
}

// stop takes a job out of dispatch, waits for results under way, and notes durably
// that it is ending. It reports false when the job has been stopped before.
func (b *Book) stop(ctx context.Context, j *job, code core.Code, reason string) bool {
	b.mu.Lock()
	if j.stopped || b.active[j.id] != j {
		b.mu.Unlock()
		return false
	}
	j.stopped = true
	var idle chan struct{}
	if j.busy > 0 {
		idle = make(chan struct{})
		j.idle = idle
	}
	b.mu.Unlock()
	if idle != nil {
		<-idle // bounded by one commit of each call under way
	}
	j.saving.Lock()
	defer j.saving.Unlock()
	b.mu.Lock()
	j.row.Ending, j.row.Code, j.row.Reason = true, code, reason
	row := j.row
	b.mu.Unlock()
	if err := b.writeJob(ctx, j, row); err != nil {
		// The sweep may go on: without the note a crash in it only means that the
		// job is running again at the next start.
		b.log.Warn("the end of a job could not be noted", "job_id", j.id, "error", err)
	}
	return true
}

// giveUpPage writes dead results for items that have none.
func (b *Book) giveUpPage(ctx context.Context, j *job, page []core.QueueEntry, code core.Code, reason string) error {
	found, err := b.unanswered(ctx, j, page, func(_ core.QueueEntry, row *resultRow, _ int64) {
		row.Code, row.Message = uint16(code), reason
	})
	if err != nil {
		return err
	}
	return b.recordResults(ctx, j, found, 1)
}

// cancelHolders tells the workers that hold items of the job. A worker that cannot
// be told finishes in vain: its results are refused.
func (b *Book) cancelHolders(ctx context.Context, j *job) {
	if b.cfg.CancelOn == nil {
		return
	}
	b.mu.Lock()
	var holders []core.WorkerID
	for id, s := range b.sessions {
		for _, h := range s.held {
			if h.job == j.id {
				holders = append(holders, id)
				break
			}
		}
	}
	b.mu.Unlock()
	for _, id := range holders {
		if err := b.cfg.CancelOn(ctx, id, j.id); err != nil {
			b.log.Warn("a worker could not be told that a job is cancelled", "job_id", j.id, "worker_id", id, "error", err)
		}
	}
}
