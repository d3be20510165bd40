package coordinator

import (
	"context"
	"time"

	"github.com/rollout-substrate/rollout/pkg/coordinator/liveness"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage"
)

// New opens a coordinator: it takes the next epoch, which ends every older
// coordinator on the same store, and reads the book of workers. Nothing is served
// before [Coordinator.Run], which must follow to release the store.
func New(cfg Config) (*Coordinator, error) {
	if err := cfg.Validate().Err("coordinator: configuration"); err != nil {
		return nil, err
	}
	cfg = cfg.WithDefaults()
	c := &Coordinator{
		cfg: cfg, log: cfg.Logger, store: cfg.Storage,
		origin: time.Now(), wall: time.Now,
		stopping: make(chan struct{}), ready: make(chan struct{}), returnWork: make(chan struct{}, 1),
		machine: liveness.New(cfg.Timing), workers: make(map[core.WorkerID]*worker),
	}
	if c.store == nil {
		s, err := openStore(cfg)
		if err != nil {
			return nil, err
		}
		c.store, c.ownsStore = s, true
	}
	if err := c.open(context.Background()); err != nil {
		if c.ownsStore {
			if cerr := c.store.Close(); cerr != nil {
				c.log.Warn("the store did not close cleanly", "error", cerr)
			}
		}
		return nil, core.WithOp("coordinator: open", err)
	}
	return c, nil
}

func (c *Coordinator) open(ctx context.Context) error {
	c.started = c.wall()
	var err error
	if c.epoch, err = storage.RaiseEpoch(ctx, c.store); err != nil {
		return err
	}
	if c.run, err = c.ensureRun(ctx); err != nil {
		return err
	}
	if c.outbox, err = openOutbox(ctx, c.store, c.cfg); err != nil {
		return err
	}
	c.writer = newWriter(c.store, c.epoch, c.outbox, c.log)
	return c.load(ctx)
}

// ensureRun reads the run id, and stores one in a new store.
func (c *Coordinator) ensureRun(ctx context.Context) (run core.RunID, err error) {
	_, err = core.Update(ctx, c.store, func(tx core.Txn) error {
		es, err := tx.GetMany(ctx, runKey)
		if err != nil {
			return err
		}
		if es[0].Exists() {
			if run, err = core.ParseRunID(string(es[0].Value)); err != nil {
				return core.Errorf("", core.CodeCorrupt, "row %s is not a run id: %w", runKey, err)
			}
			if want := c.cfg.RunID; !want.IsZero() && want != run {
				return core.Violations{{Key: "run_id", Msg: "is " + want.String() + ", but the store belongs to run " + run.String() + ", remove the key or use another store"}}.Err("")
			}
			return nil
		}
		if run = c.cfg.RunID; run.IsZero() {
			run = core.NewRunID()
		}
		return tx.Put(runKey, []byte(run.String()))
	})
	return run, err
}

// load reads the book.
func (c *Coordinator) load(ctx context.Context) error {
	if err := c.loadWorkers(ctx); err != nil {
		return err
	}
	if err := c.loadBeats(ctx); err != nil {
		return err
	}
	return c.loadCommands(ctx)
}

// watchRestored watches those again who were alive or suspect, with the long window
// of a start, which begins now: not before they can reach us.
func (c *Coordinator) watchRestored() {
	c.mu.Lock()
	defer c.mu.Unlock()
	var watched []liveness.Restored
	for _, w := range c.workers {
		if !w.over() {
			watched = append(watched, liveness.Restored{Ref: w.ref(), Suspect: w.liveness == core.LivenessSuspect})
		}
	}
	c.restored = len(watched)
	c.machine.Restore(c.now(), watched)
}

func (c *Coordinator) loadWorkers(ctx context.Context) error {
	for e, err := range c.store.Iterate(ctx, core.NewKey(core.NamespaceWorkers), core.ScanOptions{}) {
		if err != nil {
			return err
		}
		var row workerRow
		if err := decodeRow(e, &row); err != nil {
			return err
		}
		c.workers[row.ID] = &worker{
			id: row.ID, epoch: row.Epoch, state: row.State, liveness: row.Liveness, registeredAt: -1,
			lastSeen: row.LastSeenAt, beatSeq: row.BeatSeq, changed: make(chan struct{}),
		}
		c.owe(false, row.owedOf()...)
	}
	return nil
}

func (c *Coordinator) loadBeats(ctx context.Context) error {
	for e, err := range c.store.Iterate(ctx, core.NewKey(core.NamespaceHeartbeats), core.ScanOptions{}) {
		if err != nil {
			return err
		}
		var row beatRow
		if err := decodeRow(e, &row); err != nil {
			return err
		}
		id, err := core.ParseWorkerID(e.Key.Path[0])
		if err != nil {
			return core.Errorf("", core.CodeCorrupt, "row %s names no worker: %w", e.Key, err)
		}
		if w := c.workers[id]; w != nil && w.epoch == row.Epoch {
			w.lastSeen, w.beatSeq, w.slotsBusy = row.At, row.Seq, row.SlotsBusy
			w.skew = time.Duration(row.SkewMS) * time.Millisecond
		}
	}
	return nil
}

func (c *Coordinator) loadCommands(ctx context.Context) error {
	for e, err := range c.store.Iterate(ctx, core.NewKey(core.NamespaceCommands), core.ScanOptions{}) {
		if err != nil {
			return err
		}
		id, err := core.ParseWorkerID(e.Key.Path[0])
		if err != nil {
			return core.Errorf("", core.CodeCorrupt, "row %s names no worker: %w", e.Key, err)
		}
		if w := c.workers[id]; w != nil {
			if err := w.book.load(e); err != nil {
				return err
			}
		}
	}
	return nil
}
