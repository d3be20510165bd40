package coordinator

import (
	"context"
	"slices"
	"time"

	"github.com/rollout-substrate/rollout/pkg/coordinator/liveness"
	"github.com/rollout-substrate/rollout/pkg/core"
)

// returnWorkOf returns the work of a failed epoch, or notes in the row that it is
// held back by a mass failure.
func (c *Coordinator) returnWorkOf(ctx context.Context, b *batch, row *workerRow, tr liveness.Transition) (items int, err error) {
	if tr.Held {
		if c.cfg.Requeuer != nil {
			row.Unreturned = append(row.Unreturned, tr.Worker.Epoch)
		}
		return 0, nil
	}
	return c.requeue(ctx, b, tr.Worker)
}

// returnAll returns whatever the row's epochs still hold, because the worker begins
// a new epoch or leaves.
func (c *Coordinator) returnAll(ctx context.Context, b *batch, row *workerRow) error {
	epochs := row.Unreturned
	if !row.over() {
		epochs = append(slices.Clone(epochs), row.Epoch)
	}
	for _, epoch := range epochs {
		if _, err := c.requeue(ctx, b, core.WorkerRef{ID: row.ID, Epoch: epoch}); err != nil {
			return err
		}
	}
	return nil
}

func (c *Coordinator) requeue(ctx context.Context, b *batch, ref core.WorkerRef) (int, error) {
	if c.cfg.Requeuer == nil {
		return 0, nil
	}
	return c.cfg.Requeuer.Requeue(ctx, b.writeDirectly(), ref)
}

// holdReturn remembers an epoch whose work waits for the brake.
func (c *Coordinator) holdReturn(ref core.WorkerRef) {
	if c.cfg.Requeuer == nil {
		return
	}
	c.mu.Lock()
	c.unreturned = append(c.unreturned, ref)
	c.mu.Unlock()
	c.pokeReturns()
}

func (c *Coordinator) pokeReturns() {
	select {
	case c.returnWork <- struct{}{}:
	default: // a token is there already
	}
}

// forgetReturns drops a worker's held epochs from memory. mu is held.
func (c *Coordinator) forgetReturns(id core.WorkerID) {
	c.unreturned = slices.DeleteFunc(c.unreturned, func(r core.WorkerRef) bool { return r.ID == id })
}

func (c *Coordinator) nextReturn() (ref core.WorkerRef, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.unreturned) == 0 || c.cfg.Requeuer == nil {
		return ref, false
	}
	ref = c.unreturned[0]
	c.unreturned = c.unreturned[1:]
	return ref, true
}

// returnSlowly returns held work at RequeueRate workers a second.
func (c *Coordinator) returnSlowly(ctx context.Context) error {
	pause := time.Duration(float64(time.Second) / c.cfg.RequeueRate)
	for {
		ref, ok := c.nextReturn()
		if !ok {
			select {
			case <-c.returnWork:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		if !sleep(ctx, pause) {
			return nil
		}
		err := c.writer.do(ctx, func(ctx context.Context, b *batch) error { return c.prepareReturn(ctx, b, ref) }, nil)
		if err != nil && ctx.Err() == nil {
			// The row still names the epoch, so a restart or the worker's return tries again.
			c.log.Error("the work of a lost worker could not be returned", "worker_id", ref.ID.String(), "epoch", ref.Epoch, "error", err)
		}
	}
}

func (c *Coordinator) prepareReturn(ctx context.Context, b *batch, ref core.WorkerRef) error {
	row, err := b.worker(ctx, ref.ID)
	if err != nil || row == nil || !slices.Contains(row.Unreturned, ref.Epoch) {
		return err
	}
	items, err := c.requeue(ctx, b, ref)
	if err != nil {
		return err
	}
	row.Unreturned = without(row.Unreturned, ref.Epoch)
	b.event(c.event(core.TopicWorkRequeued, core.LevelInfo, ref.ID, core.Attrs{
		"epoch": ref.Epoch, "items": items, "reason": "held back during a mass failure",
	}))
	return b.put(workerKey(ref.ID), row)
}

// sleep waits for d and reports whether it did before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
