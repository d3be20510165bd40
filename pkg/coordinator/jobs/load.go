package jobs

import (
	"cmp"
	"context"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// load rebuilds the active jobs.
func (b *Book) load(ctx context.Context) error {
	var resume []*job
	var over []core.JobID
	for e, err := range b.cfg.Storage.Iterate(ctx, core.NewKey(core.NamespaceJobs), core.ScanOptions{}) {
		if err != nil {
			return err
		}
		id, err := jobOfKey(e.Key)
		if err != nil {
			return err
		}
		row, err := decodeJob(e)
		if err != nil {
			return err
		}
		if ended(row.State) && !row.Ending {
			over = append(over, id)
			continue
		}
		j := &job{id: id, row: row}
		if err := b.recount(ctx, j); err != nil {
			return err
		}
		if row.State == core.JobOpen {
			j.row.Ending, j.row.Reason, j.row.Code = true, "the coordinator stopped while the items were being submitted", core.CodeCanceled
		}
		resume = append(resume, j)
	}
	for _, id := range over { // it was not let go before the end
		b.discard(ctx, id)
	}
	for _, j := range resume {
		b.mu.Lock()
		b.activate(j)
		b.mu.Unlock()
		switch {
		case j.row.Ending:
			if err := b.giveUp(ctx, j, cmp.Or(j.row.Code, core.CodeCanceled), j.row.Reason); err != nil {
				return err
			}
		default:
			if err := b.settleDead(ctx, j); err != nil {
				return err
			}
			if err := b.finishIfDone(ctx, j); err != nil {
				return err
			}
		}
	}
	return nil
}

// recount rebuilds a job's counts from its results.
func (b *Book) recount(ctx context.Context, j *job) error {
	j.counts = core.JobCounts{Items: j.row.Items, Losses: j.row.Counts.Losses}
	for e, err := range b.cfg.Storage.Iterate(ctx, resultPrefix(j.id), core.ScanOptions{}) {
		if err != nil {
			return err
		}
		r, err := decodeResult(e.Key, e.Value)
		if err != nil {
			return err
		}
		j.count(r, 1)
	}
	st, err := b.cfg.Queue.Stats(ctx, queueOf(j.id))
	j.counts.Leased = st.Leased
	return err
}
