package worker

import (
	"context"
	"slices"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// beater sends beats. It belongs to one goroutine.
type beater struct {
	e       *epoch
	stream  beatStream
	seq     uint64 // of the last beat sent
	told    uint64 // first beat that carried the plugins last told
	plugins []core.LoadedPlugin
	states  map[uint64]core.WorkerState // of beats not answered

	due      time.Time // of the next beat
	sentAt   time.Time // of the last beat
	heardAt  time.Time // of the last answer, or the opening of the stream
	attempts backoff
}

// beat beats until the epoch ends. A beat that is not answered is sent again after a
// quarter of the interval, so that a lost one costs no life; a stream on which
// nothing is heard for half of it is opened again.
func (e *epoch) beat(ctx context.Context) error {
	b := &beater{e: e, states: map[uint64]core.WorkerState{}, attempts: backoff{last: e.timing.HeartbeatInterval / 2}}
	// A beat that comes before the command stream would be answered by "open it
	// first"; but when that takes long, beats must not wait for it.
	grace := time.NewTimer(e.timing.HeartbeatInterval / 4)
	defer grace.Stop()
	select {
	case <-e.opened:
	case <-grace.C:
	case <-ctx.Done():
	}
	for ctx.Err() == nil {
		// Opening a stream ends with the lease at the latest.
		e.w.pulse.within(e.timing.SelfFence + b.attempts.last)
		err := b.onStream(ctx)
		if ctx.Err() != nil {
			break
		}
		if end := e.answered(err); end != nil {
			return end
		}
		e.log.Debug("the heartbeat stream broke", "err", err)
		if b.attempts.sleep(ctx) != nil {
			break
		}
	}
	return context.Cause(ctx)
}

// onStream opens a stream and beats on it until it breaks.
func (b *beater) onStream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := b.e.act(); err != nil {
		return err
	}
	s, err := b.e.link.Beats(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err := s.Close(); err != nil {
			b.e.log.Debug("closing the heartbeat stream", "err", err)
		}
	}()
	b.stream, b.heardAt = s, time.Now()
	b.told, b.plugins = 0, nil // the other side of a new stream may know nothing
	return b.steady(ctx)
}

func (b *beater) steady(ctx context.Context) error {
	b.due = time.Now()
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		b.e.w.pulse.within(b.e.timing.SelfFence)
		t.Reset(time.Until(b.due))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case a := <-b.stream.Answers():
			if err := b.heard(a); err != nil {
				return err
			}
			continue
		case <-b.e.kick:
		case <-t.C:
			if silent := time.Since(b.heardAt); b.sentAt.After(b.heardAt) && silent > b.e.timing.HeartbeatInterval+b.e.timing.HeartbeatInterval/2 {
				return core.Errorf("worker: beat", core.CodeUnavailable, "no answer on the stream for %v", silent)
			}
		}
		if err := b.send(); err != nil {
			return err
		}
	}
}

// onlyThisBeat reports whether an error concerns one beat and not the worker.
func onlyThisBeat(err error) bool {
	switch core.CodeOf(err) {
	case core.CodeFailedPrecondition, core.CodeThrottled:
		return true
	}
	return false
}

// send sends one beat. The lease counts from the moment before.
func (b *beater) send() error {
	if err := b.e.act(); err != nil {
		return err
	}
	b.seq++
	h := b.e.vitals()
	h.Seq, h.SentAt = b.seq, time.Now()
	b.attachPlugins(&h)
	b.states[b.seq] = h.State
	delete(b.states, b.seq-maxOutstanding)
	b.e.lease.sent(b.seq, b.e.w.clock())
	b.sentAt = time.Now()
	b.due = b.sentAt.Add(b.e.timing.HeartbeatInterval / 4) // unless it is answered
	b.stream.Send(h)
	return nil
}

// attachPlugins tells the plugins when they changed since the last beat that told
// them, and again until such a beat is acknowledged.
func (b *beater) attachPlugins(h *core.Heartbeat) {
	lister, ok := b.e.w.cfg.Executor.(PluginLister)
	if !ok {
		return
	}
	now := lister.LoadedPlugins()
	if b.plugins != nil && slices.Equal(now, b.plugins) && b.told == 0 {
		return
	}
	if b.plugins == nil || !slices.Equal(now, b.plugins) {
		b.told = b.seq
	}
	b.plugins = append([]core.LoadedPlugin{}, now...)
	h.Plugins = b.plugins
}

// heard takes one answer.
func (b *beater) heard(a answer) error {
	switch {
	case a.err == nil:
	case a.final:
		return a.err
	case core.IsCode(a.err, core.CodeFailedPrecondition):
		b.heardAt = time.Now()
		b.e.reopenControl()
		if b.e.bench != nil {
			b.e.bench.reopen()
		}
		return nil // sent again when the stream is open, or as if unanswered
	case onlyThisBeat(a.err):
		b.heardAt = time.Now()
		return nil
	default:
		return a.err
	}
	if !b.e.lease.acked(a.ack.Seq, b.e.w.clock()) {
		return b.e.fence("the lease ran out")
	}
	b.heardAt = time.Now()
	b.attempts.reset()
	b.e.coordinatorIs(a.ack.CoordinatorEpoch)
	if b.states[a.ack.Seq] == core.StateReady {
		b.e.readyAcknowledged()
	}
	if b.told != 0 && a.ack.Seq >= b.told {
		b.told = 0
	}
	for seq := range b.states {
		if seq <= a.ack.Seq {
			delete(b.states, seq)
		}
	}
	if a.ack.Seq == b.seq {
		b.due = b.sentAt.Add(b.e.timing.HeartbeatInterval)
	}
	return nil
}

// vitals is what a beat says of the worker.
func (e *epoch) vitals() core.Heartbeat {
	h := core.Heartbeat{Worker: e.ref, ControlSeq: e.w.commands.lastSeen()}
	if e.bench != nil {
		h.SlotsBusy, h.WorkOpen, h.WorkSeq = e.bench.busy()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	h.State = e.state
	return h
}

func (e *epoch) coordinatorIs(epoch uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.coordinatorEpoch = max(e.coordinatorEpoch, epoch)
}

// readyAcknowledged may be called again. Only the beating goroutine does.
func (e *epoch) readyAcknowledged() {
	select {
	case <-e.ready:
	default:
		close(e.ready)
	}
}
