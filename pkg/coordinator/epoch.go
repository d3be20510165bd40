package coordinator

import (
	"context"
	"strconv"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage"
)

// Rows of the meta namespace that belong to the coordinator; storage keeps the epoch there too.
var (
	runKey     = core.NewKey(core.NamespaceMeta, "run_id")         // ULID
	printedKey = core.NewKey(core.NamespaceMeta, "events_printed") // decimal, the last event known as printed
)

// checkEpoch reads the epoch row into tx's read set and answers [core.CodeFenced]
// when a newer coordinator has taken over. Every transaction of a coordinator does
// it, so none of an older one can commit.
func checkEpoch(ctx context.Context, tx core.Txn, own uint64) error {
	stored, err := storage.Epoch(ctx, tx)
	if err != nil {
		return err
	}
	if stored != own {
		return core.Errorf("coordinator", core.CodeFenced, "a newer coordinator has taken over: the store says epoch %d, this one has %d", stored, own)
	}
	return nil
}

// watchEpoch ends with [core.CodeFenced] when another coordinator raises the epoch,
// so that one with nothing to write notices too.
func (c *Coordinator) watchEpoch(ctx context.Context) error {
	for {
		w, err := c.store.Watch(ctx, storage.EpochKey(), 0)
		if err != nil {
			return endOf(ctx, err)
		}
		err = c.followEpoch(ctx, w)
		if cerr := w.Close(); err == nil {
			err = cerr
		}
		if !core.IsCode(err, core.CodeCompacted) {
			return endOf(ctx, err)
		}
	}
}

func (c *Coordinator) followEpoch(ctx context.Context, w core.Watcher) error {
	for {
		// The row is read behind the start of the watch, so that no change falls in between.
		stored, err := storage.Epoch(ctx, c.store)
		if err != nil {
			return err
		}
		if stored != c.epoch {
			return core.Errorf("coordinator", core.CodeFenced, "a newer coordinator has taken over with epoch %d, this one has %d", stored, c.epoch)
		}
		if _, err := w.Next(ctx); err != nil {
			return err
		}
	}
}

// endOf turns the error of a part into nil when it only says that the part was
// asked to end.
func endOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// readNumber reads a decimal row; an absent one is 0.
func readNumber(ctx context.Context, r core.Reader, key core.Key) (uint64, error) {
	es, err := r.GetMany(ctx, key)
	if err != nil || !es[0].Exists() {
		return 0, err
	}
	n, err := strconv.ParseUint(string(es[0].Value), 10, 64)
	if err != nil {
		return 0, core.Errorf("coordinator", core.CodeCorrupt, "row %s is not a number: %w", key, err)
	}
	return n, nil
}
