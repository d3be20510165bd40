package worker

import (
	"context"
	"encoding/json"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// record is the row meta/worker.
type record struct {
	ID               core.WorkerID    `json:"worker_id"`
	Run              core.RunID       `json:"run_id,omitzero"`
	Epoch            uint64           `json:"epoch"`
	CoordinatorEpoch uint64           `json:"coordinator_epoch"`
	State            core.WorkerState `json:"state"`
}

func recordKey() core.Key { return core.NewKey(core.NamespaceMeta, "worker") }

// openRecord reads the row, or makes it at the first start. want is the id that the
// user asked for; zero: whatever is there.
func openRecord(ctx context.Context, s core.Storage, want core.WorkerID) (record, error) {
	const op = "worker: identity"
	entry, err := core.Get(ctx, s, recordKey())
	if core.IsCode(err, core.CodeNotFound) {
		if want.IsZero() {
			want = core.NewWorkerID()
		}
		r := record{ID: want, State: core.StateInit}
		return r, r.save(ctx, s)
	}
	if err != nil {
		return record{}, core.WithOp(op, err)
	}
	var r record
	if err := json.Unmarshal(entry.Value, &r); err != nil || r.ID.IsZero() {
		return record{}, core.Errorf(op, core.CodeCorrupt, "the row %s of the worker's store is not readable: %v", recordKey(), err)
	}
	if !want.IsZero() && want != r.ID {
		return record{}, core.Errorf(op, core.CodeInvalidArgument,
			"the store belongs to worker %s, not to %s: leave out --worker-id or give the worker a data directory of its own", r.ID, want)
	}
	return r, nil
}

// save writes the row durably.
func (r record) save(ctx context.Context, s core.Storage) error {
	b, err := json.Marshal(r)
	if err != nil {
		return core.Wrap("worker: save state", core.CodeInternal, err)
	}
	_, err = core.PutBytes(ctx, s, recordKey(), b)
	return core.WithOp("worker: save state", err)
}
