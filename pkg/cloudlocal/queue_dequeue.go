package cloudlocal

import (
	"context"
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
	woken := false
	defer func() {
		if woken {
			q.passOn(opts.Queues)
		}
	}()
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
		woken = true
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
		q.held -= len(picked)
		q.putBack(ix, picked)
		q.exit(ix)
		return nil, err
	}
	firstToken := q.token + 1
	q.token += uint64(len(picked))
	q.own(opts.Owner, opts.Epoch)
	q.mu.Unlock()

	got, err := q.storeLeases(context.WithoutCancel(ctx), queue, picked, firstToken, opts)

	q.mu.Lock()
	q.disown(opts.Owner, opts.Epoch)
	q.held -= len(picked) - len(got.leased)
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
// disk as needed, and counts them as held. mu is held.
func (q *Queue) pick(ctx context.Context, ix *queueIndex, n int) ([]taken, error) {
	if ix.readyCount() == 0 {
		return nil, nil
	}
	n = min(n, maxBatch, q.cfg.MaxHeld-q.held)
	if n < 1 {
		return nil, core.Errorf("queue: dequeue", core.CodeExhausted, "%d items are held in memory, the limit is %d", q.held, q.cfg.MaxHeld)
	}
	// All of them are counted before the lock may be let go for a scan.
	q.held += n
	out := make([]taken, 0, min(n, 64))
	defer func() { q.held -= n - len(out) }()
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
	err = q.reserve.update(ctx, func(tx core.Txn) error {
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
