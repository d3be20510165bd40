package txn

import (
	"context"
	"hash/maphash"
	"iter"
	"slices"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/internal/keycode"
)

// Bounds of what an iteration reads ahead, whichever is reached first.
const (
	Piece      = 256     // rows
	PieceBytes = 1 << 20 // bytes, except for a single larger row
)

// GetMany implements [core.Reader]. A staged row has the revision
// [core.PendingRevision].
func (t *Txn) GetMany(ctx context.Context, keys ...core.Key) ([]core.Entry, error) {
	const op = "storage: get"
	if t.done {
		return nil, finished(op)
	}
	out := make([]core.Entry, len(keys))
	encs := make([][]byte, len(keys))
	var ask []core.Key
	var askAt []int
	for i, key := range keys {
		if err := key.Validate(); err != nil {
			return nil, core.WithOp(op, err)
		}
		encs[i] = keycode.Append(nil, key)
		if j := t.findOp(key.Namespace, encs[i]); j >= 0 {
			out[i] = t.ops[j].entry(key)
			continue
		}
		ask, askAt = append(ask, key), append(askAt, i)
	}
	if len(ask) == 0 {
		return out, nil
	}
	found, err := t.backend.GetMany(ctx, ask...)
	if err != nil {
		return nil, err
	}
	for n, i := range askAt {
		if err := t.remember(op, keys[i], encs[i], found[n].Revision); err != nil {
			return nil, err
		}
		out[i] = found[n]
	}
	return out, nil
}

func (o *Op) entry(key core.Key) core.Entry {
	if o.Kind == core.ChangeDelete {
		return core.Entry{Key: key}
	}
	return core.Entry{Key: key, Value: append(make([]byte, 0, len(o.Value)), o.Value...), Revision: core.PendingRevision}
}

// remember adds a row to the read set. A row read before at another revision is a
// conflict already.
func (t *Txn) remember(op string, key core.Key, enc []byte, rev uint64) error {
	i := -1
	if t.readIdx != nil {
		if j, ok := t.readIdx[rowKey{key.Namespace, string(enc)}]; ok {
			i = j
		}
	} else {
		i = slices.IndexFunc(t.reads, func(r Read) bool { return r.Namespace == key.Namespace && r.Enc == string(enc) })
	}
	if i >= 0 {
		if t.reads[i].Revision != rev {
			return core.Errorf(op, core.CodeConflict, "row %s changed since the transaction read it", key)
		}
		return nil
	}
	t.reads = append(t.reads, Read{key.Namespace, string(enc), rev})
	t.readIdx = addIndex(t.readIdx, len(t.reads), func(i int) rowKey { return rowKey{t.reads[i].Namespace, t.reads[i].Enc} })
	return nil
}

// Scan implements [core.Reader]: the store's rows with the staged changes laid
// over them.
func (t *Txn) Scan(ctx context.Context, prefix core.Key, opts core.ScanOptions) ([]core.Entry, error) {
	rows, _, err := t.scan(ctx, prefix, opts, 0)
	return rows, err
}

// scan reads one piece. more says that rows may follow it.
func (t *Txn) scan(ctx context.Context, prefix core.Key, opts core.ScanOptions, maxBytes int) (_ []core.Entry, more bool, err error) {
	if t.done {
		return nil, false, finished("storage: scan")
	}
	staged := t.stagedBelow(prefix, opts)
	below := opts
	if opts.Limit > 0 {
		below.Limit = opts.Limit + len(staged) // as many rows may be hidden
	}
	rows, rng, err := t.backend.ScanRange(ctx, prefix, below, maxBytes)
	if err != nil {
		return nil, false, err
	}
	t.ranges = append(t.ranges, rng)
	if len(staged) == 0 {
		return rows, rng.More, nil
	}
	if rng.More { // what is staged behind the last row belongs to the next piece
		last := rows[len(rows)-1].Key
		n := slices.IndexFunc(staged, func(o *Op) bool { return directed(o.Key.Compare(last), opts.Reverse) > 0 })
		if n >= 0 {
			staged = staged[:n]
		}
	}
	out, cut := merge(rows, staged, opts)
	if rng.More && !cut && len(out) == 0 {
		// Everything in this piece is deleted: go on behind it.
		last := rows[len(rows)-1].Key
		opts.After = &last
		return t.scan(ctx, prefix, opts, maxBytes)
	}
	return out, cut || rng.More, nil
}

// stagedBelow returns the staged changes that lie in a scan, in its order.
func (t *Txn) stagedBelow(prefix core.Key, opts core.ScanOptions) []*Op {
	var out []*Op
	for i := range t.ops {
		o := &t.ops[i]
		if !prefix.Covers(o.Key) {
			continue
		}
		if opts.After != nil {
			if c := o.Key.Compare(*opts.After); c == 0 || (c > 0) == opts.Reverse {
				continue
			}
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b *Op) int { return directed(a.Key.Compare(b.Key), opts.Reverse) })
	return out
}

func directed(c int, reverse bool) int {
	if reverse {
		return -c
	}
	return c
}

// merge lays staged changes over rows; both are in the order of the scan. cut says
// that the limit left some of them out.
func merge(rows []core.Entry, staged []*Op, opts core.ScanOptions) (_ []core.Entry, cut bool) {
	out := make([]core.Entry, 0, len(rows)+len(staged))
	full := func() bool { return opts.Limit > 0 && len(out) == opts.Limit }
	for !full() && (len(rows) > 0 || len(staged) > 0) {
		c := 0
		switch {
		case len(rows) == 0:
			c = 1
		case len(staged) == 0:
			c = -1
		default:
			c = directed(rows[0].Key.Compare(staged[0].Key), opts.Reverse)
		}
		if c < 0 {
			out, rows = append(out, rows[0]), rows[1:]
			continue
		}
		if c == 0 {
			rows = rows[1:]
		}
		if o := staged[0]; o.Kind == core.ChangePut {
			key := o.Key
			key.Path = slices.Clone(key.Path)
			out = append(out, o.entry(key))
		}
		staged = staged[1:]
	}
	return out, len(rows)+len(staged) > 0
}

// Pieces turns scans of bounded length into one sequence. scan is called with the
// options of the next piece whenever the caller has consumed the last; it says
// whether rows may follow, and then returns at least one.
func Pieces(opts core.ScanOptions, scan func(core.ScanOptions) (rows []core.Entry, more bool, err error)) iter.Seq2[core.Entry, error] {
	return func(yield func(core.Entry, error) bool) {
		left := opts.Limit
		after := opts.After
		for {
			o := core.ScanOptions{Limit: Piece, After: after, Reverse: opts.Reverse}
			if opts.Limit != 0 {
				o.Limit = min(Piece, left) // negative: scan says what is wrong
			}
			rows, more, err := scan(o)
			if err != nil {
				yield(core.Entry{}, err)
				return
			}
			if more {
				last := rows[len(rows)-1].Key.Child() // the caller may change its own
				after = &last
			}
			for i := range rows { // entries are large, and copied once
				if !yield(rows[i], nil) {
					return
				}
			}
			left -= len(rows)
			if !more || opts.Limit > 0 && left == 0 {
				return
			}
		}
	}
}

// digestSeed makes digests unpredictable; they are compared within one process
// only. Read only.
var digestSeed = maphash.MakeSeed()

// Digest sums up the rows of a range: which keys there are, and the revision of
// each. It is the same in whichever order they are added.
type Digest struct {
	Rows int
	sum  uint64
}

// Add adds one row.
func (d *Digest) Add(enc []byte, rev uint64) {
	d.Rows++
	// The finalizer of MurmurHash3 keeps a key's hash and a revision from making
	// up for another pair's.
	h := maphash.Bytes(digestSeed, enc) ^ rev*0x9e3779b97f4a7c15
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	d.sum += h ^ h>>33
}

// Conflict returns the error of a commit whose reads no longer hold.
func Conflict(ns core.Namespace, what string) error {
	return core.Errorf("storage: commit", core.CodeConflict, "%s in namespace %q changed since the transaction read it", what, ns)
}
