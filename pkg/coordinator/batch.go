package coordinator

import (
	"context"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// batch is the transaction that several changes share. What a change stages joins
// it only when the whole change was prepared without an error.
type batch struct {
	tx      core.Txn
	seq     uint64 // number of the last event in it
	bytes   int    // staged so far
	tainted bool   // a change that failed has left a part of itself in tx

	// Of the change in preparation.
	staged []stagedRow
	events []core.Event
}

type stagedRow struct {
	key   core.Key
	value []byte // nil: delete
}

// get reads one row into the transaction's read set.
func (b *batch) get(ctx context.Context, key core.Key) (core.Entry, error) {
	es, err := b.tx.GetMany(ctx, key)
	if err != nil {
		return core.Entry{}, err
	}
	return es[0], nil
}

// worker reads a worker's row; nil when there is none.
func (b *batch) worker(ctx context.Context, id core.WorkerID) (*workerRow, error) {
	e, err := b.get(ctx, workerKey(id))
	if err != nil || !e.Exists() {
		return nil, err
	}
	row := &workerRow{}
	return row, decodeRow(e, row)
}

// put stages a row as JSON.
func (b *batch) put(key core.Key, v any) error {
	value, err := encodeRow(v)
	if err != nil {
		return err
	}
	b.staged = append(b.staged, stagedRow{key, value})
	return nil
}

// del stages a removal.
func (b *batch) del(key core.Key) { b.staged = append(b.staged, stagedRow{key: key}) }

// event stages a domain event.
func (b *batch) event(ev core.Event) { b.events = append(b.events, ev) }

// run prepares one change and, when that succeeds, stages it with its events.
func (b *batch) run(ctx context.Context, o *op) error {
	b.staged, b.events = b.staged[:0], b.events[:0]
	if err := o.prepare(ctx, b); err != nil {
		return err
	}
	err := b.stage()
	b.tainted = err != nil
	return err
}

func (b *batch) stage() error {
	for i := range b.events {
		value, err := encodeRow(b.events[i])
		if err != nil {
			return err
		}
		b.staged = append(b.staged, stagedRow{eventKey(b.seq + uint64(i) + 1), value})
	}
	for _, r := range b.staged {
		err := error(nil)
		if r.value == nil {
			err = b.tx.Delete(r.key)
		} else {
			err = b.tx.Put(r.key, r.value)
		}
		if err != nil {
			return err
		}
		b.bytes += len(r.value)
	}
	b.seq += uint64(len(b.events))
	return nil
}
