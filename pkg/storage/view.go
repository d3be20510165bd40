package storage

import (
	"context"
	"errors"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// view runs fn on one committed, durable state. Damage of any kind is
// [core.CodeCorrupt].
func (s *Store) view(ctx context.Context, op string, fn func(tx *bolt.Tx) error) error {
	return guarded(op, func() error {
		tx, err := s.beginRead(ctx, op)
		if err != nil {
			return err
		}
		defer endRead(tx)
		return fn(tx)
	})
}

// endRead ends a read transaction. Its only error is that it has ended already.
func endRead(tx *bolt.Tx) { _ = tx.Rollback() }

// beginRead starts a read transaction on a state that is known to be synced.
//
// bbolt shows a commit to readers as soon as its meta page is written, before the
// sync that makes it durable. A reader that meets such a state waits for the end
// of that commit; if it fails, nobody has seen what was never stored.
func (s *Store) beginRead(ctx context.Context, op string) (*bolt.Tx, error) {
	if err := ctx.Err(); err != nil {
		return nil, core.Wrap(op, core.CodeCanceled, err)
	}
	for {
		tx, err := s.db.Begin(false)
		if errors.Is(err, berrors.ErrDatabaseNotOpen) {
			return nil, errClosed(op)
		}
		if err != nil {
			return nil, core.Wrap(op, core.CodeBroken, err)
		}
		id := uint64(tx.ID())
		if id <= s.durable.Load() {
			return tx, nil
		}
		endRead(tx)
		if err := s.awaitDurable(ctx, op, id); err != nil {
			return nil, err
		}
	}
}

// awaitDurable waits until bbolt's transaction id is synced.
func (s *Store) awaitDurable(ctx context.Context, op string, id uint64) error {
	for {
		s.settleMu.Lock()
		switch {
		case id <= s.durable.Load():
			s.settleMu.Unlock()
			return nil
		case s.broken != nil:
			err := s.broken
			s.settleMu.Unlock()
			return core.Errorf(op, core.CodeBroken, "the last commit may be lost after a failure: %w; open the store again", err)
		case s.settled == nil:
			s.settled = make(chan struct{})
		}
		wait := s.settled
		s.settleMu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return core.Wrap(op, core.CodeCanceled, ctx.Err())
		}
	}
}

// settle ends a commit for the readers: transaction id is durable, or the store
// is broken. Both may be absent, after a commit that left no trace.
func (s *Store) settle(id uint64, broken error) {
	s.settleMu.Lock()
	defer s.settleMu.Unlock()
	if id > 0 {
		s.durable.Store(id)
	}
	if broken != nil && s.broken == nil {
		s.broken = broken
	}
	if s.settled != nil {
		close(s.settled)
		s.settled = nil
	}
}

// brokenErr returns why commits are refused, if they are.
func (s *Store) brokenErr(op string) error {
	s.settleMu.Lock()
	defer s.settleMu.Unlock()
	if s.broken == nil {
		return nil
	}
	return core.Errorf(op, core.CodeBroken, "the store has stopped after a failure: %w; open it again", s.broken)
}

func errClosed(op string) error {
	return core.Errorf(op, core.CodeClosed, "the store is closed")
}
