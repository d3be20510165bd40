package coordinator

import (
	"context"
	"errors"

	"github.com/rollout-substrate/rollout/pkg/cloudlocal"
	"github.com/rollout-substrate/rollout/pkg/coordinator/jobs"
	"github.com/rollout-substrate/rollout/pkg/core"
)

// JobsConfig says how a coordinator keeps jobs. Zero numbers take the defaults of
// package jobs.
type JobsConfig struct {
	MaxAttempts int // failures after which an item is dead, for a job that names none
	MaxLosses   int // lost workers after which an item is dead, for a job that names none
}

// Jobs returns what [Config.Work] needs to keep jobs in the coordinator's own
// store. [Config.Objects] is required with it.
func Jobs(cfg JobsConfig) func(ctx context.Context, c *Coordinator) (Workbook, error) {
	return func(ctx context.Context, c *Coordinator) (Workbook, error) {
		q, err := cloudlocal.OpenQueue(ctx, cloudlocal.QueueConfig{
			Storage: c.Storage(), Objects: c.cfg.Objects, Logger: c.log,
			// What does not fit into a message is an object already, and an item that
			// is a row is as sound as the store.
			InlineBytes: core.MaxInlinePayload + 8<<10,
			MaxAttempts: cfg.MaxAttempts, MaxLosses: cfg.MaxLosses,
		})
		if err != nil {
			return nil, err
		}
		book, err := jobs.Open(ctx, jobs.Config{
			Storage: c.Storage(), Queue: q, Objects: c.cfg.Objects, Record: c.Record, CancelOn: c.CancelOn,
			MaxAttempts: cfg.MaxAttempts, MaxLosses: cfg.MaxLosses, Logger: c.log,
		})
		if err != nil {
			return nil, errors.Join(err, q.Close())
		}
		return &jobBook{Book: book, queue: q}, nil
	}
}

// jobBook is a book of jobs together with its queue.
type jobBook struct {
	*jobs.Book
	queue core.Queue
}

// Close implements [Workbook].
func (b *jobBook) Close() error { return errors.Join(b.Book.Close(), b.queue.Close()) }

// Storage returns the coordinator's store for the rows of others. No commit
// through it succeeds once a newer coordinator has taken over, which is
// [core.CodeFenced].
func (c *Coordinator) Storage() core.Storage { return fencedStorage{Storage: c.store, epoch: c.epoch} }

// fencedStorage is a store whose transactions prove that the coordinator is the
// newest one.
type fencedStorage struct {
	core.Storage
	epoch uint64
}

// Begin implements [core.Storage].
func (s fencedStorage) Begin(ctx context.Context) (core.Txn, error) {
	tx, err := s.Storage.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return &fencedTxn{Txn: tx, epoch: s.epoch}, nil
}

// Close does nothing: the coordinator closes its store.
func (fencedStorage) Close() error { return nil }

type fencedTxn struct {
	core.Txn
	epoch uint64
}

// Commit implements [core.Txn].
func (t *fencedTxn) Commit(ctx context.Context) (uint64, error) {
	if err := checkEpoch(ctx, t.Txn, t.epoch); err != nil {
		t.Discard()
		return 0, err
	}
	return t.Txn.Commit(ctx)
}
