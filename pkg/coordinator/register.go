package coordinator

import (
	"context"
	"math"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Limits of what a worker may say of itself.
const (
	maxSlots   = 1 << 20
	maxText    = 1 << 10 // bytes of an address, version, reason or serial
	maxPlugins = 1 << 10
	maxEpoch   = math.MaxUint64 >> 1 // above it a worker's claim is nonsense
)

// Register implements [core.Registry].
func (c *Coordinator) Register(ctx context.Context, r core.Registration) (core.Registered, error) {
	const op = "register"
	if err := checkRegistration(r); err != nil {
		return core.Registered{}, core.WithOp(op, err)
	}
	if r.ProtocolMin > ProtocolMax || r.ProtocolMax < ProtocolMin {
		return core.Registered{}, core.Errorf(op, core.CodeVersionMismatch,
			"worker %s speaks protocol versions %d to %d, this coordinator %d to %d: upgrade the older of the two", r.ID, r.ProtocolMin, r.ProtocolMax, ProtocolMin, ProtocolMax)
	}
	row, acked := workerRow{}, uint64(0)
	outcome := make(chan error, 1)
	c.submitHeld(r.ID, &heldOp{
		prepare: func(ctx context.Context, b *batch) (err error) {
			row, err = c.prepareRegister(ctx, b, r)
			return err
		},
		applied: func(now time.Duration) { acked = c.applyRegister(now, row) },
	}, outcome)
	if err := await(ctx, outcome); err != nil {
		return core.Registered{}, core.WithOp(op, err)
	}
	c.log.Info("worker registered", "worker_id", r.ID.String(), "epoch", row.Epoch, "addr", r.Addr, "reason", r.RestartReason, "cert_serial", r.CertSerial)
	return core.Registered{
		Run: c.run, Epoch: row.Epoch, CoordinatorEpoch: c.epoch, Timing: c.cfg.Timing,
		Protocol: row.Protocol, CommandSeq: acked,
	}, nil
}

func checkRegistration(r core.Registration) error {
	bad := func(format string, args ...any) error {
		return core.Errorf("", core.CodeInvalidArgument, format, args...)
	}
	switch {
	case r.ID == core.WorkerID{}:
		return bad("the registration names no worker")
	case r.PrevEpoch > maxEpoch:
		return bad("the worker claims epoch %d, which no coordinator gives", r.PrevEpoch)
	case r.ProtocolMin > r.ProtocolMax:
		return bad("the range of protocol versions %d to %d is empty", r.ProtocolMin, r.ProtocolMax)
	case r.Slots < 0 || r.Slots > maxSlots:
		return bad("%d slots are outside 0 to %d", r.Slots, maxSlots)
	}
	for _, s := range []string{r.Addr, r.Version, r.CertSerial, r.RestartReason} {
		if len(s) > maxText {
			return bad("a text of %d bytes is longer than %d", len(s), maxText)
		}
	}
	return nil
}

// prepareRegister stages the row and the event of a new epoch.
func (c *Coordinator) prepareRegister(ctx context.Context, b *batch, r core.Registration) (workerRow, error) {
	old, err := b.worker(ctx, r.ID)
	if err != nil {
		return workerRow{}, err
	}
	topic, from, epoch := core.TopicWorkerRegistered, "", r.PrevEpoch
	if old != nil {
		epoch, from = max(epoch, old.Epoch), string(old.Liveness)
		if old.Liveness != core.LivenessDeregistered {
			topic = core.TopicWorkerRecovered
		}
		if !old.over() {
			c.owing(old, true, "its worker began a new epoch")
		}
	}
	now := c.wall()
	row := workerRow{
		WorkerRow: core.WorkerRow{
			ID: r.ID, State: core.StateInit, Liveness: core.LivenessAlive, Epoch: epoch + 1, Addr: r.Addr,
			Version: r.Version, RegisteredAt: now, LastSeenAt: now, Slots: r.Slots,
			CertSerial: r.CertSerial, Inventory: r.Inventory,
		},
		Protocol: min(r.ProtocolMax, ProtocolMax),
	}
	if old != nil {
		row.Owed = old.Owed
	}
	attrs := core.Attrs{
		"epoch": row.Epoch, "addr": r.Addr, "version": r.Version, "inventory": inventoryAttrs(r.Inventory),
		"slots": r.Slots, "reason": r.RestartReason,
	}
	if topic == core.TopicWorkerRecovered {
		attrs["from"] = from
	}
	b.event(c.event(topic, core.LevelInfo, r.ID, attrs))
	b.del(beatKey(r.ID))
	return row, b.put(workerKey(r.ID), row)
}

// applyRegister puts a durable registration into memory and returns the last
// command known as acknowledged. mu is held.
func (c *Coordinator) applyRegister(now time.Duration, row workerRow) (acked uint64) {
	w := c.workers[row.ID]
	if w == nil {
		w = &worker{id: row.ID, changed: make(chan struct{})}
		c.workers[row.ID] = w
	}
	c.endEpoch(w, fencedBy(w.ref(), row.Epoch))
	w.epoch, w.state, w.liveness = row.Epoch, row.State, row.Liveness
	w.registeredAt, w.lastSeen = now, row.LastSeenAt
	w.beatSeq, w.slotsBusy, w.skew, w.skewed = 0, 0, 0, 0
	c.unhold(w.id)
	c.owe(false, row.owedOf()...)
	c.machine.Watch(now, w.ref())
	w.announce()
	return w.book.acked
}

// endEpoch closes what belongs to a worker's epoch. mu is held.
func (c *Coordinator) endEpoch(w *worker, why error) {
	if w.control != nil {
		w.control.end(why)
		w.control = nil
	}
	w.work = 0
}

// Deregister implements [core.Registry].
func (c *Coordinator) Deregister(ctx context.Context, ref core.WorkerRef, final core.WorkerState, reason string) error {
	const op = "deregister"
	if final != core.StateDone && final != core.StateFailed {
		return core.Errorf(op, core.CodeInvalidArgument, "a worker leaves as done or failed, not as %q", final)
	}
	if len(reason) > maxText {
		return core.Errorf(op, core.CodeInvalidArgument, "a reason of %d bytes is longer than %d", len(reason), maxText)
	}
	outcome, left := make(chan error, 1), (*book)(nil)
	c.submitHeld(ref.ID, &heldOp{
		prepare: func(ctx context.Context, b *batch) (err error) {
			left, err = c.prepareDeregister(ctx, b, ref, final, reason)
			return err
		},
		applied: func(time.Duration) {
			if left != nil {
				c.applyDeregister(ref, final, *left)
			}
		},
	}, outcome)
	return core.WithOp(op, await(ctx, outcome))
}

// prepareDeregister stages the end of an epoch and returns the worker's book when
// it ends now.
func (c *Coordinator) prepareDeregister(ctx context.Context, b *batch, ref core.WorkerRef, final core.WorkerState, reason string) (*book, error) {
	row, err := b.worker(ctx, ref.ID)
	switch {
	case err != nil || row == nil:
		return nil, err // nobody is left who could still leave
	case row.Epoch != ref.Epoch:
		return nil, fencedBy(ref, row.Epoch)
	case row.Liveness == core.LivenessDeregistered:
		return nil, nil
	case row.Liveness == core.LivenessFailed:
		return nil, fencedOver(ref, row.Liveness)
	}
	row.State, row.Liveness = final, core.LivenessDeregistered
	c.owing(row, false, "its worker left")
	bk, err := b.leaveBook(ctx, ref, final)
	if err != nil {
		return nil, err
	}
	b.event(c.event(core.TopicWorkerDeregistered, core.LevelInfo, ref.ID, core.Attrs{
		"epoch": ref.Epoch, "addr": row.Addr, "state": string(final), "reason": reason,
	}))
	return bk, b.put(workerKey(ref.ID), row)
}

// applyDeregister puts a durable end of an epoch into memory. mu is held.
func (c *Coordinator) applyDeregister(ref core.WorkerRef, final core.WorkerState, left book) {
	w := c.workers[ref.ID]
	if w == nil || w.epoch != ref.Epoch {
		return
	}
	c.machine.Forget(ref.ID)
	w.state, w.liveness, w.slotsBusy = final, core.LivenessDeregistered, 0
	w.book.become(left)
	c.endEpoch(w, fencedOver(ref, w.liveness))
	c.owe(false, owed{ref, false, "its worker left"})
	w.announce()
}

// heldOp is a change of one worker whose silence does not count while the store keeps
// it waiting.
type heldOp struct {
	prepare func(ctx context.Context, b *batch) error
	applied func(now time.Duration) // mu is held; only after success
}

// submitHeld queues a change of a worker. Until its outcome the worker is held: a
// slow disk is not the worker's silence.
func (c *Coordinator) submitHeld(id core.WorkerID, o *heldOp, outcome chan<- error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.submitHeldLocked(id, o, outcome)
}

// submitHeldLocked is submitHeld for a caller that holds mu.
func (c *Coordinator) submitHeldLocked(id core.WorkerID, o *heldOp, outcome chan<- error) {
	var held core.WorkerRef
	if w := c.workers[id]; w != nil && c.machine.Hold(c.now(), id) {
		held = w.ref()
	}
	c.writer.submit(&op{prepare: o.prepare, done: func(err error) {
		c.mu.Lock()
		now := c.now()
		if held != (core.WorkerRef{}) {
			c.machine.Release(now, held)
		}
		if err == nil && o.applied != nil {
			o.applied(now)
		}
		c.mu.Unlock()
		outcome <- err
	}})
}

// inventoryAttrs is the part of an inventory that events carry.
func inventoryAttrs(i core.Inventory) core.Attrs {
	gpus := make([]any, 0, len(i.GPUs))
	for _, g := range i.GPUs {
		gpus = append(gpus, g.Name)
	}
	return core.Attrs{
		"hostname": i.Hostname, "os": i.OS, "arch": i.Arch, "kernel": i.Kernel,
		"cpu_milli": i.CPU.UsableMilli.Value, "memory_mib": i.Memory.UsableMiB.Value, "gpus": gpus,
	}
}
