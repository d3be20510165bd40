package coordinator

import (
	"context"
	"sync"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// faultStore is a store whose commits a test can delay or refuse.
type faultStore struct {
	core.Storage
	mu     sync.Mutex   // guards before
	before func() error // called before each commit; nil: nothing
}

func (s *faultStore) set(before func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = before
}

func (s *faultStore) Begin(ctx context.Context) (core.Txn, error) {
	tx, err := s.Storage.Begin(ctx)
	return &faultTxn{Txn: tx, s: s}, err
}

type faultTxn struct {
	core.Txn
	s *faultStore
}

func (t *faultTxn) Commit(ctx context.Context) (uint64, error) {
	t.s.mu.Lock()
	before := t.s.before
	t.s.mu.Unlock()
	if before != nil {
		if err := before(); err != nil {
			return 0, err
		}
	}
	return t.Txn.Commit(ctx)
}
