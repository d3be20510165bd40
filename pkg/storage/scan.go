package storage

import (
	"bytes"
	"context"
	"iter"
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/internal/keycode"
	"github.com/rollout-substrate/rollout/pkg/storage/internal/txn"
)

// pieceBytes bounds the keys and values that an iteration reads ahead, except for
// a single larger row.
const pieceBytes = 1 << 20

// scanPlan is one walk over a range of rows in one state.
type scanPlan struct {
	ns       core.Namespace
	bounds   txn.Bounds
	reverse  bool
	limit    int  // rows; 0: no limit
	maxBytes int  // stop once this much was read; 0: no bound
	digest   bool // sum up what was found, for a transaction

	arena *keycode.Arena // memory of the rows
}

// scanned is what a walk found.
type scanned struct {
	rows   []core.Entry
	last   []byte // encoded key of the last row, when more is set
	more   bool   // a bound stopped the walk; there may be more rows
	digest txn.Digest
	found  groupStat // of the rows found
}

// Scan implements [core.Reader]. A scan of a whole run, or of all rows without
// one, also verifies that none is missing.
func (s *Store) Scan(ctx context.Context, prefix core.Key, opts core.ScanOptions) ([]core.Entry, error) {
	b, err := txn.NewBounds(prefix, opts)
	if err != nil {
		return nil, err
	}
	var out scanned
	err = s.view(ctx, opScan, func(tx *bolt.Tx) (err error) {
		out, err = s.scan(ctx, tx, scanPlan{ns: prefix.Namespace, bounds: b, reverse: opts.Reverse, limit: opts.Limit}, nil)
		return err
	})
	return out.rows, err
}

// ScanRange is Scan for a transaction.
func (s *Store) ScanRange(ctx context.Context, prefix core.Key, opts core.ScanOptions, maxBytes int) ([]core.Entry, txn.Range, error) {
	b, err := txn.NewBounds(prefix, opts)
	if err != nil {
		return nil, txn.Range{}, err
	}
	rng := txn.Range{Namespace: prefix.Namespace, Revision: s.Revision()}
	var out scanned
	err = s.view(ctx, opScan, func(tx *bolt.Tx) (err error) {
		out, err = s.scan(ctx, tx, scanPlan{ns: prefix.Namespace, bounds: b, reverse: opts.Reverse, limit: opts.Limit, maxBytes: maxBytes, digest: true}, nil)
		return err
	})
	rng.Digest, rng.More = out.digest, out.more
	rng.Lo, rng.Hi = b.Read(out.last, out.more, opts.Reverse)
	return out.rows, rng, err
}

// scan walks one range and, when it is a whole group, verifies it. rows is the
// empty slice to append to, nil for a new one.
func (s *Store) scan(ctx context.Context, tx *bolt.Tx, p scanPlan, rows []core.Entry) (scanned, error) {
	var want groupStat
	whole := p.bounds.Whole()
	if whole {
		var err error
		if want, err = storedGroup(opScan, tx, p.ns, p.bounds.Prefix); err != nil {
			return scanned{}, err
		}
	}
	out := scanned{rows: rows}
	if n := want.rows; n > 0 && rows == nil {
		if p.limit > 0 {
			n = min(n, uint64(p.limit))
		}
		out.rows = make([]core.Entry, 0, min(n, 1<<20))
	}
	if err := s.walk(ctx, tx, p, &out); err != nil {
		return scanned{}, err
	}
	if whole && !out.more && out.found != want && !s.hook.noChecksum {
		return scanned{}, errMissingRows(opScan, p.ns, want, out.found)
	}
	return out, nil
}

func errMissingRows(op string, ns core.Namespace, want, found groupStat) error {
	return core.Errorf(op, core.CodeCorrupt, "namespace %q should hold %d rows and %d were found, or not the same ones: %s", ns, want.rows, found.rows, adviceDamaged)
}

// walk appends the rows of a plan to out.
func (s *Store) walk(ctx context.Context, tx *bolt.Tx, p scanPlan, out *scanned) error {
	b := tx.Bucket([]byte(p.ns))
	if b == nil {
		return nil
	}
	seed := envelopeSeed(p.ns)
	arena := p.arena
	if arena == nil {
		arena = new(keycode.Arena)
	}
	bytesRead := 0
	c := newCursor(b, p.bounds, p.reverse)
	for k, stored := c.first(); k != nil; k, stored = c.next() {
		if len(out.rows)%ctxEvery == ctxEvery-1 && ctx.Err() != nil {
			return core.Wrap(opScan, core.CodeCanceled, ctx.Err())
		}
		r, err := s.openRow(opScan, p.ns, seed, k, stored)
		if err != nil {
			return err
		}
		out.rows = slices.Grow(out.rows, 1)[:len(out.rows)+1]
		e := &out.rows[len(out.rows)-1] // of an earlier piece, perhaps
		if err := arena.DecodeInto(&e.Key, p.ns, k); err != nil {
			return core.WithOp(opScan, err)
		}
		e.Value, e.Revision = arena.Copy(r.value), r.rev
		out.found.add(r.crc)
		if p.digest {
			out.digest.Add(k, r.rev)
		}
		bytesRead += len(k) + len(stored)
		if len(out.rows) == p.limit || p.maxBytes > 0 && bytesRead >= p.maxBytes {
			out.more, out.last = true, bytes.Clone(k)
			return nil
		}
	}
	return nil
}

// cursor walks the encoded keys of some bounds in either direction.
type cursor struct {
	c       *bolt.Cursor
	lo, hi  []byte
	reverse bool
}

func newCursor(b *bolt.Bucket, bounds txn.Bounds, reverse bool) cursor {
	return cursor{c: b.Cursor(), lo: bounds.Lo, hi: bounds.Hi, reverse: reverse}
}

func (c *cursor) first() (k, v []byte) {
	switch {
	case !c.reverse:
		k, v = c.c.Seek(c.lo)
	case c.hi == nil:
		k, v = c.c.Last()
	default:
		if k, v = c.c.Seek(c.hi); k == nil {
			k, v = c.c.Last()
		} else {
			k, v = c.c.Prev()
		}
	}
	return c.within(k, v)
}

func (c *cursor) next() (k, v []byte) {
	if c.reverse {
		k, v = c.c.Prev()
	} else {
		k, v = c.c.Next()
	}
	return c.within(k, v)
}

// within ends the walk beyond the bound that it moves towards. The other one is
// behind it from the first row on: where Seek finds lo, or the row before hi.
func (c *cursor) within(k, v []byte) ([]byte, []byte) {
	switch {
	case k == nil,
		c.reverse && bytes.Compare(k, c.lo) < 0,
		!c.reverse && c.hi != nil && bytes.Compare(k, c.hi) >= 0:
		return nil, nil
	}
	return k, v
}

// Iterate implements [core.Reader]. It reads up to 256 rows or 1 MiB ahead, each
// piece from one committed state. An iteration over a whole run, or over all rows
// without one, also verifies that none is missing, unless they change meanwhile.
func (s *Store) Iterate(ctx context.Context, prefix core.Key, opts core.ScanOptions) iter.Seq2[core.Entry, error] {
	return func(yield func(core.Entry, error) bool) {
		it := iteration{s: s, ctx: ctx, prefix: prefix, whole: wholeGroup(prefix, opts)}
		txn.Pieces(opts, it.piece)(yield)
	}
}

func wholeGroup(prefix core.Key, opts core.ScanOptions) bool {
	return len(prefix.Path) == 0 && opts.After == nil && opts.Limit == 0
}

// iteration reads piece by piece. It holds the rows of a whole group against the
// stored sum, when that is the same at the beginning and at the end.
type iteration struct {
	s      *Store
	ctx    context.Context
	prefix core.Key
	whole  bool
	want   groupStat // stored at the beginning
	found  groupStat
	rows   []core.Entry // of the last piece; the caller has received copies
	arena  keycode.Arena
}

func (it *iteration) piece(o core.ScanOptions) (rows []core.Entry, more bool, err error) {
	b, err := txn.NewBounds(it.prefix, o)
	if err != nil {
		return nil, false, err
	}
	p := scanPlan{ns: it.prefix.Namespace, bounds: b, reverse: o.Reverse, limit: o.Limit, maxBytes: pieceBytes, arena: &it.arena}
	err = it.s.view(it.ctx, opScan, func(tx *bolt.Tx) error {
		out, err := it.s.scan(it.ctx, tx, p, it.rows[:0])
		if err != nil {
			return err
		}
		it.rows, more = out.rows, out.more
		return it.verify(tx, b.Prefix, o.After == nil, &out)
	})
	return it.rows, more, err
}

// verify adds one piece and compares at the last one.
func (it *iteration) verify(tx *bolt.Tx, group []byte, first bool, out *scanned) error {
	if !it.whole || it.s.hook.noChecksum {
		return nil
	}
	it.found.rows += out.found.rows
	it.found.sum += out.found.sum
	if !first && out.more {
		return nil
	}
	now, err := storedGroup(opScan, tx, it.prefix.Namespace, group)
	if err != nil {
		return err
	}
	if first {
		it.want = now
	}
	if !out.more && now == it.want && it.found != now {
		return errMissingRows(opScan, it.prefix.Namespace, now, it.found)
	}
	return nil
}
