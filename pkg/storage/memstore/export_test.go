package memstore

import (
	"maps"

	"github.com/rollout-substrate/rollout/pkg/storage/internal/watchlog"
)

// Reopen returns a store with the rows of s, which is closed, as a file would have
// kept them. A revision of 0 keeps that of s.
func Reopen(s *Store, revision uint64) *Store {
	if revision == 0 {
		revision = s.revision
	}
	return &Store{log: watchlog.New(0, 0, revision), spaces: maps.Clone(s.spaces), revision: revision}
}
