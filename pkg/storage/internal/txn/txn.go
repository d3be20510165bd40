// Package txn is the optimistic transaction that the stores share: changes are
// staged in memory, and what was read is remembered for the commit to check.
package txn

import (
	"bytes"
	"context"
	"iter"
	"sort"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/internal/keycode"
)

// Backend is the store below a transaction.
type Backend interface {
	// GetMany is [core.Reader.GetMany].
	GetMany(ctx context.Context, keys ...core.Key) ([]core.Entry, error)
	// ScanRange is [core.Reader.Scan], and also says what a commit must find
	// unchanged for the answer to hold still. It may stop after the row with
	// which its answer reaches maxBytes bytes; 0 is no bound.
	ScanRange(ctx context.Context, prefix core.Key, opts core.ScanOptions, maxBytes int) ([]core.Entry, Range, error)
	// CommitTxn is [core.Txn.Commit]. The transaction does not change meanwhile.
	CommitTxn(ctx context.Context, tx *Txn) (uint64, error)
}

// Op is one staged change. The last one staged for a key is the only one kept.
type Op struct {
	Kind  core.ChangeKind
	Key   core.Key // owns its path
	Enc   string   // encoded key
	Value []byte   // of a put, owned, never nil and never modified
}

// Read is one row that was read from the store, with the revision seen; 0 for a
// row that was absent.
type Read struct {
	Namespace core.Namespace
	Enc       string
	Revision  uint64
}

// Range is a range of rows that was read from the store.
type Range struct {
	Namespace core.Namespace
	Lo, Hi    []byte // encoded keys in [Lo, Hi); nil Hi: no bound
	Revision  uint64 // a revision not above that of the state that was read
	Digest    Digest // of the rows found
	More      bool   // a limit stopped the scan, so that rows may follow
}

type rowKey struct {
	ns  core.Namespace
	enc string
}

// mapFrom is the number of entries from which an index beats looking at each.
const mapFrom = 8

// Txn implements [core.Txn] over a Backend.
type Txn struct {
	backend Backend
	ops     []Op
	opIndex map[rowKey]int // nil while there are few
	reads   []Read
	readIdx map[rowKey]int // nil while there are few
	ranges  []Range
	bytes   int
	done    bool
	first   [1]Op // backs ops of the commonest transaction
}

var _ core.Txn = (*Txn)(nil)

// New returns an empty transaction.
func New(b Backend) *Txn {
	t := &Txn{backend: b}
	t.ops = t.first[:0]
	return t
}

// Ops returns the staged changes. They are sorted by key once Commit is called.
func (t *Txn) Ops() []Op { return t.ops }

// Reads returns the rows to check at commit.
func (t *Txn) Reads() []Read { return t.reads }

// Ranges returns the ranges to check at commit.
func (t *Txn) Ranges() []Range { return t.ranges }

// Bytes returns the length of all staged keys and values together.
func (t *Txn) Bytes() int { return t.bytes }

func finished(op string) error {
	return core.Errorf(op, core.CodeClosed, "the transaction is finished")
}

// Put implements [core.Txn].
func (t *Txn) Put(key core.Key, value []byte) error {
	const op = "storage: put"
	if err := t.check(op, key); err != nil {
		return err
	}
	if len(value) > core.MaxValueLen {
		return core.Errorf(op, core.CodeTooLarge, "value of %s has %d bytes, at most %d are allowed", key, len(value), core.MaxValueLen)
	}
	return t.stage(op, core.ChangePut, key, value)
}

// Delete implements [core.Txn].
func (t *Txn) Delete(key core.Key) error {
	const op = "storage: delete"
	if err := t.check(op, key); err != nil {
		return err
	}
	return t.stage(op, core.ChangeDelete, key, nil)
}

func (t *Txn) check(op string, key core.Key) error {
	if t.done {
		return finished(op)
	}
	return core.WithOp(op, key.Validate())
}

func (t *Txn) stage(op string, kind core.ChangeKind, key core.Key, value []byte) error {
	var buf [256]byte
	enc := keycode.Append(buf[:0], key)
	i := t.findOp(key.Namespace, enc)
	grow := len(enc) + len(value)
	if i >= 0 {
		grow -= len(enc) + len(t.ops[i].Value)
	}
	if t.bytes+grow > core.MaxTxnBytes {
		return core.Errorf(op, core.CodeTooLarge, "the transaction would hold %d bytes, at most %d are allowed", t.bytes+grow, core.MaxTxnBytes)
	}
	if i < 0 && len(t.ops) >= core.MaxTxnOps {
		return core.Errorf(op, core.CodeTooLarge, "the transaction already holds %d changes, the most that are allowed", core.MaxTxnOps)
	}
	t.bytes += grow
	if kind == core.ChangePut {
		value = append(make([]byte, 0, len(value)), value...)
	}
	if i >= 0 {
		t.ops[i].Kind, t.ops[i].Value = kind, value
		return nil
	}
	key.Path = append([]string(nil), key.Path...)
	t.ops = append(t.ops, Op{Kind: kind, Key: key, Enc: string(enc), Value: value})
	t.opIndex = addIndex(t.opIndex, len(t.ops), func(i int) rowKey { return rowKey{t.ops[i].Key.Namespace, t.ops[i].Enc} })
	return nil
}

// addIndex adds the last of n entries to an index, and all of them when it is
// made.
func addIndex(index map[rowKey]int, n int, at func(int) rowKey) map[rowKey]int {
	switch {
	case index != nil:
		index[at(n-1)] = n - 1
	case n > mapFrom:
		index = make(map[rowKey]int, 4*mapFrom)
		for i := range n {
			index[at(i)] = i
		}
	}
	return index
}

// findOp returns the place of the change staged for a key, or -1.
func (t *Txn) findOp(ns core.Namespace, enc []byte) int {
	if t.opIndex != nil {
		if i, ok := t.opIndex[rowKey{ns, string(enc)}]; ok {
			return i
		}
		return -1
	}
	for i := range t.ops {
		if t.ops[i].Key.Namespace == ns && t.ops[i].Enc == string(enc) {
			return i
		}
	}
	return -1
}

// CompareAndSwap implements [core.Txn].
func (t *Txn) CompareAndSwap(ctx context.Context, key core.Key, old, value []byte) (bool, error) {
	const op = "storage: compare and swap"
	if err := t.check(op, key); err != nil {
		return false, err
	}
	if len(value) > core.MaxValueLen {
		return false, core.Errorf(op, core.CodeTooLarge, "value of %s has %d bytes, at most %d are allowed", key, len(value), core.MaxValueLen)
	}
	now, err := core.Get(ctx, t, key)
	if err != nil && !core.IsCode(err, core.CodeNotFound) {
		return false, err
	}
	if now.Exists() != (old != nil) || !bytes.Equal(now.Value, old) {
		return false, nil
	}
	switch {
	case value != nil:
		return true, t.stage(op, core.ChangePut, key, value)
	case now.Exists():
		return true, t.stage(op, core.ChangeDelete, key, nil)
	}
	return true, nil
}

// Commit implements [core.Txn].
func (t *Txn) Commit(ctx context.Context) (uint64, error) {
	if t.done {
		return 0, finished("storage: commit")
	}
	t.done = true
	if len(t.ops) > 1 {
		sort.Slice(t.ops, func(i, j int) bool {
			a, b := &t.ops[i], &t.ops[j]
			if a.Key.Namespace != b.Key.Namespace {
				return a.Key.Namespace < b.Key.Namespace
			}
			return a.Enc < b.Enc
		})
	}
	return t.backend.CommitTxn(ctx, t)
}

// Discard implements [core.Txn].
func (t *Txn) Discard() {
	if t.done {
		return
	}
	*t = Txn{done: true}
}

// Iterate implements [core.Reader].
func (t *Txn) Iterate(ctx context.Context, prefix core.Key, opts core.ScanOptions) iter.Seq2[core.Entry, error] {
	return Pieces(opts, func(o core.ScanOptions) ([]core.Entry, bool, error) {
		return t.scan(ctx, prefix, o, PieceBytes)
	})
}
