package coordinator

import (
	"context"
	"errors"

	"github.com/rollout-substrate/rollout/pkg/cloudlocal"
	"github.com/rollout-substrate/rollout/pkg/coordinator/jobs"
	"github.com/rollout-substrate/rollout/pkg/core"
)

// LocalWorkConfig says how the work of one machine is kept.
type LocalWorkConfig struct {
	// Objects takes payloads and results that are too large for a message; the same
	// as [Config.Objects]. Required. The caller closes it after Run.
	Objects core.ObjectStore
	// MaxAttempts is after how many failures an item is dead. Default: 3.
	MaxAttempts int
	// MaxLosses is after how many lost workers an item is dead. Default: 5.
	MaxLosses int
}

// LocalWork returns the [Config.Work] of a coordinator whose queue lies in its own
// store:
//
//	transport -> Coordinator -> jobs.Book -> cloudlocal.Queue -> store
//	                                 |                             |
//	                                 +-- results, with their leases-+
func LocalWork(cfg LocalWorkConfig) func(context.Context, *Coordinator) (Workbook, error) {
	return func(ctx context.Context, c *Coordinator) (Workbook, error) {
		store := epochStore{Storage: c.store, epoch: c.epoch}
		queue, err := cloudlocal.OpenQueue(ctx, cloudlocal.QueueConfig{
			Storage: store, Objects: cfg.Objects, Logger: c.log, MaxAttempts: cfg.MaxAttempts, MaxLosses: cfg.MaxLosses,
		})
		if err != nil {
			return nil, err
		}
		book, err := jobs.Open(ctx, jobs.Config{
			Storage: store, Queue: queue, Objects: cfg.Objects, Record: c.Record, CancelOn: c.CancelOn,
			MaxAttempts: cfg.MaxAttempts, MaxLosses: cfg.MaxLosses, Logger: c.log,
		})
		if err != nil {
			return nil, errors.Join(err, queue.Close())
		}
		return &localWork{Book: book, queue: queue}, nil
	}
}

// localWork closes the queue with its book.
type localWork struct {
	*jobs.Book
	queue *cloudlocal.Queue
}

// Close implements [Workbook].
func (w *localWork) Close() error { return errors.Join(w.Book.Close(), w.queue.Close()) }

// epochStore is a store whose every transaction proves that its coordinator is the
// newest one.
type epochStore struct {
	core.Storage
	epoch uint64
}

// Begin implements [core.Storage]. An older coordinator is [core.CodeFenced].
func (s epochStore) Begin(ctx context.Context) (core.Txn, error) {
	tx, err := s.Storage.Begin(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkEpoch(ctx, tx, s.epoch); err != nil {
		tx.Discard()
		return nil, err
	}
	return tx, nil
}
