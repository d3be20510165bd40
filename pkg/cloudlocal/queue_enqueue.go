package cloudlocal

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// reserveStep is how many numbers one durable reservation covers. A restart
// skips what is left of it, so that no number is ever used twice.
const reserveStep = 1 << 16

// Enqueue implements [core.Queue].
func (q *Queue) Enqueue(ctx context.Context, queue string, items []core.NewItem) ([]core.Enqueued, error) {
	const op = "queue: enqueue"
	if err := checkName(op, queue); err != nil {
		return nil, err
	}
	size, delayed, err := q.checkItems(items)
	if err != nil || len(items) == 0 {
		return []core.Enqueued{}, err
	}
	if err := ctx.Err(); err != nil {
		return nil, core.Wrap(op, core.CodeCanceled, err)
	}
	ix, err := q.enter(op, queue, true)
	if err != nil {
		return nil, err
	}
	if err := q.admit(size, delayed); err != nil {
		q.exit(ix)
		return nil, err
	}
	first, err := q.number(ctx, ix, len(items))
	if err != nil {
		q.inFlight -= size
		q.held -= delayed
		q.exit(ix)
		return nil, err
	}
	last := first + core.ItemID(len(items)) - 1
	ix.inflight[first] = last
	q.mu.Unlock()

	out, err := q.storeItems(context.WithoutCancel(ctx), queue, first, items)

	q.mu.Lock()
	delete(ix.inflight, first)
	q.inFlight -= size
	q.held -= delayed
	if err == nil {
		q.file(ix, items, out)
	}
	q.exit(ix)
	return out, core.WithOp(op, err)
}

// What an item takes in memory on its way to disk: its row, its copies in the
// transaction and in the pages of the store, and what the collector has not taken
// back of those before it.
const (
	itemMemory    = 4 << 10 // bytes for each item
	payloadMemory = 8       // bytes for each byte of a payload that goes into its row
)

// memoryOf is what an item counts against MaxInFlight.
func (q *Queue) memoryOf(it core.NewItem) int64 {
	n := int64(len(it.Payload))
	if len(it.Payload) > q.cfg.InlineBytes && q.cfg.Objects != nil {
		return itemMemory + n // the object store takes it in constant memory
	}
	return itemMemory + payloadMemory*n
}

// checkItems validates items and returns what they take in memory and how many wait
// for a time.
func (q *Queue) checkItems(items []core.NewItem) (size int64, delayed int, err error) {
	for i, it := range items {
		switch {
		case len(it.Payload) > core.MaxPayloadLen:
			return 0, 0, core.Errorf("queue: enqueue", core.CodeTooLarge, "item %d has %d bytes, at most %d are accepted", i, len(it.Payload), core.MaxPayloadLen)
		case len(it.IdempotencyKey) > core.MaxIdempotencyKeyLen:
			return 0, 0, core.Errorf("queue: enqueue", core.CodeInvalidArgument, "item %d has an idempotency key of %d bytes, at most %d are accepted", i, len(it.IdempotencyKey), core.MaxIdempotencyKeyLen)
		case it.MaxAttempts < 0 || it.MaxLosses < 0:
			return 0, 0, core.Errorf("queue: enqueue", core.CodeInvalidArgument, "item %d has a negative maximum of attempts or losses", i)
		}
		size += q.memoryOf(it)
		if !it.NotBefore.IsZero() {
			delayed++
		}
	}
	return size, delayed, nil
}

// admit reserves memory for items on their way to disk. mu is held.
func (q *Queue) admit(size int64, delayed int) error {
	if q.inFlight+size > q.cfg.MaxInFlight && q.inFlight > 0 {
		return core.Errorf("queue: enqueue", core.CodeExhausted, "items on their way to disk take %d bytes of memory already, the limit is %d; retry with backoff", q.inFlight, q.cfg.MaxInFlight)
	}
	if delayed > 0 && q.held+delayed > q.cfg.MaxHeld {
		return core.Errorf("queue: enqueue", core.CodeExhausted, "%d items wait in memory for their time or their owner, the limit is %d; retry with backoff", q.held, q.cfg.MaxHeld)
	}
	q.inFlight += size
	q.held += delayed
	return nil
}

// number gives out n numbers, reserving more on disk first when they run out. mu
// is held on entry and return, and released while a reservation is stored.
func (q *Queue) number(ctx context.Context, ix *queueIndex, n int) (core.ItemID, error) {
	for ix.next+core.ItemID(n)-1 > ix.high {
		if ix.reserving {
			q.cond.Wait()
			continue
		}
		ix.reserving = true
		high := ix.next + core.ItemID(n) + reserveStep
		q.mu.Unlock()
		_, err := core.Update(context.WithoutCancel(ctx), q.cfg.Storage, func(tx core.Txn) error {
			if err := tx.Put(rowKey("", "q", ix.name), nil); err != nil {
				return err
			}
			return tx.Put(rowKey(ix.name, rowHigh), binary.BigEndian.AppendUint64(nil, uint64(high)))
		})
		q.mu.Lock()
		ix.reserving = false
		q.cond.Broadcast()
		if err != nil {
			return 0, core.WithOp("queue: enqueue", err)
		}
		ix.high = high
	}
	first := ix.next
	ix.next += core.ItemID(n)
	return first, nil
}

// storeItems commits the rows of items numbered from first. Items whose
// idempotency key is known get the earlier number and no row.
func (q *Queue) storeItems(ctx context.Context, queue string, first core.ItemID, items []core.NewItem) ([]core.Enqueued, error) {
	if err := q.reserve.restore(ctx); err != nil {
		return nil, err
	}
	rows := make([][]byte, len(items))
	for i, it := range items {
		row, err := q.encodeNew(ctx, it)
		if err != nil {
			return nil, err
		}
		rows[i] = row
	}
	var out []core.Enqueued
	_, err := core.Update(ctx, q.cfg.Storage, func(tx core.Txn) error {
		out = make([]core.Enqueued, len(items))
		for i, it := range items {
			p := place{prio: it.Priority, id: first + core.ItemID(i)}
			known, err := claimKey(ctx, tx, queue, it.IdempotencyKey, p.id)
			if err != nil {
				return err
			}
			if known != 0 {
				out[i] = core.Enqueued{ID: known, Duplicate: true}
				continue
			}
			out[i] = core.Enqueued{ID: p.id}
			if err := tx.Put(rowKey(queue, rowItem, p.segment()), rows[i]); err != nil {
				return err
			}
			if it.NotBefore.IsZero() {
				continue
			}
			if err := putState(tx, queue, p, stateRecord{Version: recordVersion, NotBeforeMS: it.NotBefore.UnixMilli()}); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// encodeNew makes the row of a new item and stores a large payload beside it.
func (q *Queue) encodeNew(ctx context.Context, it core.NewItem) ([]byte, error) {
	r := itemRecord{
		Version: recordVersion, Payload: it.Payload, Size: int64(len(it.Payload)), Key: it.IdempotencyKey,
		EnqueuedMS: time.Now().UnixMilli(), MaxAttempts: it.MaxAttempts, MaxLosses: it.MaxLosses,
	}
	if len(it.Payload) > q.cfg.InlineBytes {
		switch {
		case q.cfg.Objects != nil:
			info, err := core.PutBlob(ctx, q.cfg.Objects, it.Payload, "application/octet-stream")
			if err != nil {
				return nil, err
			}
			r.Payload, r.Content = nil, info.ID[:]
		case len(it.Payload) > core.MaxValueLen/2:
			return nil, core.Errorf("queue: enqueue", core.CodeTooLarge, "a payload of %d bytes needs an object store, and this queue has none", len(it.Payload))
		}
	}
	return encodeRecord(&r)
}

// claimKey binds an idempotency key to a number, or returns the number that has
// it already.
func claimKey(ctx context.Context, tx core.Txn, queue, key string, id core.ItemID) (core.ItemID, error) {
	if key == "" {
		return 0, nil
	}
	k := rowKey(queue, rowIdem, key)
	es, err := tx.GetMany(ctx, k)
	if err != nil {
		return 0, err
	}
	if es[0].Exists() {
		r, err := decodeIdem(k, es[0].Value)
		return core.ItemID(r.ID), err
	}
	b, err := encodeRecord(&idemRecord{Version: recordVersion, ID: uint64(id)})
	if err != nil {
		return 0, err
	}
	return 0, tx.Put(k, b)
}

func putState(tx core.Txn, queue string, p place, st stateRecord) error {
	b, err := encodeRecord(&st)
	if err != nil {
		return err
	}
	return tx.Put(rowKey(queue, rowState, p.segment()), b)
}

// file adds durable items to the index and wakes whoever waits for them. mu is
// held.
func (q *Queue) file(ix *queueIndex, items []core.NewItem, out []core.Enqueued) {
	ready := 0
	for i, it := range items {
		if out[i].Duplicate {
			continue
		}
		ix.added++
		p := place{prio: it.Priority, id: out[i].ID}
		if it.NotBefore.IsZero() {
			ix.arrive(p, false, q.cfg.Window)
			ready++
			continue
		}
		ix.delayed[p.id] = p
		q.held++
		q.schedule(waiting{at: it.NotBefore, q: ix, place: p})
	}
	ix.wake(ready)
}
