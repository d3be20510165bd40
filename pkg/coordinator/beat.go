package coordinator

import (
	"context"
	"slices"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Beat implements [core.Beats]. Its ordinary path is a few map look-ups under the
// lock; only a beat that brings another state or other plugins waits for the store.
func (c *Coordinator) Beat(ctx context.Context, h core.Heartbeat) (core.BeatAck, error) {
	const op = "beat"
	if err := checkBeat(h); err != nil {
		return core.BeatAck{}, core.WithOp(op, err)
	}
	ack := core.BeatAck{Seq: h.Seq, CoordinatorEpoch: c.epoch, ReceivedAt: c.wall()}
	changed, err := c.receive(h, ack.ReceivedAt)
	if err == nil && changed != nil {
		err = await(ctx, changed)
	}
	if err != nil {
		return core.BeatAck{}, core.WithOp(op, err)
	}
	if c.cfg.HeartbeatEvents {
		c.cfg.Emitter.Emit(core.Event{
			Time: ack.ReceivedAt, Level: core.LevelDebug, Kind: core.EventMetric, Topic: core.TopicWorkerHeartbeat,
			RunID: c.run.String(), WorkerID: h.Worker.ID.String(),
			Attrs: core.Attrs{"state": string(h.State), "seq": h.Seq, "epoch": h.Worker.Epoch, "slots_busy": h.SlotsBusy},
		})
	}
	return ack, nil
}

func checkBeat(h core.Heartbeat) error {
	switch {
	case h.Seq == 0:
		return core.Errorf("", core.CodeInvalidArgument, "beats are numbered from 1, this one has 0")
	case !h.State.Valid():
		return core.Errorf("", core.CodeInvalidArgument, "%.64q is no state of a worker", string(h.State))
	case h.SlotsBusy < 0 || h.SlotsBusy > maxSlots:
		return core.Errorf("", core.CodeInvalidArgument, "%d busy slots are outside 0 to %d", h.SlotsBusy, maxSlots)
	case len(h.Plugins) > maxPlugins:
		return core.Errorf("", core.CodeInvalidArgument, "%d plugins are more than %d", len(h.Plugins), maxPlugins)
	}
	return nil
}

// receive records the proof of life. When the beat changes the worker's row it
// returns where the outcome will arrive.
func (c *Coordinator) receive(h core.Heartbeat, at time.Time) (<-chan error, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w, err := c.current(h.Worker)
	if err != nil {
		return nil, err
	}
	now := c.now()
	// A beat that is refused renews nothing: the worker counts from acknowledged
	// beats, and one that never gets its streams open must not look alive.
	if err := c.missingStream(w, h, now); err != nil {
		return nil, err
	}
	tr, watched := c.machine.Beat(now, h.Worker)
	if !watched {
		return nil, fencedOver(h.Worker, w.liveness)
	}
	c.apply(tr, now)
	w.lastSeen = at
	if !w.dirty {
		w.dirty = true
		c.dirty = append(c.dirty, w)
	}
	if h.Seq < w.beatSeq {
		return nil, nil // overtaken by a later one, which said the same or more
	}
	w.beatSeq, w.slotsBusy = h.Seq, h.SlotsBusy
	w.book.atLeast(h.ControlSeq)
	c.noteSkew(w, h.SentAt, at)
	if h.State == w.state && h.Plugins == nil {
		return nil, nil
	}
	return c.changeState(w, h), nil
}

// missingStream answers [core.CodeFailedPrecondition] when the worker believes a
// stream open that is not. A worker that has only just registered may beat before
// its control stream is handled. mu is held.
func (c *Coordinator) missingStream(w *worker, h core.Heartbeat, now time.Duration) error {
	fresh := w.registeredAt >= 0 && now-w.registeredAt < c.cfg.Timing.HeartbeatInterval/2
	if w.control == nil && !fresh {
		return core.Errorf("", core.CodeFailedPrecondition, "there is no control stream of worker %s, open it again", w.id)
	}
	if h.WorkOpen && w.work == 0 {
		return core.Errorf("", core.CodeFailedPrecondition, "there is no work stream of worker %s, open it again", w.id)
	}
	return nil
}

// changeState queues the change of a worker's own state or plugins. mu is held.
func (c *Coordinator) changeState(w *worker, h core.Heartbeat) <-chan error {
	outcome := make(chan error, 1)
	plugins := slices.Clone(h.Plugins)
	if h.Plugins != nil && plugins == nil {
		plugins = []core.LoadedPlugin{}
	}
	c.submitHeldLocked(w.id, &heldOp{
		prepare: func(ctx context.Context, b *batch) error { return c.prepareState(ctx, b, h.Worker, h.State, plugins) },
		applied: func(time.Duration) {
			if w.epoch == h.Worker.Epoch {
				w.state = h.State
			}
		},
	}, outcome)
	return outcome
}

// prepareState stages a worker's own state; plugins nil means unchanged.
func (c *Coordinator) prepareState(ctx context.Context, b *batch, ref core.WorkerRef, state core.WorkerState, plugins []core.LoadedPlugin) error {
	row, err := c.livingRow(ctx, b, ref)
	if err != nil {
		return err
	}
	if !row.State.CanBecome(state) {
		return core.Errorf("", core.CodeInvalidArgument, "worker %s cannot go from %s to %s", ref.ID, row.State, state)
	}
	from := row.State
	if from == state && plugins == nil {
		return nil
	}
	row.State = state
	if plugins != nil {
		row.Plugins = plugins
	}
	if from != state {
		b.event(c.event(core.TopicWorkerState, core.LevelInfo, ref.ID, core.Attrs{
			"from": string(from), "to": string(state), "epoch": ref.Epoch,
		}))
	}
	return b.put(workerKey(ref.ID), row)
}

// livingRow reads the row of a living epoch into the transaction. Anything older is
// [core.CodeFenced] here, inside the transaction that would store what it says,
// whatever was true when it was received.
func (c *Coordinator) livingRow(ctx context.Context, b *batch, ref core.WorkerRef) (*workerRow, error) {
	row, err := b.worker(ctx, ref.ID)
	switch {
	case err != nil:
		return nil, err
	case row == nil:
		return nil, core.Errorf("", core.CodeFenced, "worker %s is not registered, register first", ref.ID)
	case c.anyEpoch:
		return row, nil
	case row.Epoch != ref.Epoch:
		return nil, fencedBy(ref, row.Epoch)
	case row.over():
		return nil, fencedOver(ref, row.Liveness)
	}
	return row, nil
}

// Disconnected implements [core.Beats].
func (c *Coordinator) Disconnected(ref core.WorkerRef, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deaf {
		return
	}
	now := c.now()
	c.apply(c.machine.Disconnect(now, ref, "connection broken: "+reason), now)
}
