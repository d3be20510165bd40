package storage

import (
	"context"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// EpochKey is the row that holds the coordinator's epoch, a number kept with
// [Put].
func EpochKey() core.Key { return core.NewKey(core.NamespaceMeta, "epoch") }

// Epoch returns the stored epoch, 0 when there is none yet.
func Epoch(ctx context.Context, r core.Reader) (uint64, error) {
	epoch, _, err := Get[uint64](ctx, r, EpochKey())
	if core.IsCode(err, core.CodeNotFound) {
		return 0, nil
	}
	return epoch, err
}

// RaiseEpoch sets the stored epoch to the larger of itself plus one and the wall
// clock in seconds since 1970, and returns it. Each start of a coordinator and
// each restore of a store does this. The clock keeps the epoch of a restored store
// above those that the lost one handed out after the backup was made.
func RaiseEpoch(ctx context.Context, s core.Storage) (uint64, error) {
	var epoch uint64
	_, err := core.Update(ctx, s, func(tx core.Txn) error {
		stored, err := Epoch(ctx, tx)
		if err != nil {
			return err
		}
		epoch = max(stored+1, uint64(max(time.Now().Unix(), 0)))
		return Put(tx, EpochKey(), epoch)
	})
	return epoch, err
}
