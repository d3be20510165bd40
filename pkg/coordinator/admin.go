package coordinator

import (
	"context"
	"io"
	"os"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Status implements [core.Admin].
func (c *Coordinator) Status(_ context.Context) (core.Status, error) {
	s := core.Status{
		Run: c.run, Epoch: c.epoch, Version: c.cfg.Version, Protocol: string(c.cfg.Protocol),
		StartedAt: c.started, Timing: c.cfg.Timing, Revision: c.store.Revision(),
		Workers: make(map[core.Liveness]int),
	}
	if info, err := os.Stat(c.cfg.StoragePath); err == nil && info.Mode().IsRegular() {
		s.StoreBytes = info.Size()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Addr = c.addr
	s.MassFailure = c.machine.Held() || len(c.owedSlow) > 0
	for _, w := range c.workers {
		s.Workers[w.liveness]++
	}
	return s, nil
}

// Workers implements [core.Admin]. What beats bring is newer in memory than in the
// store and comes from there.
func (c *Coordinator) Workers(ctx context.Context) ([]core.WorkerRow, error) {
	const op = "workers"
	es, err := c.store.Scan(ctx, core.NewKey(core.NamespaceWorkers), core.ScanOptions{})
	if err != nil {
		return nil, core.WithOp(op, err)
	}
	rows := make([]core.WorkerRow, len(es)) // in the order of ids, as keys are
	for i, e := range es {
		var row workerRow
		if err := decodeRow(e, &row); err != nil {
			return nil, core.WithOp(op, err)
		}
		rows[i] = row.WorkerRow
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range rows {
		if w := c.workers[rows[i].ID]; w != nil && w.epoch == rows[i].Epoch {
			w.overlay(&rows[i])
		}
	}
	return rows, nil
}

// overlay puts what only memory knows into a row.
func (w *worker) overlay(row *core.WorkerRow) {
	row.Liveness, row.LastSeenAt, row.BeatSeq = w.liveness, w.lastSeen, w.beatSeq
	row.SlotsBusy, row.SkewMS = w.slotsBusy, w.skew.Milliseconds()
}

// ForgetWorker implements [core.Admin].
func (c *Coordinator) ForgetWorker(ctx context.Context, id core.WorkerID) error {
	err := c.writer.do(ctx, func(ctx context.Context, b *batch) error { return c.prepareForget(ctx, b, id) }, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.machine.Forget(id)
		if w := c.workers[id]; w != nil {
			delete(c.workers, id)
			w.announce()
		}
	})
	return core.WithOp("forget worker", err)
}

func (c *Coordinator) prepareForget(ctx context.Context, b *batch, id core.WorkerID) error {
	row, err := b.worker(ctx, id)
	if err != nil {
		return err
	}
	bound, err := b.get(ctx, boundKey(id))
	switch {
	case err != nil:
		return err
	case row == nil && !bound.Exists():
		return core.Errorf("", core.CodeNotFound, "no worker %s is known", id)
	case row != nil && !row.over():
		return core.Errorf("", core.CodeFailedPrecondition, "worker %s is %s: drain it first, or wait until it has failed", id, row.Liveness)
	case row != nil && len(row.Owed) > 0 && c.cfg.Work != nil:
		return core.Errorf("", core.CodeFailedPrecondition, "the work of worker %s is still being returned, try again", id)
	}
	bk, err := b.book(ctx, id)
	if err != nil {
		return err
	}
	for _, cmd := range bk.pending {
		b.del(commandKey(id, cmd.Seq))
	}
	for _, key := range []core.Key{workerKey(id), beatKey(id), bookKey(id), boundKey(id)} {
		b.del(key)
	}
	return nil
}

// Events implements [core.Admin].
func (c *Coordinator) Events(ctx context.Context, after uint64, follow bool, send func(core.StoredEvent) error) error {
	return c.outbox.follow(ctx, after, follow, c.stopping, send)
}

// Backup implements [core.Admin]. A store that cannot be copied while it is open is
// [core.CodeUnsupported].
func (c *Coordinator) Backup(ctx context.Context, w io.Writer) (int64, error) {
	b, ok := c.store.(core.Backuper)
	if !ok {
		return 0, core.Errorf("backup", core.CodeUnsupported, "this store cannot be copied while it is open")
	}
	return b.Backup(ctx, w)
}
