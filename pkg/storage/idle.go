package storage

import (
	"time"

	bolt "go.etcd.io/bbolt"
)

// idleCommit runs when the timer fires: it writes the second meta page if the
// store has been idle for long enough, and otherwise looks again later.
func (s *Store) idleCommit() {
	if s.enter(opCommit) != nil {
		return // Close does the same
	}
	defer s.active.Done()
	s.lead <- struct{}{}
	defer func() { <-s.lead }()
	if rest := s.cfg.IdleCommit - time.Since(s.state.last); rest > 0 {
		s.idle.Reset(rest)
		return
	}
	s.state.armed = false
	if !s.state.unpaired || s.brokenErr(opCommit) != nil {
		return
	}
	if err := s.emptyCommit(); err != nil {
		s.log.Warn("storage: the second meta page could not be written; it follows with the next commit", "path", s.cfg.Path, "err", err)
	}
}

// emptyCommit makes one bbolt commit without a change, after which both meta pages
// lead to the same rows. The caller holds the lead, or nobody else has the store.
func (s *Store) emptyCommit() error {
	if s.cfg.MaxBytes > 0 {
		s.db.MaxSize = int(s.cfg.MaxBytes)
	}
	before := s.durable.Load()
	err := s.writing(func(tx *bolt.Tx) error {
		// Its rows are those of a durable state, so readers need not wait for it.
		s.settle(uint64(tx.ID()), nil)
		return nil
	}, func() {})
	if err != nil {
		s.durable.Store(before) // the next commit has the same number
		return err
	}
	s.state.unpaired = false
	return nil
}
