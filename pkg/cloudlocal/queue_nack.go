package cloudlocal

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Nack implements [core.Queue].
func (q *Queue) Nack(ctx context.Context, nacks []core.Nack) ([]core.Nacked, error) {
	const op = "queue: nack"
	if err := ctx.Err(); err != nil {
		return nil, core.Wrap(op, core.CodeCanceled, err)
	}
	out := make([]core.Nacked, len(nacks))
	leases := make([]core.Lease, len(nacks))
	for i, n := range nacks {
		if n.Kind != core.NackFailed && n.Kind != core.NackReturned {
			return nil, core.Errorf(op, core.CodeInvalidArgument, "nack %d has kind %d, which is none", i, n.Kind)
		}
		leases[i] = n.Lease
	}
	fs, err := q.seize(op, leases, func(i int, err error) { out[i].Err = err })
	if err != nil || len(fs) == 0 {
		return out, err
	}
	for _, f := range fs {
		f.nack = &nacks[f.pos]
	}
	ctx = context.WithoutCancel(ctx)
	err = q.reserve.update(ctx, func(tx core.Txn) error { return q.nackRows(ctx, tx, fs) })
	q.settle(fs, func(f *finishing) {
		if err != nil {
			return
		}
		if f.lost {
			out[f.pos].Err = errLeaseLost(op, f.lease.lease)
			return
		}
		out[f.pos] = f.out
		q.refile(f.ix, f.lease, f.out)
	})
	if err != nil {
		return nil, core.WithOp(op, err)
	}
	return out, nil
}

// nackRows decides what becomes of each item and stages its rows.
func (q *Queue) nackRows(ctx context.Context, tx core.Txn, fs []*finishing) error {
	if err := q.checkStates(ctx, tx, fs); err != nil {
		return err
	}
	now := time.Now()
	for _, f := range fs {
		if f.lost {
			continue
		}
		n := f.nack
		f.out = core.Nacked{}
		if n.Kind == core.NackFailed {
			f.state.Attempts++
			f.state.addFailure(core.Failure{At: now, Code: n.Code, Reason: n.Reason, Owner: n.Lease.Owner, Epoch: n.Lease.Epoch})
			f.out.Dead = n.Retry.Kind == core.RetryNever || f.state.Attempts >= f.lease.maxA
			if !f.out.Dead {
				f.out.NotBefore = now.Add(q.delay(n.Retry, f.state.Attempts))
			}
		}
		if err := stageReturn(ctx, tx, f); err != nil {
			return err
		}
		if f.out.Dead {
			if err := applyWrites(tx, n.OnDead); err != nil {
				return err
			}
		}
	}
	return nil
}

// stageReturn stages the rows of an item that comes back: dead, or ready at
// f.out.NotBefore.
func stageReturn(ctx context.Context, tx core.Txn, f *finishing) error {
	queue := f.lease.lease.Queue
	f.state.Token, f.state.Owner, f.state.Epoch, f.state.DeadlineMS = 0, nil, 0, 0
	f.state.NotBeforeMS = msOfTime(f.out.NotBefore)
	if !f.out.Dead {
		return putState(tx, queue, f.lease.place, f.state)
	}
	key := rowKey(queue, rowItem, f.lease.place.segment())
	es, err := tx.GetMany(ctx, key)
	if err != nil {
		return err
	}
	if !es[0].Exists() {
		return core.Errorf("queue: bury", core.CodeCorrupt, "row %q is gone", key)
	}
	item, err := decodeItem(key, es[0].Value)
	if err != nil {
		return err
	}
	return bury(tx, queue, f.lease.place, item, f.state)
}

// bury moves an item to the dead. A payload that was fetched from the object
// store goes back to being a reference.
func bury(tx core.Txn, queue string, p place, item itemRecord, state stateRecord) error {
	if len(item.Content) > 0 {
		item.Payload = nil
	}
	state.Version = recordVersion
	b, err := encodeRecord(&deadRecord{Version: recordVersion, Priority: p.prio, Item: item, State: state})
	if err != nil {
		return err
	}
	if err := removeRows(tx, queue, p); err != nil {
		return err
	}
	return tx.Put(rowKey(queue, rowDead, numberSegment(p.id)), b)
}

// refile puts an item that came back where it belongs now. mu is held.
func (q *Queue) refile(ix *queueIndex, l *leased, out core.Nacked) {
	q.drop(ix, l)
	switch {
	case out.Dead:
		ix.dead++
	case !out.NotBefore.IsZero():
		ix.delayed[l.place.id] = l.place
		q.held++ // drop took its place as a lease
		q.schedule(waiting{at: out.NotBefore, q: ix, place: l.place})
	default:
		ix.arrive(l.place, true, q.cfg.Window)
		ix.wake(1)
	}
}

// ReleaseOwner implements [core.Queue].
func (q *Queue) ReleaseOwner(ctx context.Context, owner core.WorkerID, epoch uint64, loss bool, reason string) ([]core.Released, error) {
	const op = "queue: release owner"
	if err := ctx.Err(); err != nil {
		return nil, core.Wrap(op, core.CodeCanceled, err)
	}
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return nil, errClosed(op)
	}
	// From here no call can start on a lease of these epochs; those between their
	// halves are waited for, so that every lease is either finished or released.
	q.released[owner] = max(q.released[owner], epoch)
	for q.owning(owner, epoch) && !q.closed {
		q.cond.Wait()
	}
	if q.closed {
		q.mu.Unlock()
		return nil, errClosed(op)
	}
	var fs []*finishing
	for l := range q.owners[owner] {
		if ix := q.queues[l.lease.Queue]; l.lease.Epoch <= epoch && !l.busy && !ix.purging {
			l.busy = true
			ix.busy++
			q.own(owner, l.lease.Epoch)
			fs = append(fs, &finishing{ix: ix, lease: l})
		}
	}
	q.mu.Unlock()
	return q.releaseAll(context.WithoutCancel(ctx), op, fs, loss, reason)
}

// releaseAll returns seized leases, in one transaction unless it is too large.
func (q *Queue) releaseAll(ctx context.Context, op string, fs []*finishing, loss bool, reason string) ([]core.Released, error) {
	if len(fs) == 0 {
		return []core.Released{}, nil
	}
	err := q.reserve.update(ctx, func(tx core.Txn) error { return q.releaseRows(ctx, tx, fs, loss, reason) })
	if core.IsCode(err, core.CodeTooLarge) && len(fs) > 1 {
		// More histories than one transaction holds. Two are better than none: the
		// epoch is over already, and nobody else can take these leases.
		half := len(fs) / 2
		one, err1 := q.releaseAll(ctx, op, fs[:half], loss, reason)
		two, err2 := q.releaseAll(ctx, op, fs[half:], loss, reason)
		return sortReleased(append(one, two...)), errors.Join(err1, err2)
	}
	out := []core.Released{}
	q.settle(fs, func(f *finishing) {
		if err != nil || f.lost {
			return
		}
		out = append(out, core.Released{
			Lease: f.lease.lease, IdempotencyKey: f.lease.key,
			Attempt: f.state.Attempts + 1, Losses: f.state.Losses, Dead: f.out.Dead,
		})
		q.refile(f.ix, f.lease, f.out)
	})
	return sortReleased(out), core.WithOp(op, err)
}

func sortReleased(out []core.Released) []core.Released {
	slices.SortFunc(out, func(a, b core.Released) int {
		return cmp.Or(cmp.Compare(a.Lease.Queue, b.Lease.Queue), cmp.Compare(a.Lease.Item, b.Lease.Item))
	})
	return out
}

func (q *Queue) releaseRows(ctx context.Context, tx core.Txn, fs []*finishing, loss bool, reason string) error {
	if err := q.checkStates(ctx, tx, fs); err != nil {
		return err
	}
	now := time.Now()
	for _, f := range fs {
		if f.lost {
			continue
		}
		f.out = core.Nacked{}
		if loss {
			l := f.lease.lease
			f.state.Losses++
			f.state.addFailure(core.Failure{At: now, Code: core.CodeLeaseLost, Reason: reason, Owner: l.Owner, Epoch: l.Epoch, Loss: true})
			f.out.Dead = f.state.Losses >= f.lease.maxL
		}
		if err := stageReturn(ctx, tx, f); err != nil {
			return err
		}
	}
	return nil
}
