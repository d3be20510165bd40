package cloudlocal

import (
	"context"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Extend implements [core.Queue].
func (q *Queue) Extend(ctx context.Context, leases []core.Lease, life time.Duration) ([]error, error) {
	const op = "queue: extend"
	if life <= 0 {
		return nil, core.Errorf(op, core.CodeInvalidArgument, "a lease cannot be extended by %v", life)
	}
	if err := ctx.Err(); err != nil {
		return nil, core.Wrap(op, core.CodeCanceled, err)
	}
	out := make([]error, len(leases))
	fs, err := q.seize(op, leases, func(i int, err error) { out[i] = err })
	if err != nil || len(fs) == 0 {
		return out, err
	}
	ctx = context.WithoutCancel(ctx)
	deadline := time.Now().Add(life)
	err = q.reserve.update(ctx, func(tx core.Txn) error {
		if err := q.checkStates(ctx, tx, fs); err != nil {
			return err
		}
		for _, f := range fs {
			if f.lost {
				continue
			}
			f.state.DeadlineMS = deadline.UnixMilli()
			if err := putState(tx, f.lease.lease.Queue, f.lease.place, f.state); err != nil {
				return err
			}
		}
		return nil
	})
	q.settle(fs, func(f *finishing) {
		switch {
		case err != nil:
		case f.lost:
			out[f.pos] = errLeaseLost(op, f.lease.lease)
		default:
			f.lease.deadline = deadline
			q.schedule(waiting{at: deadline, q: f.ix, place: f.lease.place, token: f.lease.lease.Token})
		}
	})
	if err != nil {
		return nil, core.WithOp(op, err)
	}
	return out, nil
}
