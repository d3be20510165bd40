package cloudlocal

import (
	"context"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// errLeaseLost is the answer for a lease that no longer holds.
func errLeaseLost(op string, l core.Lease) error {
	return core.Errorf(op, core.CodeLeaseLost, "the lease on item %d of queue %q, epoch %d of worker %s, no longer holds", l.Item, l.Queue, l.Epoch, l.Owner)
}

// finishing is one lease between the two halves of a change.
type finishing struct {
	pos   int // in the caller's batch
	ix    *queueIndex
	lease *leased
	lost  bool // the transaction found another lease in the row
	state stateRecord
	item  itemRecord
	nack  *core.Nack
	out   core.Nacked
	write []core.Write
}

// seize marks the leases of a batch busy. Those that do not hold, are being
// changed by another call, or appear twice are answered through lost. mu is not
// held.
func (q *Queue) seize(op string, leases []core.Lease, lost func(i int, err error)) ([]*finishing, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.purgingAny(leases) && !q.closed {
		q.cond.Wait()
	}
	if q.closed {
		return nil, errClosed(op)
	}
	var out []*finishing
	for i, want := range leases {
		ix := q.queues[want.Queue]
		var l *leased
		if ix != nil {
			l = ix.leases[want.Item]
		}
		if l == nil || l.busy || !q.holds(l, want) {
			lost(i, errLeaseLost(op, want))
			continue
		}
		l.busy = true
		ix.busy++
		q.own(l.lease.Owner, l.lease.Epoch)
		out = append(out, &finishing{pos: i, ix: ix, lease: l})
	}
	return out, nil
}

// holds reports whether a lease is the one that stands, its epoch goes on and its
// time has not run out, even if the item has not been taken back yet. mu is held.
func (q *Queue) holds(l *leased, want core.Lease) bool {
	if q.cfg.hooks.trustLeases {
		return true
	}
	return l.lease == want && want.Epoch > q.released[want.Owner] && (l.deadline.IsZero() || time.Now().Before(l.deadline))
}

func (q *Queue) purgingAny(leases []core.Lease) bool {
	for _, l := range leases {
		if ix := q.queues[l.Queue]; ix != nil && ix.purging {
			return true
		}
	}
	return false
}

// settle ends what seize began: file is called for each lease with mu held.
func (q *Queue) settle(fs []*finishing, file func(*finishing)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, f := range fs {
		f.lease.busy = false
		f.ix.busy--
		q.disown(f.lease.lease.Owner, f.lease.lease.Epoch)
		file(f)
	}
	q.cond.Broadcast()
}

// checkStates reads the state rows of leases inside the transaction that changes
// them and marks those whose token is no longer theirs as lost. This is the check
// that counts: it is validated again when the transaction commits.
func (q *Queue) checkStates(ctx context.Context, tx core.Txn, fs []*finishing) error {
	keys := make([]core.Key, len(fs))
	for i, f := range fs {
		keys[i] = rowKey(f.lease.lease.Queue, rowState, f.lease.place.segment())
	}
	rows, err := tx.GetMany(ctx, keys...)
	if err != nil {
		return err
	}
	for i, f := range fs {
		f.lost = true
		if !rows[i].Exists() {
			continue
		}
		if f.state, err = decodeState(keys[i], rows[i].Value); err != nil {
			return err
		}
		f.lost = f.state.Token != f.lease.lease.Token && !q.cfg.hooks.blindCommit
	}
	return nil
}

func applyWrites(tx core.Txn, ws []core.Write) error {
	for _, w := range ws {
		var err error
		if w.Delete {
			err = tx.Delete(w.Key)
		} else {
			err = tx.Put(w.Key, w.Value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Ack implements [core.Queue].
func (q *Queue) Ack(ctx context.Context, acks []core.Ack) ([]error, error) {
	const op = "queue: ack"
	if err := ctx.Err(); err != nil {
		return nil, core.Wrap(op, core.CodeCanceled, err)
	}
	out := make([]error, len(acks))
	leases := make([]core.Lease, len(acks))
	for i, a := range acks {
		leases[i] = a.Lease
	}
	fs, err := q.seize(op, leases, func(i int, err error) { out[i] = err })
	if err != nil || len(fs) == 0 {
		return out, err
	}
	for _, f := range fs {
		f.write = acks[f.pos].Writes
	}
	ctx = context.WithoutCancel(ctx)
	err = q.reserve.update(ctx, func(tx core.Txn) error { return q.finishRows(ctx, tx, fs) })
	q.settle(fs, func(f *finishing) {
		switch {
		case err != nil:
		case f.lost:
			out[f.pos] = errLeaseLost(op, f.lease.lease)
		default:
			q.drop(f.ix, f.lease)
			f.ix.acked++
			q.remember(f)
		}
	})
	if err != nil {
		return nil, core.WithOp(op, err)
	}
	q.forget(ctx)
	return out, nil
}

// finishRows removes the rows of finished items and stores their writes.
func (q *Queue) finishRows(ctx context.Context, tx core.Txn, fs []*finishing) error {
	if err := q.checkStates(ctx, tx, fs); err != nil {
		return err
	}
	now := time.Now().UnixMilli()
	for _, f := range fs {
		if f.lost {
			continue
		}
		if err := removeRows(tx, f.lease.lease.Queue, f.lease.place); err != nil {
			return err
		}
		if f.lease.key != "" {
			b, err := encodeRecord(&idemRecord{Version: recordVersion, ID: uint64(f.lease.place.id), DoneMS: now})
			if err != nil {
				return err
			}
			if err := tx.Put(rowKey(f.lease.lease.Queue, rowIdem, f.lease.key), b); err != nil {
				return err
			}
		}
		if err := applyWrites(tx, f.write); err != nil {
			return err
		}
	}
	return nil
}

func removeRows(tx core.Txn, queue string, p place) error {
	seg := p.segment()
	if err := tx.Delete(rowKey(queue, rowItem, seg)); err != nil {
		return err
	}
	return tx.Delete(rowKey(queue, rowState, seg))
}

// remember notes a finished idempotency key. mu is held.
func (q *Queue) remember(f *finishing) {
	if f.lease.key != "" {
		f.ix.done = append(f.ix.done, f.lease.key)
	}
}

// forget removes finished idempotency keys beyond what is remembered, in batches,
// so that most calls pay nothing. A failure keeps them for the next call: an
// acknowledgement that is durable is not refused for the sake of tidiness.
func (q *Queue) forget(ctx context.Context) {
	const batch = 1000
	q.mu.Lock()
	var of *queueIndex
	var name string
	var keys []string
	for _, ix := range q.queues {
		if ix.purging {
			continue
		}
		if len(ix.done) >= q.cfg.Remember+batch {
			name, keys = ix.name, append([]string(nil), ix.done[:batch]...)
			ix.done = append([]string(nil), ix.done[batch:]...)
			// A purge waits for it: the keys may be new ones afterwards.
			of = ix
			ix.busy++
			break
		}
	}
	q.mu.Unlock()
	if len(keys) == 0 {
		return
	}
	err := q.reserve.update(ctx, func(tx core.Txn) error {
		for _, k := range keys {
			if err := tx.Delete(rowKey(name, rowIdem, k)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		q.log.Warn("old idempotency keys could not be removed", "queue", name, "error", err)
	}
	q.mu.Lock()
	if err != nil {
		of.done = append(keys, of.done...)
	}
	q.exit(of)
}
