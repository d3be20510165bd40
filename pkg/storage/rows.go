package storage

import (
	"context"
	"iter"

	bolt "go.etcd.io/bbolt"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/internal/keycode"
)

// Namespaces returns the namespaces that hold rows, in order, whether declared in
// package core or not.
func (s *Store) Namespaces(ctx context.Context) ([]core.Namespace, error) {
	var out []core.Namespace
	err := s.groups(ctx, func(ns core.Namespace, _ core.RunID) {
		if len(out) == 0 || out[len(out)-1] != ns {
			out = append(out, ns)
		}
	})
	return out, err
}

// Rows iterates over all rows of a namespace, those without a run first, then
// each run in order, and verifies each group as [Store.Iterate] does. Tools use it
// to see what no single prefix covers.
func (s *Store) Rows(ctx context.Context, ns core.Namespace) iter.Seq2[core.Entry, error] {
	return func(yield func(core.Entry, error) bool) {
		runs := []core.RunID{{}} // the scan of rows without a run also checks the name
		err := s.groups(ctx, func(n core.Namespace, run core.RunID) {
			if n == ns && !run.IsZero() {
				runs = append(runs, run)
			}
		})
		if err != nil {
			yield(core.Entry{}, err)
			return
		}
		for _, run := range runs {
			for e, err := range s.Iterate(ctx, core.NewKey(ns).InRun(run), core.ScanOptions{}) {
				if !yield(e, err) || err != nil {
					return
				}
			}
		}
	}
}

// groups calls fn for each group that holds rows, in order.
func (s *Store) groups(ctx context.Context, fn func(core.Namespace, core.RunID)) error {
	return s.view(ctx, opScan, func(tx *bolt.Tx) error {
		own := tx.Bucket(bucketOwn)
		if own == nil {
			return core.Errorf(opScan, core.CodeCorrupt, "the store's own bucket is gone")
		}
		return own.ForEach(func(k, _ []byte) error {
			if ns, group, ok := splitGroupKey(k); ok {
				var run core.RunID
				if len(group) == keycode.GroupLenRun {
					copy(run[:], group[1:])
				}
				fn(ns, run)
			}
			return nil
		})
	})
}
