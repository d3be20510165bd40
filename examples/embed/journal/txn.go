package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"iter"
	"maps"
	"slices"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// change is one staged change. A nil value removes the row.
type change struct {
	key   core.Key
	value []byte
}

// ranged is a scan that was made, with what it found.
type ranged struct {
	prefix core.Key
	opts   core.ScanOptions
	found  []core.Entry
}

// txn implements [core.Txn]: it reads what is committed, keeps its changes to itself,
// and remembers what it has read so that the commit can see whether it still holds.
type txn struct {
	s      *Store
	staged map[string]change
	reads  map[string]core.Entry
	ranges []ranged
	bytes  int
	done   bool
}

// id is a key as a map's key.
func id(k core.Key) string {
	b := append([]byte(k.Namespace), 0)
	b = append(b, k.Run[:]...)
	for _, segment := range k.Path {
		b = append(binary.AppendUvarint(b, uint64(len(segment))), segment...)
	}
	return string(b)
}

func (t *txn) check(op string, key core.Key) error {
	if t.done {
		return core.Errorf(op, core.CodeClosed, "the transaction is finished")
	}
	return core.WithOp(op, key.Validate())
}

// Put implements [core.Txn].
func (t *txn) Put(key core.Key, value []byte) error {
	const op = "journal: put"
	if err := t.check(op, key); err != nil {
		return err
	}
	if len(value) > core.MaxValueLen {
		return core.Errorf(op, core.CodeTooLarge, "the value of %s has %d bytes, at most %d are allowed", key, len(value), core.MaxValueLen)
	}
	return t.stage(op, key, append([]byte{}, value...))
}

// Delete implements [core.Txn].
func (t *txn) Delete(key core.Key) error {
	const op = "journal: delete"
	if err := t.check(op, key); err != nil {
		return err
	}
	return t.stage(op, key, nil)
}

func (t *txn) stage(op string, key core.Key, value []byte) error {
	name := id(key)
	old, again := t.staged[name]
	grow := len(name) + len(value)
	if again {
		grow -= len(name) + len(old.value)
	}
	if t.bytes+grow > core.MaxTxnBytes || !again && len(t.staged) >= core.MaxTxnOps {
		return core.Errorf(op, core.CodeTooLarge, "the transaction would hold more than %d changes or %d bytes", core.MaxTxnOps, core.MaxTxnBytes)
	}
	t.bytes += grow
	t.staged[name] = change{key.Child(), value}
	return nil
}

// entry is a staged change as the transaction reads it.
func (c change) entry() core.Entry {
	if c.value == nil {
		return core.Entry{Key: c.key}
	}
	return copied(core.Entry{Key: c.key, Value: c.value, Revision: core.PendingRevision})
}

// GetMany implements [core.Reader].
func (t *txn) GetMany(ctx context.Context, keys ...core.Key) ([]core.Entry, error) {
	const op = "journal: get"
	out := make([]core.Entry, len(keys))
	for i, key := range keys {
		if err := t.check(op, key); err != nil {
			return nil, err
		}
		if c, ok := t.staged[id(key)]; ok {
			out[i] = c.entry()
			continue
		}
		es, err := t.s.GetMany(ctx, key)
		if err != nil {
			return nil, err
		}
		if before, ok := t.reads[id(key)]; ok && before.Revision != es[0].Revision {
			return nil, core.Errorf(op, core.CodeConflict, "row %s has changed since the transaction read it", key)
		}
		out[i], t.reads[id(key)] = es[0], core.Entry{Key: key.Child(), Revision: es[0].Revision}
	}
	return out, nil
}

// Scan implements [core.Reader]: what is committed, with the staged changes on top.
func (t *txn) Scan(ctx context.Context, prefix core.Key, opts core.ScanOptions) ([]core.Entry, error) {
	const op = "journal: scan"
	if err := t.check(op, prefix); err != nil {
		return nil, err
	}
	if err := checkScan(op, prefix, opts); err != nil {
		return nil, err
	}
	order := func(a, b core.Key) int {
		if opts.Reverse {
			a, b = b, a
		}
		return a.Compare(b)
	}
	staged := slices.DeleteFunc(slices.Collect(maps.Values(t.staged)), func(c change) bool {
		return !prefix.Covers(c.key) || opts.After != nil && order(c.key, *opts.After) <= 0
	})
	below := opts
	if opts.Limit > 0 {
		below.Limit = opts.Limit + len(staged) // as many rows may be hidden
	}
	rows, err := t.s.Scan(ctx, prefix, below)
	if err != nil {
		return nil, err
	}
	if opts.After != nil {
		after := opts.After.Child()
		below.After = &after
	}
	read := ranged{prefix.Child(), below, make([]core.Entry, len(rows))}
	for i, e := range rows {
		read.found[i] = core.Entry{Key: e.Key.Child(), Revision: e.Revision}
	}
	t.ranges = append(t.ranges, read)

	merged := map[string]core.Entry{}
	for _, e := range rows {
		merged[id(e.Key)] = e
	}
	for _, c := range staged {
		merged[id(c.key)] = c.entry()
	}
	out := slices.DeleteFunc(slices.Collect(maps.Values(merged)), func(e core.Entry) bool { return !e.Exists() })
	slices.SortFunc(out, func(a, b core.Entry) int { return order(a.Key, b.Key) })
	if opts.Limit > 0 && len(out) > opts.Limit {
		out = out[:opts.Limit]
	}
	return out, nil
}

// Iterate implements [core.Reader].
func (t *txn) Iterate(ctx context.Context, prefix core.Key, opts core.ScanOptions) iter.Seq2[core.Entry, error] {
	return inPieces(opts, func(o core.ScanOptions) ([]core.Entry, error) { return t.Scan(ctx, prefix, o) })
}

// CompareAndSwap implements [core.Txn].
func (t *txn) CompareAndSwap(ctx context.Context, key core.Key, old, new []byte) (bool, error) {
	es, err := t.GetMany(ctx, key)
	if err != nil {
		return false, err
	}
	now := es[0]
	if now.Exists() != (old != nil) || !bytes.Equal(now.Value, old) {
		return false, nil
	}
	switch {
	case new != nil:
		return true, t.Put(key, new)
	case old != nil:
		return true, t.Delete(key)
	}
	return true, nil
}

// Commit implements [core.Txn].
func (t *txn) Commit(ctx context.Context) (uint64, error) {
	if t.done {
		return 0, core.Errorf("journal: commit", core.CodeClosed, "the transaction is finished")
	}
	t.done = true
	return t.s.commit(ctx, t)
}

// Discard implements [core.Txn].
func (t *txn) Discard() { t.done = true }
