package journal

import (
	"context"
	"iter"
	"slices"
	"sync"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Config says where a store lies. Path is required.
type Config struct {
	Path    string // file of the commits; made if it is not there
	History int    // commits kept for watchers; default 10000
}

// Store is the store. Make one with [Open].
type Store struct {
	// mu guards what follows. A commit holds it while the disk works, which is simple
	// and lets readers wait.
	mu       sync.Mutex
	rows     []core.Entry // in key order; values are never modified
	revision uint64
	history  []core.Commit // the newest commits, oldest first
	limit    int           // of history
	floor    uint64        // the highest revision that is no longer in history
	changed  chan struct{} // closed and replaced by each commit and by Close
	file     file
	closed   bool
}

var _ core.Storage = (*Store)(nil)

// Open opens the store at a path, with every commit that was acknowledged.
func Open(cfg Config) (*Store, error) {
	s := &Store{limit: cfg.History, changed: make(chan struct{})}
	if s.limit == 0 {
		s.limit = 10_000
	}
	err := s.file.open(cfg.Path, func(c core.Commit) {
		s.apply(c)
		s.revision = c.Revision
	})
	s.floor = s.revision // what was before this start is compacted
	return s, err
}

// find returns where a key is, or where it would go. mu is held.
func (s *Store) find(key core.Key) (int, bool) {
	return slices.BinarySearchFunc(s.rows, key, func(e core.Entry, k core.Key) int { return e.Key.Compare(k) })
}

// ready returns why an operation cannot start. mu is held.
func (s *Store) ready(ctx context.Context, op string) error {
	if s.closed {
		return core.Errorf(op, core.CodeClosed, "the store is closed")
	}
	return core.Wrap(op, core.CodeCanceled, ctx.Err())
}

// GetMany implements [core.Reader].
func (s *Store) GetMany(ctx context.Context, keys ...core.Key) ([]core.Entry, error) {
	const op = "journal: get"
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ready(ctx, op); err != nil {
		return nil, err
	}
	out := make([]core.Entry, len(keys))
	for i, key := range keys {
		if err := key.Validate(); err != nil {
			return nil, core.WithOp(op, err)
		}
		out[i] = s.get(key)
	}
	return out, nil
}

// get returns the row of a key, or an entry that does not exist. mu is held.
func (s *Store) get(key core.Key) core.Entry {
	if i, ok := s.find(key); ok {
		return copied(s.rows[i])
	}
	return core.Entry{Key: key}
}

// copied returns an entry that shares no memory with the row.
func copied(e core.Entry) core.Entry {
	e.Key, e.Value = e.Key.Child(), append([]byte{}, e.Value...)
	return e
}

// Scan implements [core.Reader].
func (s *Store) Scan(ctx context.Context, prefix core.Key, opts core.ScanOptions) ([]core.Entry, error) {
	const op = "journal: scan"
	if err := checkScan(op, prefix, opts); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ready(ctx, op); err != nil {
		return nil, err
	}
	found := s.scan(prefix, opts)
	for i := range found {
		found[i] = copied(found[i])
	}
	return found, nil
}

func checkScan(op string, prefix core.Key, opts core.ScanOptions) error {
	switch {
	case prefix.Validate() != nil:
		return core.WithOp(op, prefix.Validate())
	case opts.Limit < 0:
		return core.Errorf(op, core.CodeInvalidArgument, "the limit %d is negative", opts.Limit)
	case opts.After == nil:
		return nil
	case opts.After.Validate() != nil:
		return core.WithOp(op, opts.After.Validate())
	case !prefix.Covers(*opts.After):
		return core.Errorf(op, core.CodeInvalidArgument, "%s does not lie below %s", opts.After, prefix)
	}
	return nil
}

// scan returns the rows themselves. mu is held.
func (s *Store) scan(prefix core.Key, opts core.ScanOptions) []core.Entry {
	lo, _ := s.find(prefix)
	n, _ := slices.BinarySearchFunc(s.rows[lo:], prefix, func(e core.Entry, p core.Key) int {
		if p.Covers(e.Key) {
			return -1
		}
		return 1
	})
	hi := lo + n
	if opts.After != nil {
		at, there := s.find(*opts.After)
		switch {
		case opts.Reverse:
			hi = at
		case there:
			lo = at + 1
		default:
			lo = at
		}
	}
	found := slices.Clone(s.rows[lo:max(lo, hi)])
	if opts.Reverse {
		slices.Reverse(found)
	}
	if opts.Limit > 0 && len(found) > opts.Limit {
		found = found[:opts.Limit]
	}
	return found
}

// Iterate implements [core.Reader].
func (s *Store) Iterate(ctx context.Context, prefix core.Key, opts core.ScanOptions) iter.Seq2[core.Entry, error] {
	return inPieces(opts, func(o core.ScanOptions) ([]core.Entry, error) { return s.Scan(ctx, prefix, o) })
}

// piece is how many rows an iteration reads ahead.
const piece = 256

// inPieces makes an iteration of scans.
func inPieces(opts core.ScanOptions, scan func(core.ScanOptions) ([]core.Entry, error)) iter.Seq2[core.Entry, error] {
	return func(yield func(core.Entry, error) bool) {
		opts := opts // the iteration may be started again
		for left := opts.Limit; ; {
			o := opts
			if o.Limit = piece; opts.Limit != 0 {
				o.Limit = min(piece, left)
			}
			rows, err := scan(o)
			if err != nil {
				yield(core.Entry{}, err)
				return
			}
			if len(rows) > 0 {
				last := rows[len(rows)-1].Key.Child() // the caller may change its own
				opts.After = &last
			}
			for _, e := range rows {
				if !yield(e, nil) {
					return
				}
			}
			if left -= len(rows); len(rows) < o.Limit || opts.Limit > 0 && left == 0 {
				return
			}
		}
	}
}

// Begin implements [core.Storage].
func (s *Store) Begin(ctx context.Context) (core.Txn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ready(ctx, "journal: begin"); err != nil {
		return nil, err
	}
	return &txn{s: s, staged: map[string]change{}, reads: map[string]core.Entry{}}, nil
}

// Revision implements [core.Storage].
func (s *Store) Revision() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revision
}

// Close implements [core.Storage].
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	close(s.changed)
	return core.Wrap("journal: close", core.CodeInternal, s.file.close())
}
