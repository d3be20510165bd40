package memstore

import (
	"context"
	"iter"
	"sort"
	"strings"
	"sync"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/internal/keycode"
	"github.com/rollout-substrate/rollout/pkg/storage/internal/txn"
	"github.com/rollout-substrate/rollout/pkg/storage/internal/watchlog"
)

// Options adjusts a Store. The zero value is the usual one.
type Options struct {
	// CommitHook, if set, runs before each commit that changes something, one
	// commit at a time. An error of it is the commit's, and nothing is stored: a
	// test uses it to fail or to delay commits. It must not use the store.
	CommitHook func() error
	// HistoryEvents and HistoryBytes bound the history of watchers. 0 means
	// 10,000 events and 8 MiB.
	HistoryEvents, HistoryBytes int
}

// Store is an in-memory [core.Storage].
type Store struct {
	hook func() error
	log  *watchlog.Log

	commitMu sync.Mutex // one commit at a time; taken before mu

	// mu guards the rows, the revision and closed. No callback runs under it.
	mu       sync.RWMutex
	spaces   map[core.Namespace]*space
	revision uint64
	closed   bool
}

// space holds one namespace's rows in key order.
type space struct{ rows []row }

type row struct {
	enc   string
	key   core.Key
	value []byte
	rev   uint64
}

var _ core.Storage = (*Store)(nil)

// New returns an empty store.
func New(o Options) *Store {
	return &Store{
		hook:   o.CommitHook,
		log:    watchlog.New(o.HistoryEvents, o.HistoryBytes, 0),
		spaces: map[core.Namespace]*space{},
	}
}

// find returns the place of enc, or where it would go.
func (s *space) find(enc string) (int, bool) {
	if s == nil {
		return 0, false
	}
	i := sort.Search(len(s.rows), func(i int) bool { return s.rows[i].enc >= enc })
	return i, i < len(s.rows) && s.rows[i].enc == enc
}

// ready returns why an operation cannot start, if so. mu is held.
func (s *Store) ready(ctx context.Context, op string) error {
	if s.closed {
		return core.Errorf(op, core.CodeClosed, "the store is closed")
	}
	return core.Wrap(op, core.CodeCanceled, ctx.Err())
}

// GetMany implements [core.Reader].
func (s *Store) GetMany(ctx context.Context, keys ...core.Key) ([]core.Entry, error) {
	const op = "storage: get"
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.ready(ctx, op); err != nil {
		return nil, err
	}
	out := make([]core.Entry, len(keys))
	for i, key := range keys {
		if err := key.Validate(); err != nil {
			return nil, core.WithOp(op, err)
		}
		out[i].Key = key
		sp := s.spaces[key.Namespace]
		if j, ok := sp.find(string(keycode.Append(nil, key))); ok {
			out[i].Value, out[i].Revision = clone(sp.rows[j].value), sp.rows[j].rev
		}
	}
	return out, nil
}

func clone(b []byte) []byte { return append(make([]byte, 0, len(b)), b...) }

// Scan implements [core.Reader].
func (s *Store) Scan(ctx context.Context, prefix core.Key, opts core.ScanOptions) ([]core.Entry, error) {
	rows, _, err := s.ScanRange(ctx, prefix, opts, 0)
	return rows, err
}

// Iterate implements [core.Reader].
func (s *Store) Iterate(ctx context.Context, prefix core.Key, opts core.ScanOptions) iter.Seq2[core.Entry, error] {
	return txn.Pieces(opts, func(o core.ScanOptions) ([]core.Entry, bool, error) {
		rows, rng, err := s.ScanRange(ctx, prefix, o, 0)
		return rows, rng.More, err
	})
}

// ScanRange is Scan for a transaction. Its rows are in memory already, so it does
// not bound their bytes.
func (s *Store) ScanRange(ctx context.Context, prefix core.Key, opts core.ScanOptions, _ int) ([]core.Entry, txn.Range, error) {
	b, err := txn.NewBounds(prefix, opts)
	if err != nil {
		return nil, txn.Range{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.ready(ctx, "storage: scan"); err != nil {
		return nil, txn.Range{}, err
	}
	rows := s.between(prefix.Namespace, b.Lo, b.Hi)
	limited := opts.Limit > 0 && len(rows) >= opts.Limit
	if limited && opts.Reverse {
		rows = rows[len(rows)-opts.Limit:]
	} else if limited {
		rows = rows[:opts.Limit]
	}
	out := make([]core.Entry, len(rows))
	for i := range rows {
		at := i
		if opts.Reverse {
			at = len(rows) - 1 - i
		}
		out[at] = core.Entry{Key: rows[i].key.Child(), Value: clone(rows[i].value), Revision: rows[i].rev}
	}
	rng := txn.Range{Namespace: prefix.Namespace, Revision: s.revision, Digest: digest(rows), More: limited}
	var last []byte
	if limited {
		last = keycode.Append(nil, out[len(out)-1].Key)
	}
	rng.Lo, rng.Hi = b.Read(last, limited, opts.Reverse)
	return out, rng, nil
}

// between returns the rows with keys in [lo, hi). mu is held.
func (s *Store) between(ns core.Namespace, lo, hi []byte) []row {
	sp := s.spaces[ns]
	if sp == nil {
		return nil
	}
	from, _ := sp.find(string(lo))
	to := len(sp.rows)
	if hi != nil {
		to, _ = sp.find(string(hi))
	}
	return sp.rows[from:max(from, to)]
}

func digest(rows []row) (d txn.Digest) {
	for i := range rows {
		d.Add([]byte(rows[i].enc), rows[i].rev)
	}
	return d
}

// Begin implements [core.Storage].
func (s *Store) Begin(ctx context.Context) (core.Txn, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.ready(ctx, "storage: begin"); err != nil {
		return nil, err
	}
	return txn.New(s), nil
}

// Revision implements [core.Storage].
func (s *Store) Revision() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.revision
}

// Watch implements [core.Storage].
func (s *Store) Watch(ctx context.Context, prefix core.Key, from uint64) (core.Watcher, error) {
	if err := ctx.Err(); err != nil {
		return nil, core.Wrap("storage: watch", core.CodeCanceled, err)
	}
	return s.log.Watch(prefix, from)
}

// Close implements [core.Storage].
func (s *Store) Close() error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.log.Close()
	return nil
}

// CommitTxn is Commit for a transaction.
func (s *Store) CommitTxn(ctx context.Context, tx *txn.Txn) (uint64, error) {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	s.mu.RLock()
	err := s.ready(ctx, "storage: commit")
	s.mu.RUnlock()
	if err == nil && s.hook != nil && len(tx.Ops()) > 0 {
		err = s.hook()
	}
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.validate(tx); err != nil {
		return 0, err
	}
	if changes := s.apply(tx.Ops()); len(changes) > 0 {
		s.revision++
		s.log.Publish([]watchlog.Commit{{Revision: s.revision, Changes: changes}})
	}
	return s.revision, nil
}

// validate checks what the transaction has read. mu is held.
func (s *Store) validate(tx *txn.Txn) error {
	for _, r := range tx.Reads() {
		sp := s.spaces[r.Namespace]
		now := uint64(0)
		if i, ok := sp.find(r.Enc); ok {
			now = sp.rows[i].rev
		}
		if now != r.Revision {
			return txn.Conflict(r.Namespace, "a row")
		}
	}
	for _, r := range tx.Ranges() {
		if digest(s.between(r.Namespace, r.Lo, r.Hi)) != r.Digest {
			return txn.Conflict(r.Namespace, "a range of rows")
		}
	}
	return nil
}

// apply makes the changes under the next revision and returns those that changed
// something. mu is held.
func (s *Store) apply(ops []txn.Op) []watchlog.Change {
	changes := make([]watchlog.Change, 0, len(ops))
	for i := range ops {
		o := &ops[i]
		sp := s.spaces[o.Key.Namespace]
		if sp == nil {
			sp = &space{}
			s.spaces[o.Key.Namespace] = sp
		}
		at, found := sp.find(o.Enc)
		switch {
		case o.Kind == core.ChangePut && found:
			sp.rows[at].value, sp.rows[at].rev = o.Value, s.revision+1
		case o.Kind == core.ChangePut:
			sp.rows = append(sp.rows, row{})
			copy(sp.rows[at+1:], sp.rows[at:])
			sp.rows[at] = row{enc: strings.Clone(o.Enc), key: o.Key, value: o.Value, rev: s.revision + 1}
		case !found:
			continue
		default:
			sp.rows = append(sp.rows[:at], sp.rows[at+1:]...)
		}
		changes = append(changes, watchlog.Change{Kind: o.Kind, Key: o.Key, Enc: o.Enc, Value: o.Value})
	}
	return changes
}
