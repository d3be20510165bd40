package storage

import (
	"github.com/rollout-substrate/rollout/pkg/storage/internal/txn"
	"github.com/rollout-substrate/rollout/pkg/storage/internal/watchlog"
)

// validate checks that everything a transaction has read is unchanged in the
// state that the group has reached, its earlier members included.
func (g *group) validate(tx *txn.Txn) error {
	for _, r := range tx.Reads() {
		now, _, err := g.reader.get(opCommit, r.Namespace, []byte(r.Enc))
		if err != nil {
			return err
		}
		if now.rev != r.Revision {
			return txn.Conflict(r.Namespace, "a row")
		}
	}
	for _, r := range tx.Ranges() {
		if g.untouched(&r) {
			continue
		}
		same, err := g.rescan(&r)
		if err != nil {
			return err
		}
		if !same {
			return txn.Conflict(r.Namespace, "a range of rows")
		}
	}
	return nil
}

// untouched reports whether the history shows that nothing in a range has changed
// since it was read, which costs less than reading it again. A transaction that
// changes nothing is checked against a state that the history may be ahead of or
// behind, so it is always read again.
func (g *group) untouched(r *txn.Range) bool {
	if g.readOnly {
		return false
	}
	if changed, known := g.s.hist.Changed(r.Revision, r.Namespace, r.Lo, r.Hi); changed || !known {
		return false
	}
	for i := range g.commits {
		if watchlog.Touches(g.commits[i].Changes, r.Namespace, r.Lo, r.Hi) {
			return false
		}
	}
	return true
}

// rescan reads a range again and compares.
func (g *group) rescan(r *txn.Range) (same bool, err error) {
	b := g.tx.Bucket([]byte(r.Namespace))
	if b == nil {
		return r.Digest == txn.Digest{}, nil
	}
	seed := envelopeSeed(r.Namespace)
	var now txn.Digest
	c := newCursor(b, txn.Bounds{Lo: r.Lo, Hi: r.Hi}, false)
	for k, stored := c.first(); k != nil; k, stored = c.next() {
		found, err := g.s.openRow(opCommit, r.Namespace, seed, k, stored)
		if err != nil {
			return false, err
		}
		if now.Add(k, found.rev); now.Rows > r.Digest.Rows {
			return false, nil
		}
	}
	return now == r.Digest, nil
}
