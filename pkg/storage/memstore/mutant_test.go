package memstore_test

import (
	"context"
	"iter"
	"slices"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// mutant is a store with one deliberate defect. Each hook stands in for the sound
// behaviour, which it is handed.
type mutant struct {
	core.Storage

	get      func(ctx context.Context, keys []core.Key, sound getFunc) ([]core.Entry, error)
	scan     func(ctx context.Context, prefix core.Key, o core.ScanOptions, sound scanFunc) ([]core.Entry, error)
	iterate  func(seq iter.Seq2[core.Entry, error]) iter.Seq2[core.Entry, error]
	begin    func(tx core.Txn) core.Txn
	revision func(now uint64) uint64
	watch    func(prefix core.Key, from uint64) (core.Key, uint64)
	watcher  func(w core.Watcher, err error) (core.Watcher, error)
	close    func() error
}

type (
	getFunc  func(ctx context.Context, keys ...core.Key) ([]core.Entry, error)
	scanFunc func(ctx context.Context, prefix core.Key, o core.ScanOptions) ([]core.Entry, error)
)

func (m *mutant) GetMany(ctx context.Context, keys ...core.Key) ([]core.Entry, error) {
	if m.get == nil {
		return m.Storage.GetMany(ctx, keys...)
	}
	return m.get(ctx, keys, m.Storage.GetMany)
}

func (m *mutant) Scan(ctx context.Context, prefix core.Key, o core.ScanOptions) ([]core.Entry, error) {
	if m.scan == nil {
		return m.Storage.Scan(ctx, prefix, o)
	}
	return m.scan(ctx, prefix, o, m.Storage.Scan)
}

func (m *mutant) Iterate(ctx context.Context, prefix core.Key, o core.ScanOptions) iter.Seq2[core.Entry, error] {
	switch {
	case m.iterate != nil:
		return m.iterate(m.Storage.Iterate(ctx, prefix, o))
	case m.scan == nil:
		return m.Storage.Iterate(ctx, prefix, o)
	}
	return func(yield func(core.Entry, error) bool) {
		es, err := m.Scan(ctx, prefix, o)
		if err != nil {
			yield(core.Entry{}, err)
		}
		for _, e := range es {
			if err := ctx.Err(); err != nil {
				yield(core.Entry{}, core.Wrap("iterate", core.CodeCanceled, err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (m *mutant) Begin(ctx context.Context) (core.Txn, error) {
	tx, err := m.Storage.Begin(ctx)
	if err != nil || m.begin == nil {
		return tx, err
	}
	return m.begin(tx), nil
}

func (m *mutant) Revision() uint64 {
	if m.revision == nil {
		return m.Storage.Revision()
	}
	return m.revision(m.Storage.Revision())
}

func (m *mutant) Watch(ctx context.Context, prefix core.Key, from uint64) (core.Watcher, error) {
	if m.watch != nil {
		prefix, from = m.watch(prefix, from)
	}
	w, err := m.Storage.Watch(ctx, prefix, from)
	if m.watcher != nil {
		return m.watcher(w, err)
	}
	return w, err
}

func (m *mutant) Close() error {
	if m.close == nil {
		return m.Storage.Close()
	}
	return m.close()
}

// op is one change that a defective transaction has seen staged.
type op struct {
	key   core.Key
	value []byte // nil: delete
}

// txMutant is a transaction with one deliberate defect.
type txMutant struct {
	core.Txn
	store core.Storage
	ops   []op // staged, in order

	get     func(ctx context.Context, keys []core.Key, sound getFunc) ([]core.Entry, error)
	scan    func(ctx context.Context, prefix core.Key, o core.ScanOptions, sound scanFunc) ([]core.Entry, error)
	iterate func(seq iter.Seq2[core.Entry, error]) iter.Seq2[core.Entry, error]
	put     func(t *txMutant, key core.Key, value []byte) error
	delete  func(t *txMutant, key core.Key) error
	cas     func(ctx context.Context, t *txMutant, key core.Key, old, value []byte) (bool, error)
	commit  func(ctx context.Context, t *txMutant) (uint64, error)
}

func (t *txMutant) GetMany(ctx context.Context, keys ...core.Key) ([]core.Entry, error) {
	if t.get == nil {
		return t.Txn.GetMany(ctx, keys...)
	}
	return t.get(ctx, keys, t.Txn.GetMany)
}

func (t *txMutant) Scan(ctx context.Context, prefix core.Key, o core.ScanOptions) ([]core.Entry, error) {
	if t.scan == nil {
		return t.Txn.Scan(ctx, prefix, o)
	}
	return t.scan(ctx, prefix, o, t.Txn.Scan)
}

func (t *txMutant) Iterate(ctx context.Context, prefix core.Key, o core.ScanOptions) iter.Seq2[core.Entry, error] {
	if t.iterate == nil {
		return t.Txn.Iterate(ctx, prefix, o)
	}
	return t.iterate(t.Txn.Iterate(ctx, prefix, o))
}

func (t *txMutant) Put(key core.Key, value []byte) error {
	t.ops = append(t.ops, op{key, slices.Concat([]byte{}, value)})
	if t.put == nil {
		return t.Txn.Put(key, value)
	}
	return t.put(t, key, value)
}

func (t *txMutant) Delete(key core.Key) error {
	t.ops = append(t.ops, op{key: key})
	if t.delete == nil {
		return t.Txn.Delete(key)
	}
	return t.delete(t, key)
}

func (t *txMutant) CompareAndSwap(ctx context.Context, key core.Key, old, value []byte) (bool, error) {
	if t.cas == nil {
		return t.Txn.CompareAndSwap(ctx, key, old, value)
	}
	return t.cas(ctx, t, key, old, value)
}

func (t *txMutant) Commit(ctx context.Context) (uint64, error) {
	if t.commit == nil {
		return t.Txn.Commit(ctx)
	}
	return t.commit(ctx, t)
}

// again stages the same changes in a transaction that has read nothing.
func (t *txMutant) again(ctx context.Context, ops []op) (uint64, error) {
	tx, err := t.store.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer tx.Discard()
	for _, o := range ops {
		if o.value == nil {
			err = tx.Delete(o.key)
		} else {
			err = tx.Put(o.key, o.value)
		}
		if err != nil {
			return 0, err
		}
	}
	return tx.Commit(ctx)
}

// watchMutant is a watcher with one deliberate defect.
type watchMutant struct {
	core.Watcher
	next     func(ctx context.Context, w core.Watcher) (core.Commit, error)
	progress func(now uint64) uint64
	close    func() error
}

func (w *watchMutant) Next(ctx context.Context) (core.Commit, error) {
	if w.next == nil {
		return w.Watcher.Next(ctx)
	}
	return w.next(ctx, w.Watcher)
}

func (w *watchMutant) Progress() uint64 {
	if w.progress == nil {
		return w.Watcher.Progress()
	}
	return w.progress(w.Watcher.Progress())
}

func (w *watchMutant) Close() error {
	if w.close == nil {
		return w.Watcher.Close()
	}
	return w.close()
}
