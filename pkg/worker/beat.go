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
	told    uint64 // first beat that carried the plugins last told; 0: it is acknowledged
	news    uint64 // first beat that carried the state last told; 0: it is acknowledged
	state   core.WorkerState
	plugins []core.LoadedPlugin
	out     map[uint64]sentBeat // not answered

	due      time.Time     // of the next beat
	again    time.Duration // from the last beat to the next one, if it is not answered
	sentAt   time.Time     // of the last beat
	heardAt  time.Time     // of the last answer, or the opening of the stream
	trip     time.Duration // from a beat to its answer, smoothed; 0: none was answered
	resent   bool          // a beat was sent again since the last answer
	wary     int           // beats still to come at half the interval, because one was lost
	attempts backoff
}

// sentBeat is a beat that is not answered.
type sentBeat struct {
	at    time.Time
	state core.WorkerState
}

// beat beats until the epoch ends. A beat that is not answered is sent again and
// again, see [beater.retry], so that a lost one costs no life; a stream on which
// nothing is heard for half of the interval is opened again.
func (e *epoch) beat(ctx context.Context) error {
	b := &beater{e: e, out: map[uint64]sentBeat{}, attempts: backoff{last: e.timing.HeartbeatInterval / 2}}
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
	b.stream, b.heardAt, b.again = s, time.Now(), 0
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
			b.resent = b.resent || b.again != 0
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
	if h.State != b.state {
		b.state, b.news = h.State, b.seq
	}
	b.e.lease.sent(b.seq, b.e.w.clock())
	b.sentAt = time.Now()
	b.out[b.seq] = sentBeat{b.sentAt, h.State}
	delete(b.out, b.seq-maxOutstanding)
	b.again = b.retry()
	b.due = b.sentAt.Add(b.again) // unless it is answered
	b.stream.Send(h)
	return nil
}

// retry returns how long to wait for an answer before the beat is sent again: twice
// what answers took so far, at least 100 ms, and a quarter longer each time, because
// what is late may be so from too many beats. It is a quarter of the interval at most
// and while nothing is known.
//
// The next beat on a stream does not wait behind a lost one for the network's own,
// ever slower repetition: that it arrives tells the network what is missing.
func (b *beater) retry() time.Duration {
	most := b.e.timing.HeartbeatInterval / 4
	switch {
	case b.trip == 0:
		return most
	case b.again == 0:
		return min(max(2*b.trip, minRetry), most)
	}
	return min(b.again+b.again/4, most)
}

// minRetry is the least time after which a beat counts as lost.
const minRetry = 100 * time.Millisecond

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
	sent, known := b.out[a.ack.Seq]
	if sent.state == core.StateReady {
		b.e.readyAcknowledged()
	}
	if a.ack.Seq >= b.told {
		b.told = 0
	}
	if a.ack.Seq >= b.news {
		b.news = 0
	}
	for seq := range b.out {
		if seq <= a.ack.Seq {
			delete(b.out, seq)
		}
	}
	if known {
		b.answeredAfter(b.heardAt.Sub(sent.at))
		if b.told == 0 && b.news == 0 {
			b.due, b.again = sent.at.Add(b.pace()), 0
		}
	}
	return nil
}

// pace returns the time from an answered beat to the next: the interval, and half of
// it for some beats after one that had to be sent again. The lease lasts an interval
// and a half, so that a network which loses much gets twice the time to let one beat
// through.
func (b *beater) pace() time.Duration {
	if b.resent {
		b.wary = waryBeats
	}
	b.resent = false
	if b.wary == 0 {
		return b.e.timing.HeartbeatInterval
	}
	b.wary--
	return b.e.timing.HeartbeatInterval / 2
}

// waryBeats is how many beats come early after one that was lost.
const waryBeats = 16

// answeredAfter takes how long an answer took.
func (b *beater) answeredAfter(d time.Duration) {
	if b.trip == 0 {
		b.trip = d
	}
	b.trip = max(b.trip+(d-b.trip)/8, 1)
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
