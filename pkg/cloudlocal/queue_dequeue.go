package cloudlocal

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// maxBatch bounds how many items one dequeue leases, whatever was asked for.
const maxBatch = 1024

// taken is an item that a dequeue took out of the index.
type taken struct {
	place place
	tried bool
}

// Dequeue implements [core.Queue].
func (q *Queue) Dequeue(ctx context.Context, opts core.DequeueOptions) ([]core.LeasedItem, error) {
	const op = "queue: dequeue"
	if opts.MaxItems < 1 || opts.Owner.IsZero() || opts.Wait < 0 || opts.LeaseFor < 0 || opts.MaxBytes < 0 || len(opts.Queues) == 0 {
		return nil, core.Errorf(op, core.CodeInvalidArgument, "a queue, an owner and at least one item must be asked for, and no budget may be negative")
	}
	for _, name := range opts.Queues {
		if err := checkName(op, name); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, core.Wrap(op, core.CodeCanceled, err)
	}
	deadline := time.Now().Add(opts.Wait)
	for {
		for _, name := range opts.Queues {
			items, err := q.tryDequeue(ctx, name, opts)
			if err != nil || len(items) > 0 {
				return items, core.WithOp(op, err)
			}
		}
		if opts.Wait == 0 {
			return []core.LeasedItem{}, nil
		}
		ok, err := q.await(ctx, opts.Queues, time.Until(deadline))
		if err != nil || !ok {
			return []core.LeasedItem{}, core.WithOp(op, err)
		}
	}
}

// tryDequeue leases what is there in one queue.
func (q *Queue) tryDequeue(ctx context.Context, queue string, opts core.DequeueOptions) ([]core.LeasedItem, error) {
	ix, err := q.enter("queue: dequeue", queue, false)
	if err != nil {
		return nil, err
	}
	if ix == nil {
		q.mu.Unlock()
		return nil, nil
	}
	if opts.Epoch <= q.released[opts.Owner] {
		q.exit(ix)
		return nil, core.Errorf("queue: dequeue", core.CodeFenced, "epoch %d of worker %s is over", opts.Epoch, opts.Owner)
	}
	picked, err := q.pick(ctx, ix, opts.MaxItems)
	if err != nil || len(picked) == 0 {
		q.putBack(ix, picked)
		q.exit(ix)
		return nil, err
	}
	firstToken := q.token + 1
	q.token += uint64(len(picked))
	q.ownBusy[opts.Owner]++
	q.mu.Unlock()

	got, err := q.storeLeases(context.WithoutCancel(ctx), queue, picked, firstToken, opts)

	q.mu.Lock()
	if q.ownBusy[opts.Owner]--; q.ownBusy[opts.Owner] == 0 {
		delete(q.ownBusy, opts.Owner)
	}
	for _, g := range got.leased {
		q.hold(ix, g.lease)
	}
	ix.dead += int64(len(got.unreadable))
	q.putBack(ix, picked[len(got.leased)+len(got.unreadable):])
	q.exit(ix)
	if err == nil && len(got.leased) == 0 {
		// Everything picked turned out unreadable: look again at once.
		return q.tryDequeue(ctx, queue, opts)
	}
	return got.items(), err
}

// pick takes up to n ready items out of the index, refilling its window from
// disk as needed. mu is held.
func (q *Queue) pick(ctx context.Context, ix *queueIndex, n int) ([]taken, error) {
	n = min(n, maxBatch, q.cfg.MaxHeld-q.held)
	if n < 1 {
		return nil, core.Errorf("queue: dequeue", core.CodeExhausted, "%d items are held in memory, the limit is %d", q.held, q.cfg.MaxHeld)
	}
	var out []taken
	for len(out) < n {
		p, tried, lane, ok := ix.pop()
		if ok {
			out = append(out, taken{p, tried})
			continue
		}
		if lane == nil || len(out) > 0 {
			// A scan is not worth making the caller wait while it has items already.
			break
		}
		if err := q.refill(ctx, ix, lane); err != nil {
			return out, err
		}
	}
	return out, nil
}

// putBack returns items that were not leased after all. mu is held.
func (q *Queue) putBack(ix *queueIndex, items []taken) {
	for _, t := range items {
		ix.arrive(t.place, t.tried, q.cfg.Window)
	}
	ix.wake(len(items))
}

// grant is a lease about to be given, with the rows behind it.
type grant struct {
	lease *leased
	item  itemRecord
	state stateRecord
}

// granted is what one dequeue made of the items it picked. Together both lists
// are a prefix of them.
type granted struct {
	leased     []grant
	unreadable []grant // their payload is damaged or gone: they are dead
}

// storeLeases reads the picked items within the byte budget and commits a lease
// for each.
func (q *Queue) storeLeases(ctx context.Context, queue string, picked []taken, token uint64, opts core.DequeueOptions) (granted, error) {
	keys := make([]core.Key, 0, 2*len(picked))
	for _, t := range picked {
		seg := t.place.segment()
		keys = append(keys, rowKey(queue, rowItem, seg))
		if t.tried {
			keys = append(keys, rowKey(queue, rowState, seg))
		}
	}
	rows, err := q.cfg.Storage.GetMany(ctx, keys...)
	if err != nil {
		return granted{}, err
	}
	got, err := q.grants(ctx, queue, picked, rows, token, opts)
	if err != nil {
		return granted{}, err
	}
	// The states are written blind: the items were taken out of the index under
	// the lock, so nobody else can change their rows.
	_, err = core.Update(ctx, q.cfg.Storage, func(tx core.Txn) error {
		for _, g := range got.leased {
			if err := putState(tx, queue, g.lease.place, g.state); err != nil {
				return err
			}
		}
		for _, g := range got.unreadable {
			if err := bury(tx, queue, g.lease.place, g.item, g.state); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return granted{}, err
	}
	return got, nil
}

// grants prepares leases for as many picked items as the byte budget allows, at
// least one.
func (q *Queue) grants(ctx context.Context, queue string, picked []taken, rows []core.Entry, token uint64, opts core.DequeueOptions) (granted, error) {
	var got granted
	var bytes int64
	now := time.Now()
	var deadline time.Time
	if opts.LeaseFor > 0 {
		deadline = now.Add(opts.LeaseFor)
	}
	for _, t := range picked {
		item, state, rest, err := readRows(rows, t)
		if err != nil {
			return granted{}, err
		}
		rows = rest
		if bytes += item.Size; opts.MaxBytes > 0 && bytes > opts.MaxBytes && len(got.leased) > 0 {
			break
		}
		err = q.fetch(ctx, &item)
		if core.IsCode(err, core.CodeCorrupt) || core.IsCode(err, core.CodeNotFound) {
			state.addFailure(core.Failure{At: now, Code: core.CodeOf(err), Reason: err.Error()})
			got.unreadable = append(got.unreadable, grant{leasedOf(queue, t.place, item, state, q.cfg), item, state})
			continue
		}
		if err != nil {
			return granted{}, err
		}
		state.Version, state.Token, state.Owner, state.Epoch = recordVersion, token, opts.Owner[:], opts.Epoch
		state.NotBeforeMS, state.DeadlineMS = 0, msOfTime(deadline)
		token++
		l := leasedOf(queue, t.place, item, state, q.cfg)
		l.deadline = deadline
		got.leased = append(got.leased, grant{l, item, state})
	}
	return got, nil
}

// items makes what the owner is handed.
func (g granted) items() []core.LeasedItem {
	out := make([]core.LeasedItem, len(g.leased))
	for i, g := range g.leased {
		out[i] = core.LeasedItem{
			Lease: g.lease.lease, Payload: g.item.Payload, IdempotencyKey: g.item.Key, Priority: g.lease.place.prio,
			Attempt: g.state.Attempts + 1, Losses: g.state.Losses, EnqueuedAt: timeOfMS(g.item.EnqueuedMS), Deadline: g.lease.deadline,
		}
	}
	return out
}

// readRows decodes one item's rows from the front of rows.
func readRows(rows []core.Entry, t taken) (itemRecord, stateRecord, []core.Entry, error) {
	e := rows[0]
	if !e.Exists() {
		return itemRecord{}, stateRecord{}, nil, core.Errorf("queue: dequeue", core.CodeCorrupt, "row %q is gone", e.Key)
	}
	item, err := decodeItem(e.Key, e.Value)
	if err != nil || !t.tried {
		return item, stateRecord{}, rows[1:], err
	}
	var state stateRecord
	if s := rows[1]; s.Exists() {
		state, err = decodeState(s.Key, s.Value)
	}
	return item, state, rows[2:], err
}

// fetch fills in a payload that lies in the object store.
func (q *Queue) fetch(ctx context.Context, item *itemRecord) error {
	if len(item.Content) == 0 {
		return nil
	}
	if q.cfg.Objects == nil || len(item.Content) != core.ContentIDSize {
		return core.Errorf("queue: read payload", core.CodeFailedPrecondition, "the payload lies in an object store, and this queue was opened without one")
	}
	b, err := core.ReadBlob(ctx, q.cfg.Objects, core.ContentID(item.Content), core.MaxPayloadLen)
	item.Payload = b
	return err
}

// await waits until one of the queues has something new. It reports false when
// the time is over. What came between the caller's look and now is seen, because
// the queues are looked at again under the lock that the waiter joins under.
func (q *Queue) await(ctx context.Context, queues []string, wait time.Duration) (bool, error) {
	w := &waiter{ch: make(chan struct{})}
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return false, errClosed("queue: dequeue")
	}
	for _, name := range queues {
		ix := q.queues[name]
		if ix == nil {
			ix = newQueueIndex(name)
			q.queues[name] = ix
		}
		if ix.readyCount() > 0 && !ix.purging {
			q.leave(w, queues)
			q.mu.Unlock()
			return true, nil
		}
		ix.waiters = append(ix.waiters, w)
	}
	q.mu.Unlock()

	timer := time.NewTimer(wait)
	defer timer.Stop()
	var err error
	woken := false
	select {
	case <-w.ch:
		woken = true
	case <-ctx.Done():
		err = core.Wrap("queue: dequeue", core.CodeCanceled, ctx.Err())
	case <-timer.C:
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.leave(w, queues)
	if !woken && w.woken {
		// The wake-up came at the same moment: another waiter gets it.
		for _, name := range queues {
			if ix := q.queues[name]; ix != nil {
				ix.wake(1)
			}
		}
	}
	return woken, err
}

// leave removes a waiter from every queue that it joined. mu is held.
func (q *Queue) leave(w *waiter, queues []string) {
	for _, name := range queues {
		if ix := q.queues[name]; ix != nil {
			ix.waiters = slices.DeleteFunc(ix.waiters, func(o *waiter) bool { return o == w })
		}
	}
}

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
