package journal

import (
	"context"
	"slices"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// commit checks that what the transaction has read still holds, makes its changes
// durable, and applies them.
func (s *Store) commit(ctx context.Context, t *txn) (uint64, error) {
	const op = "journal: commit"
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ready(ctx, op); err != nil {
		return 0, err
	}
	if !s.holds(t) {
		return 0, core.Errorf(op, core.CodeConflict, "what the transaction has read has changed since")
	}
	c := core.Commit{Revision: s.revision + 1, Changes: s.changes(t)}
	if len(c.Changes) == 0 {
		return s.revision, nil
	}
	if err := s.file.append(c); err != nil {
		return 0, err
	}
	s.apply(c)
	s.revision = c.Revision
	s.history = append(s.history, c)
	if over := len(s.history) - s.limit; over > 0 {
		s.floor = s.history[over-1].Revision
		s.history = slices.Delete(s.history, 0, over)
	}
	close(s.changed)
	s.changed = make(chan struct{})
	return s.revision, nil
}

// holds reports whether every read of the transaction would give the same now. mu is
// held.
func (s *Store) holds(t *txn) bool {
	for _, read := range t.reads {
		if s.get(read.Key).Revision != read.Revision {
			return false
		}
	}
	same := func(a, b core.Entry) bool { return a.Revision == b.Revision && a.Key.Equal(b.Key) }
	for _, r := range t.ranges {
		if !slices.EqualFunc(s.scan(r.prefix, r.opts), r.found, same) {
			return false
		}
	}
	return true
}

// changes returns what the transaction changes, in key order. Removing a row that is
// not there changes nothing. mu is held.
func (s *Store) changes(t *txn) (out []core.Change) {
	for _, c := range t.staged {
		switch _, there := s.find(c.key); {
		case c.value != nil:
			out = append(out, core.Change{Kind: core.ChangePut, Key: c.key, Value: c.value})
		case there:
			out = append(out, core.Change{Kind: core.ChangeDelete, Key: c.key})
		}
	}
	slices.SortFunc(out, func(a, b core.Change) int { return a.Key.Compare(b.Key) })
	return out
}

// apply makes a commit's changes in the rows. mu is held.
func (s *Store) apply(c core.Commit) {
	for _, ch := range c.Changes {
		at, there := s.find(ch.Key)
		row := core.Entry{Key: ch.Key, Value: ch.Value, Revision: c.Revision}
		switch {
		case ch.Kind == core.ChangeDelete && there:
			s.rows = slices.Delete(s.rows, at, at+1)
		case ch.Kind == core.ChangeDelete:
		case there:
			s.rows[at] = row
		default:
			s.rows = slices.Insert(s.rows, at, row)
		}
	}
}
