package cloudlocal

import (
	"context"
	"sync"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// reserve is room on disk that only consumers may use. It is one row without
// meaning: where a store is full, removing the row lets leases, acknowledgements
// and returns go on, and what they finish makes the room for more. Producers are
// refused until the row is back.
type reserve struct {
	store core.Storage
	size  int

	// mu is held across the commits that remove the row and put it back, because
	// there is one row for all.
	mu    sync.Mutex
	spent bool
}

func (r *reserve) key() core.Key { return core.NewKey(core.NamespaceQueue, "", "!reserve") }

// open finds out whether the row is there, and makes it if there is room.
func (r *reserve) open(ctx context.Context) error {
	es, err := r.store.GetMany(ctx, r.key())
	if err != nil {
		return core.WithOp("queue: open", err)
	}
	if r.spent = !es[0].Exists(); !r.spent {
		return nil
	}
	if err := r.restore(ctx); !core.IsCode(err, core.CodeExhausted) {
		return core.WithOp("queue: open", err)
	}
	return nil
}

// update is [core.Update] for everything but new items: on a full store it is tried
// again in the room of the reserve.
func (r *reserve) update(ctx context.Context, fn func(tx core.Txn) error) error {
	_, err := core.Update(ctx, r.store, fn)
	if !core.IsCode(err, core.CodeExhausted) || !r.spend(ctx) {
		return err
	}
	_, err = core.Update(ctx, r.store, fn)
	return err
}

// spend removes the row and reports whether there may be more room than before.
func (r *reserve) spend(ctx context.Context) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.spent {
		return false
	}
	// An error leaves the caller with its own, which is the same: the store is full.
	_, err := core.Update(ctx, r.store, func(tx core.Txn) error { return tx.Delete(r.key()) })
	r.spent = err == nil
	return r.spent
}

// restore puts the row back if it is missing. It is [core.CodeExhausted] while the
// store is still full.
func (r *reserve) restore(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.spent {
		return nil
	}
	_, err := core.Update(ctx, r.store, func(tx core.Txn) error { return tx.Put(r.key(), make([]byte, r.size)) })
	r.spent = err != nil
	return err
}
