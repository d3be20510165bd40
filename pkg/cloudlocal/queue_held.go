package cloudlocal

import (
	"cmp"
	"context"
	"slices"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Held implements [core.Queue].
func (q *Queue) Held(ctx context.Context, owner core.WorkerID, epoch uint64) ([]core.LeasedItem, error) {
	const op = "queue: held"
	if err := ctx.Err(); err != nil {
		return nil, core.Wrap(op, core.CodeCanceled, err)
	}
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return nil, errClosed(op)
	}
	var held []*leased
	for l := range q.owners[owner] {
		if l.lease.Epoch == epoch {
			held = append(held, l)
		}
	}
	q.mu.Unlock()
	slices.SortFunc(held, func(a, b *leased) int {
		return cmp.Or(cmp.Compare(a.lease.Queue, b.lease.Queue), cmp.Compare(a.lease.Item, b.lease.Item))
	})
	out := []core.LeasedItem{}
	for _, l := range held {
		seg := l.place.segment()
		rows, err := q.cfg.Storage.GetMany(ctx, rowKey(l.lease.Queue, rowItem, seg), rowKey(l.lease.Queue, rowState, seg))
		if err != nil {
			return nil, core.WithOp(op, err)
		}
		if !rows[0].Exists() || !rows[1].Exists() {
			continue // finished while it was being read
		}
		item, state, _, err := readRows(rows, taken{place: l.place, tried: true})
		if err != nil {
			return nil, core.WithOp(op, err)
		}
		if state.Token != l.lease.Token {
			continue
		}
		if err := q.fetch(ctx, &item); err != nil {
			return nil, core.WithOp(op, err)
		}
		out = append(out, granted{leased: []grant{{l, item, state}}}.items()...)
	}
	return out, nil
}
